"""API key to tenant. Keys are compared by digest, so they may be configured as digests."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from service.errors import InvalidApiKey
from worker.jobs.outcomes import TENANT

ANONYMOUS = "anonymous"  # the only tenant while no key is configured
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class KeyRing:
    """The tenants by the hex SHA-256 of their keys; empty: everyone is anonymous."""

    tenants: Mapping[str, str]

    def tenant_of(self, presented: str | None) -> str:
        """Whom a bearer token stands for.

        raises InvalidApiKey if it is missing or unknown, unless no key is configured
        """
        if not self.tenants:
            return ANONYMOUS
        if not presented:
            raise InvalidApiKey("No API key: send it as 'Authorization: Bearer <key>'")
        tenant = self.tenants.get(digest(presented))
        if tenant is None:
            raise InvalidApiKey("The API key is not known to this server")
        return tenant


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


def digest(key: str) -> str:
    """The hex SHA-256 under which a key may be configured."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
