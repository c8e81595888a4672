"""Who has jobs: every tenant by name, found among the keys of the queue server; whose a job is."""

from collections.abc import Iterator
from typing import cast

from redis import Redis

from worker.jobs import keys


def read_owner(redis: Redis, job_id: str) -> str:
    """The tenant whose job it is or was; "" if nobody knows any more."""
    return (cast("bytes | None", redis.hget(keys.job(job_id), "tenant")) or b"").decode()


def read_tenants(redis: Redis) -> Iterator[str]:
    """Every tenant that the listing of jobs knows, in no order; one may come twice.

    Walks through all keys of the server: for housekeeping and operators, never for requests.
    """
    pattern = keys.tenant_jobs("*")
    before, after = (part.encode() for part in pattern.split("*"))
    for key in redis.scan_iter(pattern, count=1000):
        yield cast(bytes, key).removeprefix(before).removesuffix(after).decode()
