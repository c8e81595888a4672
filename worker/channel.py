"""Framed JSON over the socketpair between supervisor and child: one UTF-8 object a line.

Either end may be killed at any byte, so a torn last line counts as a closed channel, never as a
message. This module does not know what the messages mean.
"""

import select
import socket
import threading
import time
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from worker.messages import MAX_MESSAGE_BYTES, Message

In = TypeVar("In")

READ_BYTES = 65536


class ChannelClosed(Exception):
    """The other end is gone or takes no bytes; nothing more will come."""


class ChannelGarbled(Exception):
    """The other end sent a line that is too long or outside the vocabulary."""


class Channel(Generic[In]):
    """One end of the socketpair. `send` is thread-safe; only one thread may `receive`."""

    def __init__(
        self,
        sock: socket.socket,
        incoming: TypeAdapter[In],
        send_timeout_s: float | None = None,
    ) -> None:
        self._socket = sock
        self._incoming = incoming
        self._sending = threading.Lock()
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        sock.settimeout(send_timeout_s)

    def send(self, message: Message) -> None:
        """Send one message whole.

        raises ChannelClosed if the other end is gone or took no bytes for the send timeout
        raises ValueError    if the message is longer than a line may be
        """
        line = message.model_dump_json().encode() + b"\n"
        if len(line) > MAX_MESSAGE_BYTES:
            raise ValueError(f"message of {len(line)} bytes, the limit is {MAX_MESSAGE_BYTES}")
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> In | None:
        """The next message, or None when the time is up; None as limit waits for ever.

        raises ChannelClosed on the other end's exit, ChannelGarbled on a line that is no message
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                return self._take(end)
            if len(self._buffer) > MAX_MESSAGE_BYTES:
                raise ChannelGarbled(f"a line passed {MAX_MESSAGE_BYTES} bytes")
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._poll.poll(None if left_s is None else left_s * 1000):
                return None
            self._fill()

    def close(self) -> None:
        """Close this end; the other one reads end of file."""
        self._socket.close()

    def _take(self, end: int) -> In:
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            return self._incoming.validate_json(line)
        except ValidationError as error:
            # Locations only: the values may hold a prompt.
            places = [".".join(map(str, item["loc"])) for item in error.errors()]
            raise ChannelGarbled(f"not a message: {places}") from None

    def _fill(self) -> None:
        try:
            chunk = self._socket.recv(READ_BYTES)
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not chunk:
            raise ChannelClosed("end of file")
        self._buffer += chunk
