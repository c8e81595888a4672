"""TLS in front of a queue server on a Unix socket, as a proxy of a managed one has it."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BLOCK = 1 << 16


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(OSError, ssl.SSLError):
            while data := await reader.read(BLOCK):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


@contextmanager
def tunnel(address: Path, certificate: Path, ca_file: Path | None = None) -> Iterator[int]:
    """Serve on a port of loopback, which is yielded, until the block ends.

    address      socket of the server behind
    certificate  of the tunnel, with its key
    ca_file      clients must show a certificate of this authority; None: nobody must
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            behind = await asyncio.open_unix_connection(str(address))
            await asyncio.gather(pump(reader, behind[1]), pump(behind[0], writer))

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    loop.set_exception_handler(lambda *_: None)  # of callers that the handshake refused
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.05)  # the transports close
