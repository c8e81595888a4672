"""What becomes of a job after an attempt: publish, give back, or keep quiet."""

from enum import StrEnum

from worker.attempt import Outcome, Verdict
from worker.jobs.contract import ErrorCode, Job, JobError
from worker.jobs.store import JobStore

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
        counts = outcome.verdict not in (Verdict.DRAINED, Verdict.UNBEGUN)
        ending = Ending.REQUEUED
        owned = store.requeue(job.id, token, back_reason(outcome), counts=counts)
    else:
        ending = Ending.FAILED
        owned = store.fail(job.id, token, read_error(outcome, timeout_s))
    return ending if owned else Ending.FENCED


def goes_back(job: Job, outcome: Outcome) -> bool:
    """Whether the job is given back. Only infrastructure faults are: a wrong request or a job
    that is too large would fail again. The store ends a crashed job that has no retry left; a
    fault with a better explanation than "lost" keeps it."""
    if outcome.verdict in (Verdict.CRASHED, Verdict.UNBEGUN, Verdict.DRAINED):
        return True
    return outcome.verdict is Verdict.FAILED and outcome.retryable and job.retries_left > 0


def back_reason(outcome: Outcome) -> str:
    """Why, for the job's history: safe to show to its owner."""
    if outcome.verdict is Verdict.DRAINED:
        return "the worker was stopped"
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
