"""Evenly spaced submissions, whatever the answers take: an open loop.

Speaks HTTP/1.1 by hand over kept connections: a full client costs more processor time a request
than the API it would measure.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.client import JobFailed

CONNECTIONS = 16
WARM_UP = 2 * CONNECTIONS


@dataclass
class Connection:
    """One kept connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def renew(self, host: str) -> None:
        """Connect anew, after a broken answer. raises OSError"""
        self.writer.close()
        self.reader, self.writer = await open_connection(host)

    async def ask(
        self, method: str, path: str, host: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Send a call, with JSON if it has a body; returns status and body of the answer.

        raises OSError, EOFError if the connection breaks, ValueError for an answer without length
        """
        if self.reader.at_eof():  # the server closes connections that rest too long
            await self.renew(host)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("ascii") + (body or b""))
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answer.partition("content-length:")[2].split("\r\n", 1)[0])
        return int(answer.split(" ", 2)[1]), await self.reader.readexactly(length)


async def submit_steadily(url: str, prompt: str, rate: int, duration_s: float) -> list[float]:
    """Seconds from the planned moment of each submission to its answer.

    rate    submissions a second; one that finds no free connection waits, and its clock runs
    raises  JobFailed if any submission is refused
    """
    loop = asyncio.get_running_loop()
    async with connections(url) as free:
        for index in range(WARM_UP):
            await submit(url, free, loop.time(), prompt, index)
        start = loop.time() + 0.1
        planned = [start + index / rate for index in range(int(rate * duration_s))]
        sends = (submit(url, free, at, prompt, seed) for seed, at in enumerate(planned))
        return list(await asyncio.gather(*sends))


async def submit(
    url: str, free: asyncio.Queue[Connection], planned: float, prompt: str, seed: int
) -> float:
    """One submission at its moment on the loop's clock; returns seconds until its answer."""
    loop = asyncio.get_running_loop()
    body = json.dumps({"prompt": prompt, "seed": seed}).encode("utf-8")
    await asyncio.sleep(planned - loop.time())
    connection = await free.get()
    status, answer = await connection.ask("POST", "/v1/videos", urlsplit(url).netloc, body)
    waited_s = loop.time() - planned
    free.put_nowait(connection)
    if status != 200:
        raise JobFailed(f"a submission was refused: {status} {answer[:200]!r}")
    return waited_s


@contextlib.asynccontextmanager
async def connections(url: str) -> AsyncIterator[asyncio.Queue[Connection]]:
    """Open connections to the service, free for use; closed when the block ends."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    host = urlsplit(url).netloc
    opened = [Connection(*await open_connection(host)) for _ in range(CONNECTIONS)]
    for connection in opened:
        free.put_nowait(connection)
    try:
        yield free
    finally:
        for connection in opened:
            connection.writer.close()
        for connection in opened:
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()


async def open_connection(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a `host:port`. raises OSError"""
    parts = urlsplit(f"//{host}")
    return await asyncio.open_connection(parts.hostname, parts.port)
