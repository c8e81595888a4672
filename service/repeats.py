"""Calls that make something at once, a file or a character: repeated under one key, made once."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Protocol, TypeVar

from fastapi import Header
from redis.exceptions import RedisError

from service.deps import Services
from service.forms import Tree
from service.intake import digest_upload
from service.values import check_length

MAX_KEY_CHARS = 255

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key")]


class Made(Protocol):
    """What was made; found again by its id."""

    @property
    def id(self) -> str: ...


M = TypeVar("M", bound=Made)


def once(
    key: str | None,
    path: str,
    tree: Tree,
    tenant: str,
    services: Services,
    find: Callable[[str], M | None],
    make: Callable[[], M],
) -> tuple[M, dict[str, str]]:
    """What an earlier call with the key made, if it is still there, or what is made now.

    key      counts for one tenant and path, for a day
    tree     the body: another one under the same key is refused
    returns  what was made, and headers
    raises   InvalidValue for a key too long, IdempotencyConflict, IdempotencyBusy, what `make` does
    """
    if not key:
        return make(), {}
    check_length(key, MAX_KEY_CHARS, "Idempotency-Key")
    name, asked = f"{path}\0{key}", fingerprint(tree)
    known = services.receipts.begin(tenant, name, asked)
    found = find(known) if known else None
    if found is not None:
        return found, {"Idempotency-Replayed": "true"}
    try:
        made = make()
    except BaseException:
        with suppress(RedisError):
            services.receipts.drop(tenant, name)
        raise
    with suppress(RedisError):  # it is made, and the answer must say so
        services.receipts.end(tenant, name, asked, made.id)
    return made, {}


def fingerprint(tree: Tree) -> str:
    """Digest of a body, whatever its encoding; files count by their content."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), default=digest_upload)
    return hashlib.sha256(text.encode()).hexdigest()
