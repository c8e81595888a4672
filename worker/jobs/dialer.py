"""Connections to exactly the addresses that were allowed, each within one deadline.

It plugs into httpcore, which speaks HTTP and TLS over them under the name that was asked for.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Thread

import httpcore

Option = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class OutboundError(Exception):
    """Base of every failure to reach another server; its sentence is safe to show."""


class Refused(OutboundError):
    """The URL, or an address that its name stands for, may not be contacted."""


class TooLarge(OutboundError):
    """The answer holds more bytes than allowed."""


class Unreachable(OutboundError):
    """No usable answer: no connection, not in time, bad certificate, wrong status."""


class Dialer(httpcore.NetworkBackend):
    """Connects to addresses that were checked, whatever the name stands for a moment later.

    resolve   deadline to the numeric addresses that may be dialled; may raise OutboundError
    deadline  on the monotonic clock; every operation of the connection ends by it
    """

    def __init__(self, resolve: Callable[[float], list[str]], deadline: float) -> None:
        self._resolve = resolve
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Option] | None = None,
    ) -> httpcore.NetworkStream:
        until = time.monotonic() + _left(self._deadline, timeout)
        failure: Exception = httpcore.ConnectError("no address")
        for address in self._resolve(until):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, _left(until, timeout), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            return _Timed(stream, self._deadline)
        raise failure


class _Timed(httpcore.NetworkStream):
    """A stream whose every operation ends by the deadline of the whole call."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, timeout)
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.TimeoutException
    return left if timeout is None else min(left, timeout)


def look_up(host: str, port: int, timeout_s: float) -> list[str]:
    """Numeric addresses of a host. The system's resolver knows no timeout: it gets a thread."""
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError) as error:
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=max(timeout_s, 0.0))
    except Empty:
        answer = socket.gaierror(socket.EAI_AGAIN, "timeout")
    if isinstance(answer, list):
        return answer
    if isinstance(answer, socket.gaierror) and answer.errno == socket.EAI_AGAIN:
        raise Unreachable(f"the host {host!r} cannot be resolved at the moment") from answer
    raise Refused(f"the host {host!r} is unknown") from answer
