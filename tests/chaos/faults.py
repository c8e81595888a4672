"""What is done to a running service, and how long it takes until work goes on.

`began` is when the fault was there: for an outage when it ended, since nothing can go on before.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx

from tests.chaos.clients import client
from tests.chaos.fleet import TENANTS, Fleet, is_running
from worker.jobs import keys
from worker.jobs.contract import TERMINAL, Status
from worker.jobs.outcomes import WorkerInfo
from worker.patience import OUTAGES
from worker.pulse import pulse_file

LIMIT_S = 180.0
LOOK_S = 0.02


class NoVictim(Exception):
    """There is nobody whom this could happen to right now."""


class Stuck(Exception):
    """Work did not go on in time."""


Fault = Callable[[Fleet, random.Random], float]
Condition = Callable[[], bool]

_struck: set[int | str] = set()  # processes, and the store, that are being struck right now


def wait_until(condition: Condition, began: float) -> float:
    """Seconds from `began` until the condition holds. raises Stuck"""
    while time.monotonic() < began + LIMIT_S:
        with suppress(*OUTAGES, OSError, httpx.TransportError):
            if condition():
                return time.monotonic() - began
        time.sleep(LOOK_S)
    raise Stuck


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
    """When work goes on after a worker was lost: its job is in other hands or has ended; if it
    held none, as many workers as before serve again."""
    store = fleet.store
    held = store.peek([worker.job_id]) if worker.job_id else []
    if not held or held[0].status is not Status.IN_PROGRESS or held[0].worker != worker.name:
        return lambda: len(fleet.serving()) >= fleet.workers
    job = held[0]

    def further() -> bool:
        now = store.peek([job.id])
        return not now or now[0].status in TERMINAL or now[0].attempt > job.attempt

    return further


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


def kill_child(fleet: Fleet, rng: random.Random) -> float:
    worker = choose_worker(fleet, rng)
    child = fleet.child_of(worker.pid)
    if child is None:
        raise NoVictim
    with alone(worker.pid):
        condition = gone_on(fleet, worker)
        began = kill(child)
        wait_until(lambda: not is_running(child), began)
        if worker.job_id is None:
            pid, loads = worker.pid, worker.loads

            def again() -> bool:
                more = any(w.pid == pid and w.loads > loads for w in fleet.serving())
                return more or not is_running(pid)

            return wait_until(again, began)
        return wait_until(condition, began)


def kill_supervisor(fleet: Fleet, rng: random.Random) -> float:
    worker = choose_worker(fleet, rng)
    with alone(worker.pid):
        condition = gone_on(fleet, worker)
        began = kill(worker.pid)
        wait_until(lambda: not is_running(worker.pid), began)
        return wait_until(condition, began)


def kill_api(fleet: Fleet, rng: random.Random) -> float:
    pid = choose(fleet, "api", rng)
    tenant = TENANTS[0]
    with alone(pid), client(fleet.url, fleet.keys[tenant]) as http:
        began = kill(pid)
        wait_until(lambda: not is_running(pid), began)
        ask = {"limit": "1"}
        return wait_until(lambda: http.get("/v1/videos", params=ask).status_code == 200, began)


def kill_janitor(fleet: Fleet, rng: random.Random) -> float:
    """Until another one holds the lock, which the dead one leaves to expire."""
    pid = choose(fleet, "janitor", rng)
    with alone(pid):
        try:
            before = fleet.redis.get(keys.JANITOR)
        except OUTAGES as error:
            raise NoVictim from error
        if before is None:
            raise NoVictim
        began = kill(pid)
        return wait_until(lambda: fleet.redis.get(keys.JANITOR) not in (None, before), began)


def kill_webhooks(fleet: Fleet, rng: random.Random) -> float:
    """Until a new process gives a sign of life, as it does in every round."""
    pid = choose(fleet, "webhooks", rng)
    pulse = pulse_file(fleet.data_dir, "webhooks")
    with alone(pid):
        began = kill(pid)
        wait_until(lambda: not is_running(pid), began)
        died = time.time()
        return wait_until(lambda: pulse.stat().st_mtime > died, began)


def kill_queue(fleet: Fleet, rng: random.Random) -> float:
    pid = choose(fleet, "queue", rng)
    with alone("queue"):
        began = kill(pid)
        wait_until(lambda: not is_running(pid), began)
        return wait_until(moving(fleet), began)


def stop_queue(fleet: Fleet, rng: random.Random) -> float:
    """A queue server that answers nobody for up to 12 s, while every connection stays open."""
    pid = choose(fleet, "queue", rng)
    with alone("queue"), stopped(pid):
        time.sleep(rng.uniform(2, 12))
    return wait_until(moving(fleet), time.monotonic())


def stop_supervisor(fleet: Fleet, rng: random.Random) -> float:
    """A zombie: stopped for longer than its lease, then let go on."""
    worker = choose_worker(fleet, rng)
    with alone(worker.pid):
        condition = gone_on(fleet, worker)
        if worker.job_id is None:
            with stopped(worker.pid):
                time.sleep(rng.uniform(1, 3))
            return heard_again(fleet, worker)
        with stopped(worker.pid):
            return wait_until(condition, time.monotonic())


def stop_child(fleet: Fleet, rng: random.Random) -> float:
    """A process that computes nothing for a while."""
    worker = choose_worker(fleet, rng)
    child = fleet.child_of(worker.pid)
    if child is None:
        raise NoVictim
    with alone(worker.pid):
        with stopped(child):
            time.sleep(rng.uniform(1, 4))
        if worker.job_id is None:
            return heard_again(fleet, worker)
        return wait_until(moving(fleet, worker.job_id), time.monotonic())


def take_store(fleet: Fleet, rng: random.Random) -> float:
    """No blob can be read or written for a while, until a film is stored again."""
    with alone("store"):
        fleet.swap_store()
        try:
            time.sleep(rng.uniform(2, 6))
        finally:
            fleet.swap_store()
        began, before = time.monotonic(), count_films(fleet)

        def stored() -> bool:
            return count_films(fleet) > before or not fleet.store.live_ids()

        return wait_until(stored, began)


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


FAULTS: dict[str, Fault] = {
    "child killed": kill_child,
    "supervisor killed": kill_supervisor,
    "API killed": kill_api,
    "janitor killed": kill_janitor,
    "webhook process killed": kill_webhooks,
    "queue server killed": kill_queue,
    "queue server silent for 2 to 12 s": stop_queue,
    "supervisor stopped past its lease": stop_supervisor,
    "child stopped for 1 to 4 s": stop_child,
    "store away for 2 to 6 s": take_store,
}
