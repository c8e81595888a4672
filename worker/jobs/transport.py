"""The queues: everything the counter knows about RQ. No other file of the counter imports it.

RQ only carries ids. A job's stored function, callbacks and webhooks are never believed: whatever
a queue entry says, reading it yields our one task with the id as its argument, as JSON, so a
planted pickle or a foreign function name is not even parsed.
"""

import json
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast
from uuid import uuid4

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from rq.command import send_command
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus, validate_job_id
from rq.queue import Queue
from rq.registry import StartedJobRegistry
from rq.scripts import _build_hset_args
from rq.serializers import JSONSerializer
from rq.worker_registration import clean_worker_registry

from worker.jobs import keys, scripts
from worker.jobs.contract import Tier
from worker.jobs.settings import DAY_S

TASK = "worker.jobs.transport.run_by_supervisor"
SHORTEST_WAIT_S = 0.01
DEMOTED = "UNBLOCKED"  # how a server answers who waits when it becomes another one's replica
# What RQ raises over an entry with nonsense in it, which must not stop a worker.
NONSENSE = (ValueError, TypeError, AttributeError, AssertionError)
QUEUES = Queue.redis_queues_keys  # set of all queue lists


def run_by_supervisor(job_id: str) -> NoReturn:
    """The task name of every queue entry. Only a stock RQ worker would ever call it."""
    raise RuntimeError(f"{job_id} runs through `python -m worker`, not through RQ's own worker")


class JsonJob(Job):
    """A queue entry in JSON; ignores the serializer argument and what the entry says to call."""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None):
        super().__init__(id, connection, JSONSerializer)

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        fields = {_text(name): value for name, value in raw_data.items()}
        kept = {name.encode(): fields[name] for name in KEPT if name in fields}
        try:
            super().restore(kept | self._call())
        except NONSENSE:
            super().restore(self._call())

    def _call(self) -> dict[bytes, bytes]:
        call = json.dumps([TASK, None, [self.id], {}]).encode()
        return {b"data": zlib.compress(call)}

    def perform(self) -> NoReturn:
        run_by_supervisor(self.id)

    @property
    def started_job_registry(self) -> "JsonStartedRegistry":
        return leases(self.origin, self.connection)

    @property
    def func(self) -> NoReturn:
        run_by_supervisor(self.id)


# All that is read of an entry. No other field is looked at, so none can make its reader import,
# unpickle, call or wait for something.
KEPT = (
    "status",
    "origin",
    "description",
    "worker_name",
    "timeout",
    "result_ttl",
    "failure_ttl",
    "retries_left",
    "created_at",
    "enqueued_at",
    "started_at",
    "ended_at",
    "last_heartbeat",
)


class JsonQueue(Queue):
    """A queue of a model; ignores the serializer argument and never loses a job it hands out."""

    job_class = JsonJob

    def __init__(self, name: str, connection: Any = None, **options: Any):
        options |= {"serializer": JSONSerializer, "job_class": JsonJob}
        super().__init__(name, connection, **options)

    @property
    def started_job_registry(self) -> "JsonStartedRegistry":
        return leases(self.name, self.connection)

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: Redis, *args: Any, **kw: Any
    ) -> tuple[Job, Queue] | None:
        """The next job of the first non-empty queue, kept in its intermediate list until claimed.

        Within a queue it is the next job of the tenant that was served longest ago.

        timeout  seconds to wait; None: do not wait
        raises   DequeueTimeout
        """
        listed = [queue.key for queue in queues]
        deadline = time.monotonic() + (timeout or 0)
        while True:
            while taken := cls._take(listed, connection):
                if found := cls._fetch_dequeued_job(connection, *taken):
                    return found
            left_s = deadline - time.monotonic()
            if timeout is None:
                return None
            if left_s <= 0:
                raise DequeueTimeout(timeout, listed)
            cls._await_bell(listed, connection, max(left_s, SHORTEST_WAIT_S))

    @classmethod
    def _await_bell(cls, queue_keys: list[str], connection: Redis, limit_s: float) -> None:
        """Wait until a queue gets a job. A ring carries nothing: losing one loses no job."""
        try:
            connection.blpop([keys.bell(key) for key in queue_keys], limit_s)
        except ResponseError as error:
            if not str(error).startswith(DEMOTED):
                raise
            raise RedisConnectionError("the queue server is no longer the primary") from error

    @classmethod
    def entry_of(cls, connection: Redis, queue: str, job_id: str) -> Job | None:
        """The entry of an id that another script took from the queue of this name."""
        found = cls._fetch_dequeued_job(connection, queue_key(queue), job_id)
        return found and found[0]

    @classmethod
    def _take(cls, queue_keys: list[str], connection: Redis) -> tuple[str, str] | None:
        """The list that had one, and the id."""
        pairs = [(key, IntermediateQueue.get_intermediate_queue_key(key)) for key in queue_keys]
        flat = [key for pair in pairs for key in pair]
        found = scripts.run(connection, "take", uuid4().hex, *flat)
        return cast("tuple[str, str] | None", found and tuple(found))

    @classmethod
    def _fetch_dequeued_job(
        cls, connection: Redis, queue_key: str, job_id: str, *args: Any, **kw: Any
    ) -> tuple[Job, Queue] | None:
        """The entry of an id just taken; an entry that vanished is written anew.

        The row decides whether there is anything to run, so a missing entry loses no job.
        """
        queue = cls.from_queue_key(queue_key, connection=connection)
        try:
            validate_job_id(job_id)
        except ValueError:
            connection.lrem(queue.intermediate_queue_key, 0, job_id)
            return None
        try:
            job = JsonJob.fetch(job_id, connection=connection)
        except NoSuchJobError:
            job = _entry(job_id, queue, retries=0, timeout_s=queue._default_timeout)
            job.save()
        job.origin = queue.name  # whatever the entry says: its leases are kept by this name
        return job, queue


