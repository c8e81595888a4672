"""The job store: every read and every change of a job, by atomic scripts on the queue server.

The row is the truth and the queue only transport. Whoever runs a job holds an attempt token,
`exec`; what a lost attempt says later is refused.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.jobs import keys, row, transport
from worker.jobs.contract import Checkpoint, Job, JobError, JobResult, Progress, Status, Tier
from worker.jobs.costs import Sample, Samples
from worker.jobs.events import EventLog
from worker.jobs.outcomes import (
    Admission,
    CancelOutcome,
    Claim,
    IdempotencyConflict,
    JobNotFound,
    Mark,
    Page,
    QueueFull,
    Submission,
    TenantFull,
    WorkerInfo,
)
from worker.jobs.roster import Roster
from worker.jobs.scripts import Scripts
from worker.jobs.settings import JobSettings
from worker.jobs.tally import Tally, count_load, read_tally

CHUNK = 100  # rows read at once while looking for more

MATE_AFTER_S = 0.5  # an idle worker would have taken a job long before, on its bell's ring
ROOM_AFTER_S = 1.0  # an idle worker would have taken a job long before
ROOM_EVERY_S = 10  # until one that made room has given its worker back, a checkpoint included
ROOM_TIMES = 2  # that one job makes room

Ids = list[str]
Jobs = list[Job]
Rows = list[tuple[str, dict[str, str]]]


class JobStore:
    """All jobs on one queue server. Safe to share between threads."""

    def __init__(self, redis: Redis, settings: JobSettings) -> None:
        self.redis = redis
        self.settings = settings
        self.events = EventLog(redis)
        self._roster = Roster(redis)
        self._scripts = Scripts(redis)

    # The web side

    def submit(self, submission: Submission) -> Admission:
        """Admit a job, or find the one that an earlier submission made.

        raises QueueFull, TenantFull, IdempotencyConflict
        """
        job_id = submission.job_id or f"video_{uuid4().hex}"
        try:
            outcome, found, cap = self._admit(job_id, submission)
        except OutOfMemoryError as error:
            raise QueueFull(None) from error
        if outcome == "conflict":
            raise IdempotencyConflict
        if outcome == "queue_full":
            raise QueueFull(cap)
        if outcome in ("tenant_full", "tenant_queue_full"):
            raise TenantFull(cap, queued=outcome == "tenant_queue_full")
        return Admission(self.get(found, submission.tenant), replayed=outcome == "replay")

    def recall(self, mark: Mark) -> Admission | None:
        """The job that an earlier submission made, if any: `submit` would find the same.

        raises IdempotencyConflict
        """
        if not (mark.idempotency_key or mark.retry_of_fingerprint):
            return None
        asked = (mark.fingerprint, _digest(mark.idempotency_key))
        retry = int(mark.retry_of_fingerprint)
        outcome, found = self._scripts.call("recall", mark.tenant, *asked, retry)
        if outcome == "conflict":
            raise IdempotencyConflict
        if outcome == "none":
            return None
        return Admission(self.get(found, mark.tenant), replayed=True)

    def get(self, job_id: str, tenant: str | None = None) -> Job:
        """Read one job; `tenant` None reads anyone's. raises JobNotFound"""
        found = self._jobs([job_id], tenant)
        if not found:
            raise JobNotFound(job_id)
        return found[0]

    def list(
        self,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        descending: bool,
        status: Status | None = None,
        model: str | None = None,
        task_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page:
        """A tenant's jobs by creation time, after a known one; it may be deleted meanwhile.

        metadata  pairs that a job must have, among others

        raises JobNotFound if `after` is not a job of the tenant
        """

        fields = {"state": status, "model": model, "task_type": task_type}
        asked = {name: value for name, value in fields.items() if value is not None}

        def wanted(found: row.Row) -> bool:
            return row.has_fields(found, asked) and row.has_metadata(found, metadata or {})

        # Without a filter, one more than the page tells whether there is another.
        count = CHUNK if asked or metadata else min(limit + 1, CHUNK)
        ids = self._ids(tenant, after, count, descending)
        if ids is None:
            raise JobNotFound(after or "")
        jobs = self._jobs(ids, tenant, wanted=wanted)
        while ids and len(ids) == count and len(jobs) <= limit:
            count = CHUNK
            ids = self._ids(tenant, ids[-1], count, descending) or []
            jobs += self._jobs(ids, tenant, wanted=wanted)
        return Page(tuple(jobs[:limit]), has_more=len(jobs) > limit)

    def cancel(self, job_id: str, tenant: str) -> CancelOutcome:
        """Stop a job: at once if it waits, at its next step if it runs. raises JobNotFound"""
        return self._cancel(job_id, tenant, purge=False)

    def delete(self, job_id: str, tenant: str) -> None:
        """Cancel and forget a job; its files are the caller's to delete.

        raises JobNotFound, but not for a job deleted less than a day ago
        """
        self._cancel(job_id, tenant, purge=True)

    # The worker

    def claim(self, job_id: str, exec: str, worker: str, wip_key: str) -> Claim:
        """Start an attempt. Hold its lease first: an entry `{job}:{exec}` in `wip_key`."""
        outcome, attempt = self._scripts.call("claim", job_id, exec, worker, wip_key)
        if outcome != "granted":
            return Claim(None, int(attempt), outcome, timeout_s=0.0)
        fields = self._row(job_id)
        job, timeout_s = row.to_job(job_id, fields), float(fields["job_timeout"])
        return Claim(job, int(attempt), None, timeout_s, row.checkpoint(fields))

    def mates(self, job: Job, most: int, before: Sequence[str] | None = None) -> Ids:
        """Further jobs to be made in one batch with one that was just taken, at most so many;
        each is taken as if it had been dequeued. Those who are next, as long as they are alike.

        before  the names of the queues that the worker which took it serves before this one's;
                None: as one of its class and of its model alone does
        """
        queue = (job.request.model, job.tier, job.gpu_class)
        own = transport.intermediate_key(transport.queue_name(*queue))
        names = transport.queues_before(*queue) if before is None else before
        keys = map(transport.queue_key, names)
        asked = (uuid4().hex, job.id, most, MATE_AFTER_S, own)
        return cast(Ids, self._scripts.call("mates", *asked, *keys))

    def report(self, job_id: str, exec: str, progress: Progress) -> bool:
        """Write progress; False if the attempt no longer owns the job."""
        eta = "" if progress.eta_s is None else repr(progress.eta_s)
        place = (progress.stage, progress.step, progress.total, eta, row.percent(progress))
        shot = (progress.shot, repr(progress.shot_done))
        return bool(self._scripts.call("report", job_id, exec, *place, *shot) == "owned")

    def checkpoint(self, job_id: str, exec: str, checkpoint: Checkpoint) -> bool:
        """Let the next attempt go on from here; False if the attempt no longer owns the job."""
        written = checkpoint.model_dump_json()
        return bool(self._scripts.call("checkpoint", job_id, exec, written) == "owned")

    def outranked(
        self, job: Job, exec: str, worker_class: str = "", models: Sequence[str] = ()
    ) -> bool:
        """Whether the attempt shall write a checkpoint and make room: its job is of the lowest
        tier, and one of the highest has found no worker.

        worker_class  of the worker that runs it
        models        that this worker would make it of; none: the job's own
        """
        names = (
            transport.queue_name(model, Tier.PRIORITY, each)
            for model in models or (job.request.model,)
            for each in dict.fromkeys((worker_class, ""))
        )
        asked = (job.id, exec, Tier.FLEX, ROOM_AFTER_S, ROOM_EVERY_S, ROOM_TIMES)
        above = map(transport.queue_key, names)
        return bool(self._scripts.call("outrank", *asked, *above) == "yes")

    def complete(self, job_id: str, exec: str, result: JobResult) -> bool:
        """End the job with a result; False if the attempt no longer owns it: drop the files."""
        return self._publish(job_id, exec, Status.COMPLETED, "result", result.model_dump_json())

    def fail(self, job_id: str, exec: str, error: JobError) -> bool:
        """End the job with an error; False if the attempt no longer owns it."""
        return self._publish(job_id, exec, Status.FAILED, "error", error.model_dump_json())

    def requeue(self, job_id: str, exec: str, reason: str, *, counts: bool) -> bool:
        """Give the job back; False if the attempt no longer owns it.

        Ends it as cancelled if that was asked, and as `worker_lost` if `counts` and no retry is
        left. Else it waits again, and the id must go back into its queue: by RQ, or `rescue`.
        """
        return bool(self._scripts.call("requeue", job_id, exec, reason, int(counts)) == "ok")

    def cancel_requested(self, job_id: str) -> bool:
        """Whether the job is to stop."""
        return self.redis.hget(keys.job(job_id), "cancel") == b"1"

    # The janitor

    def reap(self, job_id: str, exec: str | None, wip_key: str) -> str:
        """Take a running job from an attempt without lease: requeue, ended or stale."""
        return str(self._scripts.call("reap", job_id, exec or "", wip_key))

    def rescue(self, job_id: str, queue: str) -> str:
        """Put a waiting job that is in no list back at the front: pushed or none.

        Call it for ids that left the list a while ago: between a dequeue and its lease a job
        looks lost, too.
        """
        lists = transport.intermediate_key(queue), transport.wip_key(queue)
        return str(self._scripts.call("rescue", job_id, *lists))

    def expire_overdue(self, grace_s: float = 60.0) -> dict[str, str]:
        """End every job past its queue deadline or, by `grace_s`, its time limit.

        returns what happened by id: expired or timeout
        """
        ended = {}
        for job_id in self.live_ids():
            entry = transport.entry_key(job_id)
            outcome = str(self._scripts.call("expire", job_id, grace_s, entry))
            if outcome in ("expired", "timeout"):
                ended[job_id] = outcome
        return ended

    def live_ids(self) -> set[str]:
        """The ids of all jobs that have not ended."""
        return {member.decode() for member in cast("set[bytes]", self.redis.smembers(keys.LIVE))}

    def depth(self, model: str | None = None) -> int:
        """How many jobs wait: for one model, or for all."""
        names = transport.queue_names(self.redis)
        if model is not None:
            names = list(self._queues(model))
        return sum(int(self.redis.llen(transport.queue_key(name))) for name in names)

    def running(self, model: str | None = None) -> int:
        """How many jobs are under a lease: of one model, or of all."""
        names = transport.queue_names(self.redis) if model is None else list(self._queues(model))
        return transport.count_leases(self.redis, names)

    # Workers

    def put_worker(self, worker: WorkerInfo, ttl_s: float) -> None:
        """Announce a worker for the next `ttl_s` seconds."""
        self._roster.put(worker, ttl_s)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers whose announcement still holds, by name."""
        return self._roster.read()

    def heard(self) -> dict[str, float]:
        """When each of these workers was last heard, in Unix seconds by its own clock."""
        return self._roster.heard()

    def learn(self, model: str, sample: Sample) -> None:
        """Remember what a finished clip took, for workers yet to come."""
        self._roster.learn(model, sample)

    def learned(self, model: str) -> Samples:
        """What clips of a model took on whichever workers."""
        return self._roster.learned(model)

    def count_load(self, model: str) -> None:
        """A worker has loaded a model."""
        count_load(self.redis, model)

    def oldest(self, model: str) -> float | None:
        """For how many seconds the first job that still waits for a model has waited since it was
        ordered; None if none waits."""
        lists = map(transport.queue_key, self._queues(model))
        found = self._scripts.call("oldest", *lists)
        return None if found == "" else float(found)

    def tally(self) -> Tally:
        """How jobs ended and how long they took, over all processes."""
        return read_tally(self.redis)

    # Forecast

    def waiting(self, model: str, tier: Tier | None = None) -> Ids:
        """The ids that wait for a model, or of these one tier's, next one first."""
        lists = map(transport.queue_key, self._queues(model, tier))
        return cast(Ids, self._scripts.call("order", *lists))

    def upsets(self, model: str) -> int:
        """How often a job of a model was cancelled, failed or given back: a count that only
        grows, and with it what was forecast is out of date."""
        return int(cast("bytes | None", self.redis.hget(keys.UPSETS, model)) or 0)

    def peek(self, job_ids: Iterable[str]) -> Jobs:
        """Those of these jobs that exist, without their place in the queue."""
        return self._jobs([*job_ids], None, placed=False)

    # Inner steps

    def _queues(self, model: str, tier: Tier | None = None) -> Sequence[str]:
        tiers = Tier if tier is None else (tier,)
        return transport.model_queues(model, self.settings.gpu_classes, tiers)

    def _admit(self, job_id: str, submission: Submission) -> tuple[str, str, int]:
        model, gpu_class = submission.request.model, submission.gpu_class
        if gpu_class and gpu_class not in self.settings.gpu_classes:
            raise ValueError(f"gpu_class {gpu_class!r} is none of {self.settings.gpu_classes}")
        queue = transport.queue_name(model, submission.tier, gpu_class)
        lists = list(map(transport.queue_key, self._queues(model)))
        timeout_s = submission.job_timeout_s or self.settings.job_timeout_s
        fields = row.new_row(submission, transport.queue_key(queue), self.settings)
        flat = [item for pair in fields.items() for item in pair]
        entry = transport.entry_fields(
            self.redis, job_id, queue, retries=self.settings.max_attempts - 1, timeout_s=timeout_s
        )
        outcome, found, *cap = self._scripts.call(
            "admit",
            job_id,
            submission.tenant,
            submission.fingerprint,
            _digest(submission.idempotency_key),
            int(submission.retry_of_fingerprint),
            self.settings.max_queue_depth,
            self.settings.max_active_per_tenant,
            self.settings.max_queued_per_tenant,
            len(lists),
            *lists,
            transport.QUEUES,
            transport.entry_key(job_id),
            len(flat),
            *flat,
            *entry,
        )
        return outcome, found, cap[0] if cap else 0

    def _cancel(self, job_id: str, tenant: str, *, purge: bool) -> CancelOutcome:
        entry = transport.entry_key(job_id)
        outcome = self._scripts.call("cancel", job_id, tenant, int(purge), entry)
        if outcome == "missing":
            raise JobNotFound(job_id)
        if outcome == CancelOutcome.FLAGGED:
            # The flag is durable and the worker reads it every second: this only saves the second.
            with suppress(RedisConnectionError, RedisTimeoutError):
                transport.send_stop(self.redis, job_id)
        return CancelOutcome(outcome)

    def _publish(self, job_id: str, exec: str, status: Status, field: str, payload: str) -> bool:
        return bool(self._scripts.call("publish", job_id, exec, status, field, payload) == "ok")

    def _row(self, job_id: str) -> dict[str, str]:
        return row.decode(cast("dict[bytes, bytes]", self.redis.hgetall(keys.job(job_id))))

    def _ids(self, tenant: str, after: str | None, count: int, descending: bool) -> Ids | None:
        found = self._scripts.call("page", tenant, after or "", count, int(descending))
        return cast("Ids | None", found)

    def _jobs(
        self,
        ids: Ids,
        tenant: str | None,
        *,
        placed: bool = True,
        wanted: Callable[[row.Row], bool] = bool,
    ) -> Jobs:
        """The visible ones among these jobs, in the same order; `placed` asks for their place."""
        pipeline = self.redis.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hgetall(keys.job(job_id))
        found = zip(ids, map(row.decode, pipeline.execute()), strict=True)
        visible = (pair for pair in found if row.is_visible(pair[1], tenant))
        seen = [(job_id, fields) for job_id, fields in visible if wanted(fields)]
        waiting = [pair for pair in seen if placed and pair[1]["state"] == Status.QUEUED]
        places = self._places(waiting)
        return [row.to_job(job_id, fields, places.get(job_id)) for job_id, fields in seen]

    def _places(self, waiting: Rows) -> dict[str, int]:
        """How many jobs go before each of these; those that no line holds are left out."""
        args: list[str | int] = []
        for job_id, fields in waiting:
            queue = fields["model"], Tier(fields.get("tier", Tier.DEFAULT))
            names = transport.queues_before(*queue, fields.get("gpu_class", ""))
            args += [job_id, len(names), *map(transport.queue_key, names)]
        found = self._scripts.call("places", *args) if waiting else []
        pairs = zip(waiting, found, strict=True)
        return {job_id: ahead for (job_id, _), ahead in pairs if ahead >= 0}


def _digest(text: str | None) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""
