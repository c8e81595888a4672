"""Queues that hand nothing out until an operator lets them again; kept on the queue server.

Jobs are still accepted, and running ones end as ever. The script that hands jobs out looks here.
"""

from typing import cast

from redis import Redis

from worker.jobs import keys, transport

EVERY = "*"


class Pause:
    """The switch of every queue. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def pause(self, model: str | None = None) -> None:
        """Hand out no more jobs of a model, or none at all. May be repeated."""
        self._redis.sadd(keys.PAUSED, *_members(model))

    def resume(self, model: str | None = None) -> None:
        """Hand out jobs of a model again, or of all, whoever was paused. May be repeated.

        A model alone stays paused while everything is.
        """
        if model is None:
            self._redis.delete(keys.PAUSED)
        else:
            self._redis.srem(keys.PAUSED, *_members(model))

    def is_paused(self, model: str) -> bool:
        """Whether no job of the model is handed out."""
        paused = self._read()
        return EVERY in paused or transport.queue_key(transport.queue_name(model)) in paused

    def everything(self) -> bool:
        """Whether no job at all is handed out."""
        return EVERY in self._read()

    def _read(self) -> set[str]:
        found = cast("set[bytes]", self._redis.smembers(keys.PAUSED))
        return {member.decode() for member in found}


def _members(model: str | None) -> list[str]:
    if model is None:
        return [EVERY]
    return [transport.queue_key(name) for name in transport.model_queues(model)]
