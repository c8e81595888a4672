"""Clients of the queue server: impatient for the web side, patient for workers.

Never share one pool between the two, nor with RQ's own workers, which change its timeouts.
Replies stay bytes, since RQ needs them so. Where the URL names sentinels, each connection asks them
who the primary is, so that a client follows it when another takes its place.

A server that answers but takes no writes for now, because its disk is full, its replicas are away
or a script holds it up, raises the same as one that has just been demoted: it may pass.
"""

from typing import Any

from redis import Redis
from redis._parsers.base import BaseParser
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import ReadOnlyError
from redis.retry import Retry
from redis.sentinel import Sentinel

from worker.jobs.sentinels import Sentinels, read_sentinels

WEB_TIMEOUT_S = 1.0
WORKER_TIMEOUT_S = 10.0
SENTINEL_TIMEOUT_S = 1.0  # then the next one is asked
NOT_NOW = ("MISCONF", "NOREPLICAS", "BUSY")  # codes of errors that redis-py has no class for


def web_client(url: str) -> Redis:
    """A client that gives up within about four seconds, so that a request thread never hangs."""
    return _open(
        url,
        socket_timeout=WEB_TIMEOUT_S,
        socket_connect_timeout=WEB_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
        health_check_interval=15,
    )


def worker_client(url: str, timeout_s: float = WORKER_TIMEOUT_S) -> Redis:
    """A client that rides out a short outage.

    timeout_s  without an answer, until a connection counts as dead and another one is tried: its
               peer may be gone without a word. Shorter than a lease, which runs meanwhile
    """
    options = {} if url.startswith("unix://") else {"socket_keepalive": True}
    return _open(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=5.0,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 5),
        health_check_interval=15,
        **options,
    )


def _open(url: str, **options: Any) -> Redis:
    BaseParser.EXCEPTION_CLASSES.update(dict.fromkeys(NOT_NOW, ReadOnlyError))
    sentinels = read_sentinels(url)
    if sentinels is None:
        return Redis.from_url(url, **options)
    return _follow(sentinels, options)


def _follow(sentinels: Sentinels, options: dict[str, Any]) -> Redis:
    """A client of whichever server is the primary."""
    given = parse_url(sentinels.server)  # type: ignore[no-untyped-call]
    del given["host"]
    encrypted = "connection_class" in given and bool(given.pop("connection_class"))
    asking = {
        **{name: value for name, value in given.items() if name.startswith("ssl_")},
        **sentinels.credentials,
        "ssl": encrypted,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    found = Sentinel(sentinels.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    client: Redis = found.master_for(  # type: ignore[no-untyped-call]
        sentinels.name, ssl=encrypted, **given, **options
    )
    return client
