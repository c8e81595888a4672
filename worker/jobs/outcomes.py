"""What callers hand to the job store and what it hands back, with the errors it raises.

StoreError
├── QueueFull            too many jobs wait, or the queue server is out of memory
├── TenantFull           the tenant has too many jobs queued or running, or queued
├── IdempotencyConflict  the key was used for another request
├── IdempotencyBusy      the call that first used the key is not over yet
├── CallerRefused        no API key, or one that is unknown or revoked
├── RateLimited          the tenant has made too many requests
├── KeyTaken             an API key of this name was made before
├── KeyNotFound          there is no API key of this name
└── JobNotFound          unknown, deleted, expired, or another tenant's
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from worker.jobs.contract import Checkpoint, Job, JobResult, Record, Tier, VideoRequest
from worker.jobs.costs import Sample

TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


class StoreError(Exception):
    """Base of every refusal by the job store."""


class QueueFull(StoreError):
    """No more jobs may wait for this model; `limit` is None if memory ran out instead."""

    def __init__(self, limit: int | None) -> None:
        reason = "the queue server is out of memory" if limit is None else f"{limit} jobs wait"
        super().__init__(f"the queue is full: {reason}")
        self.limit = limit


class TenantFull(StoreError):
    """The tenant already has `limit` jobs queued or running, or just `queued` for one model."""

    def __init__(self, limit: int, *, queued: bool = False) -> None:
        what = "wait for this model" if queued else "are queued or running"
        super().__init__(f"{limit} jobs of this tenant {what}, the most allowed")
        self.limit = limit


class IdempotencyConflict(StoreError):
    """The idempotency key was used within 24 h for a different request."""

    def __init__(self) -> None:
        super().__init__("the idempotency key was already used for a different request")


class IdempotencyBusy(StoreError):
    """The first call with this idempotency key is still making what it asked for."""

    def __init__(self) -> None:
        super().__init__("the first call with this idempotency key is not over yet")


class CallerRefused(StoreError):
    """No API key was shown, or one that is unknown or revoked."""

    def __init__(self) -> None:
        super().__init__("the API key is missing, unknown or revoked")


@dataclass(frozen=True)
class Quota:
    """How many requests a tenant may make."""

    limit: int  # per minute
    remaining: int
    full_in_s: float  # until all of them are back
    wait_s: float = 0.0  # until the next one is, if none remains


class RateLimited(StoreError):
    """The tenant has used its quota of requests up."""

    def __init__(self, quota: Quota) -> None:
        super().__init__(f"{quota.limit} requests a minute are allowed")
        self.quota = quota


class KeyTaken(StoreError):
    """An API key of this name was made before, and may be revoked by now."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name!r} was used for a key before; choose another")


class KeyNotFound(StoreError):
    """There is no API key of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no API key is called {name!r}")


class JobNotFound(StoreError):
    """No such job for this tenant."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}")
        self.job_id = job_id


@dataclass(frozen=True)
class Made:
    """A copy of what an earlier job made, under the keys of the job that it is for."""

    by: str  # the earlier job
    token: str  # that the keys hold in place of an attempt's
    result: JobResult


@dataclass(frozen=True)
class Mark:
    """What a request is recognised by when it comes again.

    fingerprint           hash of the request as the client meant it: before random defaults
    idempotency_key       path, NUL, and the client's key; at most one job within 24 h
    retry_of_fingerprint  the client says that it repeats a request: the same fingerprint within
                          15 minutes is the same job
    """

    tenant: str
    fingerprint: str
    idempotency_key: str | None = None
    retry_of_fingerprint: bool = False


@dataclass(frozen=True, kw_only=True)
class Submission(Mark):
    """A request on its way in.

    job_id  made beforehand, if inputs were stored under it
    raises  ValueError if the tenant's name is not a safe one
    """

    request: VideoRequest
    job_timeout_s: float | None = None  # None: from the settings
    queue_deadline_s: float | None = None  # None: from the settings
    callback_url: str | None = None  # called when the job has ended; checked by the web side
    tier: Tier = Tier.DEFAULT  # who may use which is the web side's to decide
    gpu_class: str = ""  # of the workers that may make it, one of the settings'; "": any
    cost_s: float | None = None  # how long it will probably run; None: nobody knows
    warnings: tuple[str, ...] = ()  # what was ignored of the request, for its owner
    job_id: str | None = None
    share: str = ""  # digest of the film to be: equal ones of a tenant are made once; "": alone
    made: Made | None = None  # by an earlier job: nothing is to be done. Needs `job_id`
    traceparent: str = ""  # of the call, for the spans of whoever works on it

    def __post_init__(self) -> None:
        if not TENANT.fullmatch(self.tenant):
            raise ValueError(f"tenant {self.tenant!r} does not match {TENANT.pattern}")


@dataclass(frozen=True)
class Admission:
    """The job a submission stands for; `replayed` if an earlier submission made it."""

    job: Job
    replayed: bool


@dataclass(frozen=True)
class Claim:
    """An attempt granted, or why not: one of missing, terminal, cancelled, expired, running, lost.

    With `job` None the row is as it should be; only the queue entry is left to clean up.
    """

    job: Job | None
    attempt: int
    refused: str | None
    timeout_s: float  # how long this attempt may run
    checkpoint: Checkpoint | None = None  # what earlier attempts have made


@dataclass(frozen=True)
class Page:
    """A slice of a tenant's jobs."""

    jobs: tuple[Job, ...]
    has_more: bool


class CancelOutcome(StrEnum):
    """What a cancellation did."""

    ENDED = "ended"  # it was queued and never runs
    FLAGGED = "flagged"  # it is running and will stop at its next step
    ALREADY_CANCELLED = "already_cancelled"
    TERMINAL = "terminal"  # it had ended otherwise


class Serving(Record):
    """What a worker says about one of its models."""

    model: str
    loaded: bool = False  # right now; if not, its next job begins by loading it
    broken: bool = False  # it did not load: for a while this worker takes no job of it
    weights_sha256: str = ""  # when it was last loaded here; "": it never was
    seconds_per_step: float | None = None
    load_s: float | None = None  # likewise
    memory_mb: float | None = None  # a job's peak may reach this; None: not known
    peak_mb: float = 0.0  # the largest peak among the shapes it remembers; 0: not known
    samples: tuple[Sample, ...] = ()  # what clips took here, by shape


class WorkerInfo(Record):
    """What a worker says about itself every few seconds."""

    name: str
    model: str  # whose job it makes, or made last; before the first one, the first it loads
    state: str  # starting, idle, busy, resting or draining
    pid: int
    gpu_class: str = ""  # "": it only takes jobs that are meant for any
    job_id: str | None = None
    loads: int = 0  # times a model was loaded
    serving: tuple[Serving, ...]  # its models

    @property
    def models(self) -> tuple[str, ...]:
        """Those whose jobs it takes."""
        return tuple(each.model for each in self.serving if not each.broken)

    def of(self, model: str) -> Serving | None:
        """What it says about a model; None if it takes no jobs of it."""
        found = (each for each in self.serving if each.model == model and not each.broken)
        return next(found, None)
