"""Clients of the queue server: impatient for the web side, patient for workers.

Never share one pool between the two, nor with RQ's own workers, which change its timeouts.
Replies stay bytes, since RQ needs them so.
"""

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

WEB_TIMEOUT_S = 1.0
WORKER_TIMEOUT_S = 60.0


def web_client(url: str) -> Redis:
    """A client that gives up within about four seconds, so that a request thread never hangs."""
    return Redis.from_url(
        url,
        socket_timeout=WEB_TIMEOUT_S,
        socket_connect_timeout=WEB_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
        health_check_interval=15,
    )


def worker_client(url: str) -> Redis:
    """A client that rides out a short outage and notices a dead peer by keepalive."""
    options = {} if url.startswith("unix://") else {"socket_keepalive": True}
    return Redis.from_url(
        url,
        socket_timeout=WORKER_TIMEOUT_S,
        socket_connect_timeout=5.0,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 5),
        health_check_interval=15,
        **options,
    )
