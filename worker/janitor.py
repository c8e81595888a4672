"""Ends what nobody else would: dead leases, lost queue entries, overdue jobs, expired files.

A process of its own, `python -m worker.janitor`; any number may run, one works at a time by lock.
Every step may be repeated or cut short: the scripts behind it are atomic. Files take as long as
their store takes, so they are a thread's: no lease and no lost job waits for them.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import cast
from uuid import uuid4

import structlog
from redis import Redis

from worker.clock import Clock
from worker.expiry import Sweeper
from worker.handout import hand_out_overdue
from worker.jobs import keys, transport
from worker.jobs.artifacts import open_store
from worker.jobs.audit import refuse_pickle
from worker.jobs.connection import web_client
from worker.jobs.sharing import Sharing
from worker.jobs.store import JobStore
from worker.jobs.tenants import read_owner
from worker.journal import configure_logging
from worker.patience import OUTAGES
from worker.pulse import Pulse
from worker.settings import EXIT_BAD_SETTINGS, JanitorSettings, read_settings

log = structlog.get_logger()

POLL_S = 0.1
OVERDUE_EVERY_S = 10.0
STOP_S = 5.0  # for the files in work, once it was told to stop

# Takes or renews the lock: 1 if it is ours. KEYS: lock. ARGV: token, milliseconds.
LOCK = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# Gives the lock back if it is ours.
UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class Janitor:
    """Housekeeping of one queue server and one data folder."""

    def __init__(self, settings: JanitorSettings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis
        self._store = JobStore(redis, settings)
        artifacts = open_store(settings)
        self._sweeper = Sweeper(settings, redis, artifacts)
        self._sharing = Sharing(self._store, artifacts)
        self._token = uuid4().hex
        self._missing: dict[str, float] = {}  # ids that wait or run in no list, since when
        self._quiet_until = 0.0
        self._was_active = False
        self._overdue = Clock(OVERDUE_EVERY_S, at_once=True)
        self._sweep = Clock(settings.sweep_every_s)
        self._files: threading.Thread | None = None  # at work on them
        self._pulse = Pulse(settings.data_dir, "janitor")

    def run(self, stopping: Callable[[], bool]) -> None:
        """Work until told to stop; outages are waited out."""
        tick = Clock(self._settings.janitor_tick_s, at_once=True)
        log.info("janitor.ready")
        while not stopping():
            if tick.due():
                self._pulse.beat("idle")
                self._try_round()
            time.sleep(POLL_S)
        if self._files is not None:
            self._files.join(STOP_S)
        self._release()
        self._pulse.stop()
        log.info("janitor.stopped")

    def work_once(self) -> bool:
        """One round if the lock is ours and the server has settled; whether it was worked. Begins
        with the files, and does not wait for them."""
        if not self._hold_lock() or not self._settled():
            return False
        for queue in transport.queue_names(self._redis):
            self.reap_leases(queue)
        self.walk_live()
        if self._overdue.due():
            for job_id, outcome in self._store.expire_overdue().items():
                log.info("job.overdue", outcome=outcome, **self._facts(job_id))
        if self._files is None or not self._files.is_alive():
            self._files = threading.Thread(target=self.tend_files, name="files", daemon=True)
            self._files.start()
        return True

    def tend_files(self) -> None:
        """Copies that are overdue, and now and then what has expired; as long as it takes."""
        try:
            hand_out_overdue(self._sharing, self._redis)
            if self._sweep.due():
                self._sweeper.sweep()
        except OUTAGES as error:
            log.warning("queue.unreachable", action="files", error=type(error).__name__)
        except Exception as error:
            log.error("files.failed", exc_info=error)

    def reap_leases(self, queue: str) -> None:
        """Give back the jobs of a queue whose lease ran out, then forget those leases."""
        wip = transport.wip_key(queue)
        now = self._now()
        for member in cast("list[bytes]", self._redis.zrangebyscore(wip, "-inf", now)):
            job_id, _, token = member.decode().rpartition(":")
            self._reap(job_id, token, queue)
        # Those renewed meanwhile have a later score and stay.
        self._redis.zremrangebyscore(wip, "-inf", now)

    def walk_live(self) -> None:
        """Look at every id that no queue lists: running without a lease, lost, or left over."""
        now = time.monotonic()
        unlisted = self._unlisted()
        self._missing = {job_id: self._missing.get(job_id, now) for job_id in unlisted}
        for job_id, queue in unlisted.items():
            self._reap(job_id, None, queue)
            # A job between its dequeue and its lease looks lost as well, for an instant.
            if now - self._missing[job_id] >= self._settings.rescue_after_s:
                self._rescue(job_id, queue)

    def _unlisted(self) -> dict[str, str]:
        """Ids that are live or handed out, but in no queue's list; to their queue's name."""
        listed, unlisted = set[str](), dict[str, str]()
        for queue in transport.queue_names(self._redis):
            listed |= self._ids(transport.queue_key(queue))
            unlisted |= dict.fromkeys(self._ids(transport.intermediate_key(queue)), queue)
        pipeline = self._redis.pipeline(transaction=False)
        live = sorted(self._store.live_ids() - listed)
        for job_id in live:
            pipeline.hget(keys.job(job_id), "queue")
        prefix = transport.queue_key("")
        for job_id, key in zip(live, pipeline.execute(), strict=True):
            if key is not None:
                unlisted[job_id] = key.decode().removeprefix(prefix)
        return {job_id: queue for job_id, queue in unlisted.items() if job_id not in listed}

    def _ids(self, key: str) -> set[str]:
        return {item.decode() for item in cast("list[bytes]", self._redis.lrange(key, 0, -1))}

    def _reap(self, job_id: str, token: str | None, queue: str) -> None:
        outcome = self._store.reap(job_id, token, transport.wip_key(queue))
        if outcome == "stale":
            return
        log.warning("job.reaped", outcome=outcome, **self._facts(job_id))
        self._rescue(job_id, queue)

    def _rescue(self, job_id: str, queue: str) -> None:
        if self._store.rescue(job_id, queue) == "pushed":
            log.info("job.returned", **self._facts(job_id))

    def _facts(self, job_id: str) -> dict[str, str]:
        """Which job, and whose, for the log."""
        return {"job_id": job_id, "tenant": read_owner(self._redis, job_id)}

    def _try_round(self) -> None:
        try:
            active = self.work_once()
        except OUTAGES as error:
            # Workers could not renew either: let them, before anybody is declared dead.
            self._quiet_until = time.monotonic() + self._settings.lease_s
            log.warning("queue.unreachable", action="janitor", error=type(error).__name__)
            return
        if active and not self._was_active:
            log.info("janitor.active")
        self._was_active = active

    def _settled(self) -> bool:
        """Whether server and connection have been up for a lease: else every running job, whose
        worker could not renew, would look dead."""
        uptime_s = cast("dict[str, int]", self._redis.info("server"))["uptime_in_seconds"]
        return uptime_s >= self._settings.lease_s and time.monotonic() >= self._quiet_until

    def _hold_lock(self) -> bool:
        milliseconds = int(self._settings.janitor_lock_s * 1000)
        return bool(self._redis.eval(LOCK, 1, keys.JANITOR, self._token, milliseconds))

    def _release(self) -> None:
        try:
            self._redis.eval(UNLOCK, 1, keys.JANITOR, self._token)
        except OUTAGES:
            return  # it expires by itself

    def _now(self) -> float:
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    configure_logging()
    refuse_pickle()
    settings = read_settings(JanitorSettings)
    if settings is None:
        return EXIT_BAD_SETTINGS
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    redis = web_client(settings.redis_url.get_secret_value())
    Janitor(settings, redis).run(lambda: bool(signals))
    return 0


if __name__ == "__main__":
    sys.exit(main())
