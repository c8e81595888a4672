"""An S3 server in a process of its own, and a wire to it that can be cut."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

START_S = 60.0
CHUNK_BYTES = 1 << 16


class Bucket:
    """A real S3 server on loopback with one bucket. Credentials are taken, not checked."""

    name = "films"

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        # Without any credentials the server takes a caller for the public and refuses.
        owner = "AWS4-HMAC-SHA256 Credential=OWNER/20260101/us-east-1/s3/aws4_request"
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": owner},
            trust_env=False,
            timeout=30,
            verify=False,
        )

    def start(self) -> None:
        """Start an empty server and make the bucket."""
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{self.port}'])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while True:
            with suppress(httpx.TransportError):
                self.make()
                return
            assert time.monotonic() < deadline, "the S3 server did not start"
            assert self._process.poll() is None, "the S3 server ended"
            time.sleep(0.05)

    def make(self) -> None:
        """Make the bucket."""
        self._http.put(f"/{self.name}").raise_for_status()

    def clear(self) -> None:
        """Delete every blob."""
        for key in self.keys():
            self._http.delete(f"/{self.name}/{key}").raise_for_status()

    def stop(self) -> None:
        """End the server; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None
        self._http.close()

    def keys(self) -> list[str]:
        """Every key in the bucket, asked of the server itself."""
        listing = self._http.get(f"/{self.name}", params={"list-type": "2"})
        text = listing.raise_for_status().text
        return [part.split("</Key>")[0] for part in text.split("<Key>")[1:]]


class Wire:
    """A TCP proxy: passes bytes on, remembers what clients sent, and can be cut.

    While it is cut, connections are refused by a reset, and those that were open are broken off.
    `freeze` and `stall` leave them open and bring nothing any more, as a broken router does.
    """

    def __init__(self, onward: int | Path) -> None:
        """onward: a port of loopback, or a Unix socket"""
        self._onward = onward
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.sent = bytearray()  # by clients, all connections
        self._cut = False
        self._cut_after: int | None = None
        self._open: set[socket.socket] = set()
        self._silent: set[socket.socket] = set()
        self._stalled = False
        self._lock = threading.Lock()
        self.refused = 0  # connections while cut
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and every new one, until mended."""
        with self._lock:
            self._cut = True
            for side in self._open:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Nothing more passes through the connections that are open; new ones work."""
        with self._lock:
            self._silent |= self._open

    def stall(self) -> None:
        """Nothing passes through any connection, until mended; what was sent meanwhile is lost."""
        self._stalled = True
        self.freeze()

    def cut_after(self, size: int) -> None:
        """Cut once clients have sent so many bytes more."""
        self._cut_after = len(self.sent) + size

    def mend(self) -> None:
        """Pass everything on again, and forget what was."""
        self._cut, self._cut_after, self.refused = False, None, 0
        self._stalled = False
        with self._lock:  # those that fell silent are broken off, so that nobody waits for them
            for side in self._silent:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
        self.sent.clear()

    def close(self) -> None:
        """Cut for good."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                self.refused += 1
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = self._connect()
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
            self._silent |= {client, server} if self._stalled else set()
        back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
        back.start()
        self._pass(client, server, True)
        back.join()
        with self._lock:
            self._open -= {client, server}
            self._silent -= {client, server}
        client.close()
        server.close()

    def _connect(self) -> socket.socket:
        if isinstance(self._onward, int):
            return socket.create_connection(("127.0.0.1", self._onward), 10)
        behind = socket.socket(socket.AF_UNIX)
        behind.connect(str(self._onward))
        return behind

    def _pass(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                if outward:
                    self.sent += chunk
                    if self._cut_after is not None and len(self.sent) >= self._cut_after:
                        self.cut()
                if source not in self._silent:
                    target.sendall(chunk)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextmanager
def wired(onward: int | Path) -> Iterator[Wire]:
    """A wire to a port or a Unix socket, cut at the end."""
    wire = Wire(onward)
    try:
        yield wire
    finally:
        wire.close()
