"""Time as the supervisor reckons with it: what is due, and how long a job still takes."""

import time
from dataclasses import dataclass, field

from worker.jobs.contract import Stage


@dataclass
class Pace:
    """How fast the model is on this worker, learned across attempts."""

    seconds_per_step: float | None = None
    tail_s: float = 0.0  # from the last denoising step to the end
    _last_step: tuple[int, float] | None = field(default=None, repr=False)
    _denoised_at: float | None = field(default=None, repr=False)

    def note_step(self, index: int, total: int) -> None:
        """A denoising step is done."""
        now = time.monotonic()
        if self._last_step is not None and index > self._last_step[0]:
            seconds = (now - self._last_step[1]) / (index - self._last_step[0])
            known = self.seconds_per_step
            self.seconds_per_step = seconds if known is None else 0.8 * known + 0.2 * seconds
        self._last_step = (index, now)
        self._denoised_at = now if index >= total else None

    def note_end(self, completed: bool) -> None:
        """The attempt is over."""
        if completed and self._denoised_at is not None:
            self.tail_s = time.monotonic() - self._denoised_at
        self._last_step = self._denoised_at = None

    def eta_s(self, stage: Stage, index: int, total: int) -> float | None:
        """Seconds to the end, or None while unknown."""
        if stage is Stage.DENOISING and self.seconds_per_step is not None:
            return round((total - index) * self.seconds_per_step + self.tail_s, 2)
        if self._denoised_at is not None:
            return round(max(0.0, self.tail_s - (time.monotonic() - self._denoised_at)), 2)
        return None


class Clock:
    """Says when something that happens every so often is due."""

    def __init__(self, every_s: float, at_once: bool = False) -> None:
        self._every_s = every_s
        self._next = time.monotonic() + (0.0 if at_once else every_s)

    def due(self) -> bool:
        """Whether it is time again; asking with the answer yes starts the next round."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True
