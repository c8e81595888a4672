"""Leaving in order: the stop signals, and how long a running job may still take."""

import signal
import time
from collections.abc import Callable
from types import FrameType

SECOND_SIGNAL_S = 1.0  # a terminal and a parent both pass one Ctrl+C on


class Drain:
    """Counts SIGTERM and SIGINT. The first begins the drain, a second one ends it."""

    def __init__(self, budget_s: float, on_hurry: Callable[[], None]) -> None:
        self._budget_s = budget_s
        self._on_hurry = on_hurry
        self._count = 0
        self._since = 0.0

    def listen(self) -> None:
        """Take the signals over; main thread only."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    @property
    def begun(self) -> bool:
        """Whether the worker was told to leave."""
        return self._count > 0

    def must_leave(self, eta_s: float | None) -> bool:
        """Whether a job that takes that long, or nobody knows how long, is too long."""
        if not self.begun:
            return False
        left_s = self._budget_s - (time.monotonic() - self._since)
        return eta_s is None or eta_s > left_s

    def over(self) -> bool:
        """Whether not even a finished result can wait any longer."""
        return self._count > 1 or self.must_leave(0.0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.begun:
            self._count, self._since = 1, now
        elif now - self._since > SECOND_SIGNAL_S:
            self._count += 1
            self._on_hurry()
