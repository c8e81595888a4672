"""What becomes of a job after an attempt: publish, give back, or keep quiet."""

import time
from enum import StrEnum

from worker.attempt import Outcome, Verdict
from worker.jobs.contract import ErrorCode, Job, JobError
from worker.jobs.store import JobStore

# So long a finished film is given back for nothing; then storing it uses up retries, and ends.
UNSTORED_FREE_S = 24 * 3600.0
# And so long a job that meets full disks.
ROOMLESS_FREE_S = 3600.0

CANCELLED = JobError(code=ErrorCode.CANCELLED, message="The job was cancelled.")


class Ending(StrEnum):
    """What was written to the row."""

    COMPLETED = "completed"
    FAILED = "failed"
    REQUEUED = "requeued"  # waits again, or ended if it was cancelled or had no retry left
    FENCED = "fenced"  # nothing: the job belongs to another attempt


def end_attempt(
    store: JobStore, job: Job, token: str, outcome: Outcome, timeout_s: float
) -> Ending:
    """Write the outcome to the row, while the attempt still owns it. Safe to repeat."""
    if outcome.verdict is Verdict.FENCED:
        return Ending.FENCED
    if outcome.result is not None:
        ending, owned = Ending.COMPLETED, store.complete(job.id, token, outcome.result)
    elif goes_back(job, outcome):
        ending, counts = Ending.REQUEUED, costs_retry(job, outcome)
        if outcome.checkpoint is not None:
            store.checkpoint(job.id, token, outcome.checkpoint)
        owned = store.requeue(job.id, token, back_reason(outcome), counts=counts)
    else:
        ending = Ending.FAILED
        owned = store.fail(job.id, token, read_error(outcome, timeout_s))
    return ending if owned else Ending.FENCED


FREE = frozenset(
    {
        Verdict.UNBEGUN,
        Verdict.BROKEN_OFF,
        Verdict.CROWDED,
        Verdict.DRAINED,
        Verdict.OUTRANKED,
    }
)
BACK = FREE | {Verdict.CRASHED, Verdict.SILENT, Verdict.UNSTORED}
FREE_S = {Verdict.UNSTORED: UNSTORED_FREE_S, Verdict.ROOMLESS: ROOMLESS_FREE_S}


def goes_back(job: Job, outcome: Outcome) -> bool:
    """Whether the job is given back. Only infrastructure faults are: a wrong request or a job
    that is too large would fail again. The store ends a crashed job that has no retry left; a
    fault with a better explanation than "lost" keeps it."""
    if outcome.verdict in BACK or not costs_retry(job, outcome):
        return True
    return outcome.retryable and job.retries_left > 0


def costs_retry(job: Job, outcome: Outcome) -> bool:
    """Whether giving back uses up a retry: not for what was no fault of the job's."""
    free_s = FREE_S.get(outcome.verdict)
    if free_s is not None:
        return job.started_at is not None and time.time() - job.started_at > free_s
    return outcome.verdict not in FREE


def back_reason(outcome: Outcome) -> str:
    """Why, for the job's history: safe to show to its owner."""
    if outcome.verdict is Verdict.DRAINED:
        return "the worker was stopped"
    if outcome.verdict is Verdict.SILENT:
        return "the inference process fell silent"
    if outcome.verdict is Verdict.OUTRANKED:
        return "a job of a higher tier took the worker"
    if outcome.verdict is Verdict.UNSTORED and outcome.error is None:
        return "the finished clip could not be stored in time"
    return outcome.error.message if outcome.error else outcome.reason


def read_error(outcome: Outcome, timeout_s: float) -> JobError:
    """What the owner reads about an attempt that ended the job."""
    if outcome.verdict is Verdict.CANCELLED:
        return CANCELLED
    if outcome.verdict is Verdict.TIMED_OUT:
        return JobError(
            code=ErrorCode.TIMEOUT,
            message=f"The job ran longer than its limit of {timeout_s:g} s.",
        )
    assert outcome.error is not None
    return outcome.error
