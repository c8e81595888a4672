"""The workers that are alive: each announces itself for a few seconds at a time.

Beside them what their kind has learned about the time that clips take, which outlives them.
"""

import math
import time
from typing import cast

from pydantic import TypeAdapter, ValidationError
from redis import Redis

from worker.jobs import keys
from worker.jobs.costs import Sample, Samples, learn
from worker.jobs.outcomes import WorkerInfo
from worker.jobs.settings import DAY_S

SAMPLES: TypeAdapter[Samples] = TypeAdapter(Samples)


class Roster:
    """Announcements of workers on the queue server."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put(self, worker: WorkerInfo, ttl_s: float) -> None:
        """Announce a worker for `ttl_s` seconds."""
        fields = worker.model_dump_json(exclude_none=True)
        pipeline = self._redis.pipeline()
        pipeline.hset(keys.worker(worker.name), "info", fields)
        pipeline.hset(keys.worker(worker.name), "heard_at", repr(time.time()))
        pipeline.pexpire(keys.worker(worker.name), math.ceil(ttl_s * 1000))
        pipeline.zadd(keys.WORKERS, {worker.name: time.time() + ttl_s})
        pipeline.execute()

    def learn(self, model: str, sample: Sample) -> None:
        """Add a finished clip to what is known of a model. Two at once may lose one: a hint."""
        kept = SAMPLES.dump_json(learn(self.learned(model), sample))
        self._redis.set(keys.samples(model), kept, ex=30 * DAY_S)

    def learned(self, model: str) -> Samples:
        """What clips of a model took on whichever workers; empty if unknown or unreadable."""
        kept = cast("bytes | None", self._redis.get(keys.samples(model)))
        try:
            return SAMPLES.validate_json(kept) if kept else ()
        except ValidationError:  # of another version
            return ()

    def heard(self) -> dict[str, float]:
        """When each worker was last heard, in Unix seconds by its own clock."""
        names = [worker.name for worker in self.read()]
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hget(keys.worker(name), "heard_at")
        found = zip(names, pipeline.execute(), strict=True)
        return {name: float(at) for name, at in found if at is not None}

    def read(self) -> tuple[WorkerInfo, ...]:
        """The workers whose announcement still holds, by name; forgets the others."""
        known = cast("list[bytes]", self._redis.zrange(keys.WORKERS, 0, -1))
        names = sorted(name.decode() for name in known)
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hget(keys.worker(name), "info")
        found = dict(zip(names, pipeline.execute(), strict=True))
        # Long gone ones only: the announcement of a name just read may be renewed meanwhile.
        self._redis.zremrangebyscore(keys.WORKERS, 0, time.time() - 3600)
        return tuple(WorkerInfo.model_validate_json(info) for info in found.values() if info)
