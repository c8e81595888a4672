"""Time as the supervisor reckons with it: what is due."""

import time


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
