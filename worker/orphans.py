"""Blobs that no row stands for: of jobs that are gone or deleted, and of attempts whose result was
never published. Reads the names of all blobs, so rarely done.
"""

import re
import time
from collections.abc import Iterable
from itertools import groupby
from typing import cast

import structlog
from redis import Redis

from worker.jobs import keys
from worker.jobs.artifacts import CHECKPOINTS, ArtifactStore, job_prefix
from worker.jobs.blobs import Blob
from worker.jobs.contract import TERMINAL

log = structlog.get_logger()

YOUNG_S = 3600.0  # such blobs may be a job's that is just being admitted or published
JOB_ID = re.compile(r"video_[0-9a-f]{32}")
TOKEN = re.compile(r"[0-9a-f]{32}|[0-9a-f-]{36}")  # of an attempt


def clear_orphans(redis: Redis, artifacts: ArtifactStore, young_s: float = YOUNG_S) -> None:
    """Delete the orphans among all blobs older than `young_s` seconds.

    Keys that are not of the form tenant/job/attempt/name are somebody else's to judge.
    """
    youngest = time.time() - young_s
    for owner, blobs in groupby(artifacts.list(""), read_owner):
        tenant, _, job_id = owner.partition("/")
        if not JOB_ID.fullmatch(job_id):
            continue
        found = list(blobs)
        for prefix in read_orphans(redis, tenant, job_id, found):
            if all(b.modified_at < youngest for b in found if b.key.startswith(prefix)):
                artifacts.delete_prefix(prefix)
                log.info("orphan.cleared", job_id=job_id, tenant=tenant)


def read_owner(blob: Blob) -> str:
    """Tenant and job, or whatever the first two parts of the key are."""
    return "/".join(blob.key.split("/")[:2])


def read_orphans(redis: Redis, tenant: str, job_id: str, blobs: Iterable[Blob]) -> list[str]:
    """The prefixes of one job's blobs that its row, if any, does not need."""
    params, state, ended_by = cast(
        "list[bytes | None]", redis.hmget(keys.job(job_id), "params", "state", "ended_by")
    )
    prefix = job_prefix(tenant, job_id)
    if params is None:
        return [prefix]
    if (state or b"").decode() not in TERMINAL:
        return []
    attempts = {blob.key.removeprefix(prefix).split("/")[0] for blob in blobs}
    attempts.discard((ended_by or b"").decode())
    ours = [name for name in sorted(attempts) if name == CHECKPOINTS or TOKEN.fullmatch(name)]
    return [f"{prefix}{name}/" for name in ours]
