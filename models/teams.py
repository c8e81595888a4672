"""The threads that a thread computes with, on a processor.

OpenMP keeps a team for every thread that ever computed, for as long as that thread lives. With more
of them in a process than there are processors, GNU's no longer waits awake for the next operation
(`gomp_throttled_spin_count_var`): in a network of many small ones whoever computes has to wake its
team for each, which more than halves the speed. So threads that compute in turns end theirs with
each turn. A new one costs a tenth of a millisecond.
"""

import ctypes
import functools
from collections.abc import Callable

SOFT = 1  # omp_pause_soft: settings stay, as OpenMP 5.0, section 3.2.44, says


def end_team() -> None:
    """Let the threads go that this thread has computed with, if it has any."""
    pause = _pause()
    if pause is not None:
        pause(SOFT)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """`omp_pause_resource_all` of the library that torch has loaded; none before OpenMP 5.0."""
    return getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)
