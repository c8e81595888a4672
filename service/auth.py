"""API key to caller. Keys are found by digest, so they may be configured as digests.

Some are configured, others are made while the service runs and kept on the queue server.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from service.errors import InvalidApiKey, PermissionDenied
from worker.jobs.callers import Caller, CallerBook, digest
from worker.jobs.contract import Tier
from worker.jobs.outcomes import TENANT, CallerRefused

ANONYMOUS = "anonymous"  # the only tenant while there is no key
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class KeyRing:
    """The tenants of the configured keys by the hex SHA-256 of these."""

    tenants: Mapping[str, str]

    def tenant_of(self, presented: str | None) -> str | None:
        """Whom a bearer token stands for; None if it is missing or not a configured one."""
        return self.tenants.get(digest(presented)) if presented else None


@dataclass(frozen=True)
class Gate:
    """Lets requests in. Asks the queue server each time, so that a revoked key is out at once."""

    ring: KeyRing
    book: CallerBook
    open: bool  # whether anyone may come in as long as no key was ever made
    default_rate: int  # requests per minute; 0: no limit

    def admit(self, presented: str | None) -> Caller:
        """Whom a bearer token stands for, and one request less for them.

        raises InvalidApiKey, RateLimited
        """
        tenant = self.ring.tenant_of(presented)
        anonymous = ANONYMOUS if self.open else None
        try:
            return self.book.enter(presented, tenant, anonymous, self.default_rate)
        except CallerRefused as error:
            if not presented:
                message = "No API key: send it as 'Authorization: Bearer <key>'"
                raise InvalidApiKey(message) from error
            raise InvalidApiKey("The API key is not known to this server") from error


def check_tier(tier: Tier, caller: Caller) -> None:
    """raises PermissionDenied if the caller may not wait in this queue"""
    if tier is Tier.PRIORITY and not caller.may_prioritise:
        raise PermissionDenied("service_tier: this key may not use priority", "service_tier")


def read_keys(keys: Iterable[SecretStr]) -> KeyRing:
    """Configured keys to a ring. Several keys may name one tenant, so that they can be rotated."""
    return KeyRing(dict(read_key(key) for key in keys))


def read_key(key: SecretStr) -> tuple[str, str]:
    """`key`, `tenant:key`, `sha256:hex` or `tenant:sha256:hex` to (hex digest, tenant).

    raises ValueError if it is none of these; never quotes the key
    """
    parts = key.get_secret_value().split(":")
    hashed = len(parts) >= 2 and parts[-2] == "sha256"
    hexdigest = parts[-1] if hashed else digest(parts[-1])
    names = parts[: -2 if hashed else -1]
    if not parts[-1] or len(names) > 1 or not HEX_DIGEST.fullmatch(hexdigest):
        raise ValueError("an API key must be key, tenant:key, sha256:hex or tenant:sha256:hex")
    tenant = names[0] if names else f"key-{hexdigest[:16]}"
    if not TENANT.fullmatch(tenant):
        raise ValueError(f"the tenant of an API key must match {TENANT.pattern}")
    return hexdigest, tenant
