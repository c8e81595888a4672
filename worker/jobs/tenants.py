"""Who has jobs: every tenant by name, found among the keys of the queue server."""

from collections.abc import Iterator
from typing import cast

from redis import Redis

from worker.jobs import keys


def read_tenants(redis: Redis) -> Iterator[str]:
    """Every tenant that the listing of jobs knows, in no order; one may come twice.

    Walks through all keys of the server: for housekeeping and operators, never for requests.
    """
    pattern = keys.tenant_jobs("*")
    before, after = (part.encode() for part in pattern.split("*"))
    for key in redis.scan_iter(pattern, count=1000):
        yield cast(bytes, key).removeprefix(before).removesuffix(after).decode()
