"""The HTTP server, which leaves in order: it says that it is not ready, serves on for a while, ends
the event streams, and stops.
"""

import socket
import time
from types import FrameType

import uvicorn
from starlette.concurrency import run_in_threadpool

from service.deps import Services


class LeavingServer(uvicorn.Server):
    """uvicorn's server with a drain before its own graceful stop. A second signal skips it."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._first: tuple[int, float] | None = None  # stop signal, and when it is obeyed

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain, or end it."""
        if self._first is None:
            self._services.draining.set()
            self._first = sig, time.monotonic() + self._services.settings.api_drain_s
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; true ends serving."""
        if self._first is not None and not self.should_exit:
            number, leave_at = self._first
            if time.monotonic() >= leave_at:
                super().handle_exit(number, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, which would not end by themselves, then stop as uvicorn does."""
        await run_in_threadpool(self._services.hub.close)
        await super().shutdown(sockets)
