"""A store with one of its jobs in hand, and a worker's leases."""

import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from redis import Redis

from worker.jobs import transport
from worker.jobs.contract import Artifact, Job, JobResult
from worker.jobs.outcomes import Claim, Submission
from worker.jobs.store import JobStore

QUEUE = transport.queue_name("pocket")
WIP = transport.wip_key(QUEUE)


class Bench:
    """Drives jobs through a store as web side, worker and janitor would."""

    def __init__(self, store: JobStore, redis: Redis, submission: Callable[..., Submission]):
        self.store = store
        self.redis = redis
        self._submission = submission

    def submit(self, **fields: object) -> Job:
        """A newly admitted job."""
        return self.store.submit(self._submission(**fields)).job

    def lease(self, job_id: str, exec: str, seconds: float = 20) -> None:
        """Hold a lease, as RQ writes it; negative seconds hold one that ran out."""
        self.redis.zadd(WIP, {f"{job_id}:{exec}": time.time() + seconds})

    def claim(self, job_id: str, exec: str, seconds: float = 20) -> Claim:
        """Take the job off its queue, hold a lease and claim."""
        self.redis.lrem(transport.queue_key(QUEUE), 0, job_id)
        self.lease(job_id, exec, seconds)
        return self.store.claim(job_id, exec, "worker-1", WIP)

    def running(self, **fields: object) -> tuple[Job, str]:
        """A claimed job and its attempt token."""
        exec = uuid4().hex
        claim = self.claim(self.submit(**fields).id, exec)
        assert claim.job is not None
        return claim.job, exec

    def queue(self) -> transport.JsonQueue:
        """The pocket model's queue."""
        return transport.JsonQueue(QUEUE, connection=self.redis)

    def rows(self) -> dict[bytes, object]:
        """Everything on the server, for comparing before and after."""
        readers: dict[bytes, Callable[[bytes], object]] = {
            b"hash": self.redis.hgetall,
            b"string": self.redis.get,
            b"set": self.redis.smembers,
            b"list": lambda key: self.redis.lrange(key, 0, -1),
            b"zset": lambda key: self.redis.zrange(key, 0, -1, withscores=True),
            b"stream": self.redis.xrange,
        }
        return {key: readers[self.redis.type(key)](key) for key in self.redis.scan_iter()}


@pytest.fixture
def bench(store: JobStore, redis: Redis, make_submission: Callable[..., Submission]) -> Bench:
    """A bench on the empty test server."""
    return Bench(store, redis, make_submission)


@pytest.fixture
def result() -> JobResult:
    """A result as a worker publishes it."""

    def artifact(name: str, media_type: str) -> Artifact:
        return Artifact(
            key=f"studio/x/{name}", sha256="0" * 64, size_bytes=9, media_type=media_type
        )

    return JobResult(
        video=artifact("video.mp4", "video/mp4"),
        thumbnail=artifact("thumbnail.webp", "image/webp"),
        sidecar=artifact("sidecar.json", "application/json"),
        model_sha256="1" * 64,
        stage_seconds={"denoising": 1.5},
        peak_memory_mb=321.0,
    )
