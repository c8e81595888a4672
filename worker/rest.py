"""A worker whose disk is full rests, so that it does not fail job after job that others could make.

It rests longer after every job in a row that found no room, and until a file can be written again.
"""

import tempfile
import time
from pathlib import Path

import structlog

log = structlog.get_logger()

FIRST_S = 1.0
LONGEST_S = 30.0
DOUBLINGS = 10
PROBE_BYTES = 1 << 20


class Rest:
    """When a worker may take its next job. It is awake until a job finds the disk full."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # on the disk that matters; made if it is not there
        self._full = 0  # jobs in a row that found no room
        self._until: float | None = None

    def begin(self) -> None:
        """A job found the disk full."""
        self._full += 1
        self._sleep()

    def went_well(self) -> None:
        """A job found room: the next rest is a short one again."""
        self._full = 0

    def over(self) -> bool:
        """Whether jobs may be taken. Writes a file to find out, at the end of a rest only."""
        if self._until is None:
            return True
        if time.monotonic() < self._until:
            return False
        if not takes_a_file(self._folder):
            self._sleep()
            return False
        self._until = None
        return True

    def _sleep(self) -> None:
        seconds = min(LONGEST_S, FIRST_S * 2.0 ** min(max(0, self._full - 1), DOUBLINGS))
        self._until = time.monotonic() + seconds
        log.warning("disk.full", jobs=self._full, rest_s=seconds)


def takes_a_file(folder: Path) -> bool:
    """Whether a file of a mebibyte can be written here. It is gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            left = PROBE_BYTES
            while left:
                left -= probe.write(bytes(left))
    except OSError:
        return False
    return True
