"""Waiting out an outage of the queue server: what is finished must not be lost."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from redis import exceptions

log = structlog.get_logger()

Value = TypeVar("Value")

# Gone, starting up, out of memory, just demoted or taking no writes for now: all of it may pass.
OUTAGES: tuple[type[Exception], ...] = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ExecAbortError,  # what was queued was taken, and is refused all the same
)

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0


def persist(
    action: Callable[[], Value],
    what: str,
    patience_s: float,
    give_up: Callable[[], bool] = lambda: False,
) -> Value:
    """Call `action`, which must be safe to repeat, until it gets through.

    what     names the action in logs
    give_up  asked before each further try; true ends the waiting
    raises   the last outage once the patience is spent; anything else at once
    """
    deadline = time.monotonic() + patience_s
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return action()
        except OUTAGES as error:
            if give_up() or time.monotonic() + wait_s > deadline:
                raise
            log.warning("queue.unreachable", action=what, error=type(error).__name__, wait_s=wait_s)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
