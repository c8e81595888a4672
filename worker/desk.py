"""What a running attempt asks of the queue server, by an impatient client.

An outage answers nothing here: the child goes on computing, and only publishing waits.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from worker.clock import Clock
from worker.jobs.contract import Checkpoint, Job, Progress
from worker.jobs.store import JobStore
from worker.patience import OUTAGES

log = structlog.get_logger()

Value = TypeVar("Value")

REST_S = 1.0  # after an outage was noticed; the lease is tried regardless


class QueueDesk:
    """The `Desk` of one attempt."""

    def __init__(
        self,
        store: JobStore,
        job: Job,
        token: str,
        worker_class: str,
        models: Sequence[str],
        renew: Callable[[], bool],
        must_leave: Callable[[float | None], bool],
        follow: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._job = job
        self._job_id = job.id
        self._token = token
        self._worker_class = worker_class
        self._models = models
        self._renew = renew
        self._must_leave = must_leave
        self._follow = follow
        self._rest: Clock | None = None

    def report(self, progress: Progress) -> bool:
        """Write the progress; false if the job belongs to another attempt."""
        self._follow(progress)
        if self._resting():
            return True
        return self._ask(lambda: self._store.report(self._job_id, self._token, progress), True)

    def keep(self, checkpoint: Checkpoint) -> bool | None:
        """Let the next attempt go on from here; None if the queue server is away."""
        if self._resting():
            return None
        return self._ask(
            lambda: self._store.checkpoint(self._job_id, self._token, checkpoint), None
        )

    def renew(self) -> bool:
        """Renew the lease; false if it is lost."""
        return self._ask(self._renew, True)

    def cancel_requested(self) -> bool:
        """Whether the owner wants the job stopped."""
        if self._resting():
            return False
        return self._ask(lambda: self._store.cancel_requested(self._job_id), False)

    def outranked(self) -> bool:
        """Whether a job of a higher tier waits for this one's worker."""
        if self._resting():
            return False
        asked = (self._job, self._token, self._worker_class, self._models)
        return self._ask(lambda: self._store.outranked(*asked), False)

    def must_leave(self, eta_s: float | None) -> bool:
        """Whether the worker drains and cannot wait that long."""
        return self._must_leave(eta_s)

    def _resting(self) -> bool:
        if self._rest is not None and self._rest.due():
            self._rest = None
        return self._rest is not None

    def _ask(self, question: Callable[[], Value], in_doubt: Value) -> Value:
        try:
            return question()
        except OUTAGES as error:
            facts = {"job_id": self._job_id, "tenant": self._job.tenant}
            log.warning("queue.unreachable", error=type(error).__name__, **facts)
            self._rest = Clock(REST_S)
            return in_doubt