class JsonStartedRegistry(StartedJobRegistry):
    """Leases of a queue's running attempts, by the clock of the queue server: scripts and janitor
    judge by it, and no host's own need agree with it."""

    def add_execution(
        self, execution: Execution, pipeline: Pipeline, ttl: int = 0, xx: bool = False
    ) -> int:
        seconds, microseconds = self.connection.time()
        until = {execution.composite_key: seconds + microseconds / 1e6 + ttl}
        return cast(int, pipeline.zadd(self.key, until, xx=xx))

    def get_queue(self) -> JsonQueue:
        return JsonQueue(self.name, connection=self.connection)


def leases(queue: str, connection: Redis) -> JsonStartedRegistry:
    """The leases of the queue of this name."""
    return JsonStartedRegistry(queue, connection, JsonJob, serializer=JSONSerializer)


def count_leases(redis: Redis, names: Iterable[str]) -> int:
    """How many attempts at jobs of these queues hold a lease that still runs."""
    seconds, microseconds = redis.time()
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        pipeline.zcount(wip_key(name), seconds + microseconds / 1e6, "+inf")
    return sum(pipeline.execute())


def queue_name(model: str, tier: Tier = Tier.DEFAULT, gpu_class: str = "") -> str:
    """The queue of a model for one tier, and for one class of workers or, without, for any."""
    whose = f"@{gpu_class}" if gpu_class else ""
    return f"praxino-{model}{whose}" + ("" if tier is Tier.DEFAULT else f":{tier}")


def model_queues(
    model: str, gpu_classes: Sequence[str] = (), tiers: Iterable[Tier] = Tier
) -> list[str]:
    """The names of a model's queues of some tiers, the one that is served first first."""
    return [queue_name(model, tier, each) for tier in tiers for each in (*gpu_classes, "")]


def served_queues(model: str, gpu_class: str, tiers: Iterable[Tier] = Tier) -> list[str]:
    """The names of those of a model's queues that a worker listens to, likewise."""
    return model_queues(model, (gpu_class,) if gpu_class else (), tiers)


def queues_before(model: str, tier: Tier, gpu_class: str = "") -> list[str]:
    """The names of a model's queues that are served before one, by a worker that serves as few
    others as any."""
    served = served_queues(model, gpu_class)
    return served[: served.index(queue_name(model, tier, gpu_class))]


def queue_key(name: str) -> str:
    """The list of waiting ids."""
    return Queue.redis_queue_namespace_prefix + name


def intermediate_key(name: str) -> str:
    """The list of ids handed out and not yet claimed."""
    return IntermediateQueue.get_intermediate_queue_key(queue_key(name))


def wip_key(name: str) -> str:
    """The sorted set of leases: `{job}:{exec}` by the Unix second when it ends."""
    return StartedJobRegistry.key_template.format(name)


def entry_key(job_id: str) -> str:
    """The hash that RQ keeps for an id."""
    return Job.key_for(job_id)


def entry_fields(
    redis: Redis, job_id: str, queue: str, *, retries: int, timeout_s: float
) -> list[str | bytes]:
    """A new queue entry as flat names and values, for admission to write.

    queue  the queue's name
    """
    job = _entry(job_id, JsonQueue(queue, connection=redis), retries=retries, timeout_s=timeout_s)
    return cast("list[str | bytes]", _build_hset_args(job))  # type: ignore[no-untyped-call]


def queue_names(redis: Redis) -> list[str]:
    """The names of all queues that ever held a job or had a worker, sorted."""
    prefix = Queue.redis_queue_namespace_prefix
    keys = cast("set[bytes]", redis.smembers(QUEUES))
    return sorted(_text(key).removeprefix(prefix) for key in keys)


def list_queues(redis: Redis, names: Iterable[str]) -> None:
    """Have queues known that a worker listens to, though they may never have held a job."""
    redis.sadd(QUEUES, *(queue_key(name) for name in names))


def forget_workers(redis: Redis) -> None:
    """Take workers that died without a word off the lists of RQ, which keep names for ever. Its own
    workers do so now and then, ours leave it to the janitor."""
    for name in queue_names(redis):
        clean_worker_registry(JsonQueue(name, connection=redis))


def send_stop(redis: Redis, job_id: str) -> bool:
    """Tell the worker that runs the job to stop; False if none has it.

    May be lost while a worker reconnects: set the row's cancel flag first.
    """
    name = cast("bytes | None", redis.hget(entry_key(job_id), "worker_name"))
    if not name:
        return False
    send_command(redis, name.decode(), "stop-job", job_id=job_id)
    return True


def _entry(job_id: str, queue: Queue, *, retries: int, timeout_s: float) -> JsonJob:
    job = JsonJob.create(
        TASK,
        args=[job_id],
        connection=queue.connection,
        id=job_id,
        origin=queue.name,
        description=job_id,
        timeout=max(1, round(timeout_s)),
        result_ttl=DAY_S,
        failure_ttl=DAY_S,
        status=JobStatus.QUEUED,
    )
    job.retries_left = retries
    job.enqueued_at = job.created_at
    return cast(JsonJob, job)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
