"""Receipts of what was made at once under an idempotency key: a file, a character.

Jobs have no use for them: they are admitted, and found again, in one script.
"""

import hashlib
from typing import cast

from redis import Redis

from worker.jobs import keys
from worker.jobs.outcomes import IdempotencyBusy, IdempotencyConflict
from worker.jobs.settings import DAY_S

MAKING_S = 300  # after which whoever was making it has died


class Receipts:
    """All receipts on one queue server. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def begin(self, tenant: str, key: str, fingerprint: str) -> str | None:
        """The id of what an earlier call made, or None: then make it, and `end` or `drop` it.

        key          of a tenant, with the path that it counts for
        fingerprint  of all that was asked
        raises       IdempotencyConflict if the key came before with another fingerprint,
                     IdempotencyBusy while another call is making it
        """
        name = receipt(tenant, key)
        if self._redis.set(name, f"{fingerprint} ", nx=True, ex=MAKING_S):
            return None
        known = cast("bytes | None", self._redis.get(name)) or b" "
        asked, _, made = known.decode().partition(" ")
        if asked not in ("", fingerprint):
            raise IdempotencyConflict
        if not made:
            raise IdempotencyBusy
        return made

    def end(self, tenant: str, key: str, fingerprint: str, made: str) -> None:
        """Note the id of what was made, for a day."""
        self._redis.set(receipt(tenant, key), f"{fingerprint} {made}", ex=DAY_S)

    def drop(self, tenant: str, key: str) -> None:
        """Nothing was made: the key is as good as new."""
        self._redis.delete(receipt(tenant, key))


def receipt(tenant: str, key: str) -> str:
    return f"{keys.IDEMPOTENCY}{tenant}:{hashlib.sha256(key.encode()).hexdigest()}"
