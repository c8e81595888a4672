"""Victims, what is done to one process, and when work has gone on."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx

from tests.chaos.fleet import Fleet, is_running
from worker.jobs import keys
from worker.jobs.contract import TERMINAL, Status
from worker.jobs.outcomes import WorkerInfo
from worker.patience import OUTAGES

LIMIT_S = 180.0
LOOK_S = 0.02

Condition = Callable[[], bool]

_struck: set[int | str] = set()  # processes, and the store, that are being struck right now


class NoVictim(Exception):
    """There is nobody whom this could happen to right now."""


class Stuck(Exception):
    """Work did not go on in time."""


def wait_until(condition: Condition, began: float) -> float:
    """Seconds from `began` until the condition holds. raises Stuck"""
    while time.monotonic() < began + LIMIT_S:
        if happens(condition):
            return time.monotonic() - began
        time.sleep(LOOK_S)
    raise Stuck


def happens(condition: Condition) -> bool:
    """Whether the condition holds; nobody knows while something is away that it asks."""
    with suppress(*OUTAGES, OSError, httpx.TransportError):
        return condition()
    return False


@contextmanager
def alone(victim: int | str) -> Iterator[None]:
    """Keep others from striking the same one. raises NoVictim if somebody does already"""
    if victim in _struck:
        raise NoVictim
    _struck.add(victim)
    try:
        yield
    finally:
        _struck.discard(victim)


def choose(fleet: Fleet, role: str, rng: random.Random) -> int:
    """One process of a role. raises NoVictim"""
    found = [pid for pid in fleet.parts().get(role, []) if pid not in _struck]
    if not found:
        raise NoVictim
    return rng.choice(found)


def choose_worker(fleet: Fleet, rng: random.Random) -> WorkerInfo:
    """A worker that has its model loaded, a busy one if there is any. raises NoVictim"""
    try:
        found = [worker for worker in fleet.serving() if worker.pid not in _struck]
    except OUTAGES as error:
        raise NoVictim from error
    busy = [worker for worker in found if worker.job_id]
    if not found:
        raise NoVictim
    return rng.choice(busy or found)


def gone_on(fleet: Fleet, worker: WorkerInfo) -> Condition:
    """When work goes on after a worker was lost: its job has ended, is in other hands, or stands in
    line again and the line moves, so that it waits for nothing but its turn; if the worker held
    none, when another one serves."""
    store = fleet.store
    held = store.peek([worker.job_id]) if worker.job_id else []
    if not held or held[0].status is not Status.IN_PROGRESS or held[0].worker != worker.name:
        return replaced(fleet)
    job = held[0]
    seen: set[tuple[str, int]] = set()  # attempts that ran when it was first seen in line

    def further() -> bool:
        now = store.peek([job.id])
        if not now or now[0].status in TERMINAL or now[0].attempt > job.attempt:
            return True
        if not stands_in_line(fleet, job.id):
            return False
        live = store.peek(sorted(store.live_ids()))
        running = {(j.id, j.attempt) for j in live if j.status is Status.IN_PROGRESS}
        if not seen:
            seen.update(running | {("", 0)})
        return not running <= seen

    return further


def stands_in_line(fleet: Fleet, job_id: str) -> bool:
    """Whether a worker that is free and has served everybody before would take this job."""
    queue = fleet.redis.hget(keys.job(job_id), "queue")
    return queue is not None and fleet.redis.lpos(queue.decode(), job_id) is not None


def replaced(fleet: Fleet) -> Condition:
    """When a worker serves that does not now: a new one, or one that has loaded its model anew."""
    before = {(worker.name, worker.loads) for worker in fleet.serving()}
    return lambda: any((w.name, w.loads) not in before for w in fleet.serving())


def moving(fleet: Fleet, job_id: str | None = None) -> Condition:
    """When work goes on after an outage: a running job, or this one, has got further; at once if
    none runs."""
    store = fleet.store
    seen: dict[str, tuple[object, ...]] = {}

    def further() -> bool:
        watched = store.live_ids() if job_id is None else {job_id}
        now = {job.id: job for job in store.peek(sorted(watched))}
        running = {i: j for i, j in now.items() if j.status is Status.IN_PROGRESS}
        if not seen:
            seen.update({i: (j.stage, j.step, j.attempt) for i, j in running.items()})
            return not seen
        return any(
            i not in now or (now[i].stage, now[i].step, now[i].attempt) != before
            for i, before in seen.items()
        )

    return further


def kill(pid: int) -> float:
    """SIGKILL; when."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return time.monotonic()


@contextmanager
def full(pid: int) -> Iterator[None]:
    """No file of this process grows. raises NoVictim"""
    try:
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    except ProcessLookupError as error:
        raise NoVictim from error
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def count_films(fleet: Fleet) -> int:
    return sum(1 for _ in (fleet.data_dir / "artifacts").glob("*/*/*/video.mp4"))


def heard_again(fleet: Fleet, worker: WorkerInfo) -> float:
    """Until a worker that was let go on says something, or is gone for another reason."""
    began, since = time.monotonic(), time.time()
    return wait_until(
        lambda: fleet.store.heard().get(worker.name, 0) > since or not is_running(worker.pid),
        began,
    )


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT whatever happens."""
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError as error:
        raise NoVictim from error
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
