"""Who may call, and how much: API keys, tenants' own limits, rates of requests.

A key is kept as its SHA-256 only, and found by it, so that neither the queue server nor the time
an answer takes tells anything about a key. Keys have 256 random bits: no slow hash is needed.
Nothing is remembered between requests, so that a revoked key is refused at once.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Annotated, cast
from uuid import uuid4

from pydantic import Field
from redis import Redis

from worker.jobs import keys
from worker.jobs.contract import Record
from worker.jobs.outcomes import (
    TENANT,
    CallerRefused,
    KeyNotFound,
    KeyTaken,
    Quota,
    RateLimited,
)
from worker.jobs.scripts import Scripts

KEY_START = "praxino_"  # so that secret scanners can tell what they have found
KEY_BYTES = 32

Cap = Annotated[int, Field(ge=1)]


class Limits(Record):
    """A tenant's own limits; None: what the settings say for everybody."""

    max_active: Cap | None = None  # queued or running jobs
    max_queued: Cap | None = None  # waiting jobs of one model
    requests_per_minute: Annotated[int, Field(ge=0)] | None = None  # 0: no limit


@dataclass(frozen=True)
class Key:
    """An API key as it may be shown; times are Unix seconds."""

    name: str
    tenant: str
    may_prioritise: bool
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True)
class Caller:
    """Whom a request comes from; `quota` None: as many requests as it likes."""

    tenant: str
    may_prioritise: bool
    quota: Quota | None


class CallerBook:
    """Keys, limits and rates on one queue server. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)

    def enter(
        self, key: str | None, tenant: str | None, anonymous: str | None, default_rate: int
    ) -> Caller:
        """Tell whom a request comes from, and count it.

        key           as presented, not hashed; None: none was
        tenant        of a key that is known already; None: look the key up
        anonymous     tenant of requests without a known key, as long as no key was ever made;
                      None: they are refused
        default_rate  requests per minute of a tenant without a limit of its own; 0: no limit
        raises        CallerRefused, RateLimited
        """
        given = digest(key) if key and not tenant else ""
        answer = self._scripts.call(
            "enter",
            given,
            tenant or "",
            anonymous or "",
            uuid4().hex,
            default_rate,
        )
        verdict, *rest = answer
        if verdict == "unknown":
            raise CallerRefused
        found, priority, limit, remaining, full_ms, wait_ms = rest
        quota = Quota(limit, remaining, full_ms / 1000, wait_ms / 1000) if limit else None
        if verdict == "limited" and quota:
            raise RateLimited(quota)
        return Caller(found, priority == "1", quota)

    def create(self, name: str, tenant: str, *, may_prioritise: bool = False) -> str:
        """Make a key. returns the key itself, which nobody can read again

        raises KeyTaken if the name was ever used, ValueError if name or tenant is not a safe one
        """
        for what, value in (("name", name), ("tenant", tenant)):
            if not TENANT.fullmatch(value):
                raise ValueError(f"the {what} {value!r} of a key does not match {TENANT.pattern}")
        key = KEY_START + secrets.token_urlsafe(KEY_BYTES)
        outcome = self._scripts.call("enrol", name, digest(key), tenant, int(may_prioritise))
        if outcome == "taken":
            raise KeyTaken(name)
        return key

    def revoke(self, name: str) -> None:
        """Refuse a key from now on; repeating is fine. raises KeyNotFound"""
        known = cast("bytes | None", self._redis.hget(keys.API_KEYS, name))
        if known is None:
            raise KeyNotFound(name)
        seconds, microseconds = self._redis.time()
        now = f"{seconds}.{microseconds:06d}"
        self._redis.hsetnx(keys.api_key(known.decode()), "revoked_at", now)

    def list(self) -> tuple[Key, ...]:
        """Every key ever made, by name."""
        index = cast("dict[bytes, bytes]", self._redis.hgetall(keys.API_KEYS))
        pipeline = self._redis.pipeline(transaction=False)
        for name in sorted(index):
            pipeline.hgetall(keys.api_key(index[name].decode()))
        return tuple(_key(fields) for fields in pipeline.execute() if fields)

    def limits(self, tenant: str) -> Limits:
        """The tenant's own limits."""
        fields = cast("dict[bytes, bytes]", self._redis.hgetall(keys.tenant_limits(tenant)))
        return Limits.model_validate({name.decode(): value for name, value in fields.items()})

    def set_limits(self, tenant: str, limits: Limits) -> None:
        """Replace the tenant's own limits, at once and for all its keys.

        raises ValueError if the tenant's name is not a safe one
        """
        if not TENANT.fullmatch(tenant):
            raise ValueError(f"tenant {tenant!r} does not match {TENANT.pattern}")
        with self._redis.pipeline() as pipeline:
            pipeline.delete(keys.tenant_limits(tenant))
            for name, value in limits.model_dump(exclude_none=True).items():
                pipeline.hset(keys.tenant_limits(tenant), name, value)
            pipeline.execute()


def digest(key: str) -> str:
    """The hex SHA-256 under which a key is kept or may be configured."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _key(fields: dict[bytes, bytes]) -> Key:
    row = {name.decode(): value.decode() for name, value in fields.items()}
    revoked_at = row.get("revoked_at")
    return Key(
        name=row["name"],
        tenant=row["tenant"],
        may_prioritise=row["priority"] == "1",
        created_at=float(row["created_at"]),
        revoked_at=float(revoked_at) if revoked_at else None,
    )
