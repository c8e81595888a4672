"""A job's events: a capped stream to replay after any id, and a channel that says when to look.

Reading never blocks the server; the stream itself is written by the store's scripts only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.client import PubSub

from worker.jobs import keys, row
from worker.jobs.contract import Job, Status
from worker.jobs.outcomes import JobNotFound
from worker.jobs.tenants import read_owner

STREAM_ID = re.compile(r"\d{1,20}-\d{1,20}")


@dataclass(frozen=True)
class Event:
    """One change of a job.

    id    of the stream; rises within a job
    seq   1, 2, 3, … within a job
    type  queued, in_progress, progress, cancel_requested, completed or failed
    at    Unix seconds by the server's clock
    job   the job as it stood then
    """

    id: str
    seq: int
    type: str
    at: float
    job: Job


@dataclass(frozen=True)
class Replay:
    """Events in order; `gap` if older ones than the first had to be dropped unread.

    `empty` if the whole stream is gone, as it is a day after the job's end.
    """

    events: tuple[Event, ...]
    gap: bool
    empty: bool = False

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


class EventLog:
    """The events of all jobs on one queue server."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def owner(self, job_id: str) -> str:
        """The tenant whose job it is; "" if nobody knows any more."""
        return read_owner(self._redis, job_id)

    def read(self, job_id: str, after: str | None = None, tenant: str | None = None) -> Replay:
        """All events of a job after one id, oldest first; None reads from the beginning.

        tenant  None reads anyone's
        raises  JobNotFound; ValueError if `after` is not an event's id
        """
        if after is not None and not STREAM_ID.fullmatch(after):
            raise ValueError(f"{after!r} is not the id of an event")
        start = "-" if after is None else f"({after}"
        pipeline = self._redis.pipeline()
        pipeline.hgetall(keys.job(job_id))
        pipeline.xrange(keys.events(job_id), min=start)
        pipeline.xrange(keys.events(job_id), count=1)
        fields, entries, oldest = pipeline.execute()
        current = row.decode(fields)
        if not row.is_visible(current, tenant):
            raise JobNotFound(job_id)
        events = tuple(_event(job_id, current, *entry) for entry in entries)
        return Replay(events, gap=_has_gap(after, oldest), empty=not oldest)

    def wakes(self) -> "Wakes":
        """Subscribe to the ids of jobs with new events; one per process is enough."""
        return Wakes(self._redis)


class Wakes:
    """A subscription. Not for more than one thread at a time; close it."""

    def __init__(self, redis: Redis) -> None:
        self._pubsub = PubSub(redis.connection_pool, ignore_subscribe_messages=True)
        self._pubsub.subscribe(keys.WAKE)

    def next(self, timeout_s: float) -> str | None:
        """The id of a job with a new event, or None after `timeout_s` seconds.

        raises redis.ConnectionError; events are not lost, since streams keep them
        """
        message = cast("dict[str, Any] | None", self._pubsub.get_message(timeout=timeout_s))
        return message["data"].decode() if message else None

    def close(self) -> None:
        """Unsubscribe."""
        self._pubsub.close()


def _event(job_id: str, current: row.Row, stream_id: bytes, fields: dict[bytes, bytes]) -> Event:
    moment = row.decode(fields)
    job = row.to_job(job_id, row.at_moment(current, moment))
    if job.status is Status.QUEUED:
        # Where it stood in the queue back then is not known; ask the store for now.
        job = job.model_copy(update={"queue_position": None})
    return Event(stream_id.decode(), int(moment["seq"]), moment["type"], float(moment["at"]), job)


def _has_gap(after: str | None, oldest: list[tuple[bytes, dict[bytes, bytes]]]) -> bool:
    if not oldest or oldest[0][1][b"seq"] == b"1":
        return False
    return after is None or order(after) < order(oldest[0][0].decode())


def order(stream_id: str) -> tuple[int, int]:
    """Ids of a stream sort by this."""
    milliseconds, number = stream_id.split("-")
    return int(milliseconds), int(number)
