"""Loads the atomic scripts of `lua/`. Each may be repeated with the same arguments."""

from functools import cache
from importlib.resources import files
from typing import Any

from redis import Redis

from worker.jobs import keys

PARTS = ("prelude", "sharing", "turns")  # stand before every script

NAMES = (
    "admit",
    "recall",
    "claim",
    "report",
    "checkpoint",
    "outrank",
    "publish",
    "requeue",
    "cancel",
    "reap",
    "rescue",
    "expire",
    "page",
    "hold",
    "settle",
    "redeliver",
    "take",
    "mates",
    "places",
    "order",
    "oldest",
    "enrol",
    "enter",
    "adopt",
    "release",
)


@cache
def source(name: str) -> str:
    """A script with the key names and the shared parts before it."""
    folder = files("worker.jobs") / "lua"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*PARTS, name)]
    return keys.lua_names() + "".join(parts)


def run(redis: Redis, name: str, *args: str | bytes | int | float) -> Any:
    """Run one script on a client of whoever has no `Scripts`; its texts come back as str."""
    return _decode(redis.register_script(source(name))(args=list(args)))


class Scripts:
    """The scripts, callable by name with text arguments. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._scripts = {name: redis.register_script(source(name)) for name in NAMES}

    def call(self, name: str, *args: str | bytes | int | float) -> Any:
        """Run a script; its texts come back as str.

        raises whatever the server answers, or a connection error after the client's retries
        """
        return _decode(self._scripts[name](args=list(args)))


def _decode(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
