"""Characters: named sets of reference pictures that a tenant uses in many jobs.

They are kept until they are deleted. Nobody but the tenant who made one can find it.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from uuid import uuid4

from redis import Redis

from worker.jobs import keys
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.contract import Artifact, Record

UNFINISHED_S = 3600.0  # pictures that never got their row are deleted after this time


class Character(Record):
    """A named set of reference pictures, the one that tells most first."""

    id: str
    tenant: str
    name: str  # what prompts call it, after an @
    created_at: float  # Unix seconds
    views: tuple[Artifact, ...]


class CharacterShelf:
    """The characters of all tenants. Safe to share between threads."""

    def __init__(self, redis: Redis, artifacts: ArtifactStore) -> None:
        self._redis = redis
        self._artifacts = artifacts

    def put(self, tenant: str, name: str, views: Sequence[Path]) -> Character:
        """Keep local pictures, PNG, under a name. raises OSError"""
        character_id = f"char_{uuid4().hex}"
        member = f"{tenant}/{character_id}"
        # Listed before the first byte, so that a set cut short is cleared away.
        self._redis.zadd(keys.CHARACTERS, {member: time.time() + UNFINISHED_S})
        start = prefix(tenant, character_id)
        character = Character(
            id=character_id,
            tenant=tenant,
            name=name,
            views=tuple(
                self._artifacts.put_file(f"{start}view-{index}.png", path)
                for index, path in enumerate(views)
            ),
            created_at=time.time(),
        )
        pipeline = self._redis.pipeline()
        pipeline.set(keys.character(character_id), character.model_dump_json())
        pipeline.zadd(keys.tenant_characters(tenant), {character_id: character.created_at})
        pipeline.zrem(keys.CHARACTERS, member)
        pipeline.execute()
        return character

    def get(self, character_id: str, tenant: str) -> Character | None:
        """The tenant's character, or None if there is none of this id."""
        row = cast("bytes | None", self._redis.get(keys.character(character_id)))
        character = Character.model_validate_json(row) if row else None
        return character if character and character.tenant == tenant else None

    def count(self, tenant: str) -> int:
        """How many characters the tenant has."""
        return int(self._redis.zcard(keys.tenant_characters(tenant)))

    def delete(self, character: Character) -> None:
        """Forget a character, then its pictures; jobs keep their copies."""
        member = f"{character.tenant}/{character.id}"
        pipeline = self._redis.pipeline()
        pipeline.delete(keys.character(character.id))
        pipeline.zrem(keys.tenant_characters(character.tenant), character.id)
        pipeline.zadd(keys.CHARACTERS, {member: time.time()})
        pipeline.execute()
        self._drop(character.tenant, character.id)

    def sweep(self) -> int:
        """Delete the pictures that no character has. returns of how many sets"""
        due = cast("list[bytes]", self._redis.zrangebyscore(keys.CHARACTERS, "-inf", time.time()))
        for member in due:
            tenant, _, character_id = member.decode().partition("/")
            self._drop(tenant, character_id)
        return len(due)

    def _drop(self, tenant: str, character_id: str) -> None:
        self._artifacts.delete_prefix(prefix(tenant, character_id))
        self._redis.zrem(keys.CHARACTERS, f"{tenant}/{character_id}")


def prefix(tenant: str, character_id: str) -> str:
    """The start of the keys of a character's pictures, slash included; no job is called so."""
    return f"{tenant}/characters/{character_id}/"
