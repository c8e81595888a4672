"""Inputs of jobs: where they lie, and how long. They are stored before their job is admitted.

A list on the queue server names every job with inputs, so that none is forgotten, whoever dies
between the first stored byte and the admission. The janitor looks at what is due on it.
"""

import time
from pathlib import Path
from typing import cast
from uuid import uuid4

from redis import Redis

from worker.jobs import keys
from worker.jobs.artifacts import ArtifactStore, job_prefix
from worker.jobs.contract import TERMINAL, Artifact

FIRST_LOOK_S = 3600.0  # inputs whose job is not admitted within this time are deleted
LOOK_AGAIN_S = 3600.0  # at a job that has not ended

Fields = list[bytes | None]


def new_job_id() -> str:
    """An id for a job that is yet to be admitted."""
    return f"video_{uuid4().hex}"


def input_prefix(tenant: str, job_id: str) -> str:
    """The start of the keys of a job's inputs, slash included: within the job's own folder."""
    return f"{job_prefix(tenant, job_id)}inputs/"


class InputShelf:
    """The inputs of all jobs. Safe to share between threads."""

    def __init__(self, redis: Redis, artifacts: ArtifactStore) -> None:
        self._redis = redis
        self._artifacts = artifacts

    def announce(self, tenant: str, job_id: str) -> None:
        """Say that inputs of this job are about to be stored. Always before the first one."""
        self._redis.zadd(keys.INPUTS, {f"{tenant}/{job_id}": time.time() + FIRST_LOOK_S})

    def put(self, tenant: str, job_id: str, name: str, path: Path) -> Artifact:
        """Store one input under a plain file name."""
        return self._artifacts.put_file(input_prefix(tenant, job_id) + name, path)

    def drop(self, tenant: str, job_id: str) -> None:
        """Delete the inputs of a job, for good."""
        self._artifacts.delete_prefix(input_prefix(tenant, job_id))
        self._redis.zrem(keys.INPUTS, f"{tenant}/{job_id}")

    def sweep(self) -> int:
        """Delete the inputs of jobs that never were, are deleted, or ended long enough ago.

        returns how many jobs' inputs were deleted
        """
        now, dropped = time.time(), 0
        for member in cast("list[bytes]", self._redis.zrangebyscore(keys.INPUTS, "-inf", now)):
            tenant, _, job_id = member.decode().partition("/")
            wanted_until = self._wanted_until(job_id)
            if wanted_until > now:
                self._redis.zadd(keys.INPUTS, {member: wanted_until})
            else:
                self.drop(tenant, job_id)
                dropped += 1
        return dropped

    def _wanted_until(self, job_id: str) -> float:
        """When to look at this job again; a time gone by if its inputs are wanted no more."""
        names = ("params", "state", "completed_at", "result_ttl", "deleted")
        row = cast(Fields, self._redis.hmget(keys.job(job_id), names))
        params, state, completed_at, result_ttl, deleted = row
        ended = state is not None and state.decode() in TERMINAL
        if params is None or state is None or (deleted == b"1" and ended):
            return 0.0
        if not ended or completed_at is None or result_ttl is None:
            return time.time() + LOOK_AGAIN_S
        return float(completed_at) + float(result_ttl)
