"""What is done to a running service, and how long it takes until work goes on.

Seconds count from when the fault was there; for an outage from its end, since nothing can go on
before.
"""

import random
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

from tests.chaos.clients import client
from tests.chaos.fleet import TENANTS, Fleet, is_running
from tests.chaos.watch import (
    LOOK_S,
    NoVictim,
    alone,
    choose,
    choose_worker,
    count_films,
    full,
    gone_on,
    happens,
    heard_again,
    kill,
    moving,
    replaced,
    stopped,
    wait_until,
)
from worker.jobs import keys
from worker.patience import OUTAGES
from worker.pulse import pulse_file

Fault = Callable[[Fleet, random.Random], float]

HALF_OPEN = 200  # connections
BEGINNING = (
    b"POST /v1/videos HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)


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


def fill_disk(fleet: Fleet, rng: random.Random) -> float:
    """A child cannot write a byte more, until an attempt has failed of it or 3 s have passed."""
    worker = choose_worker(fleet, rng)
    child = fleet.child_of(worker.pid)
    if child is None or worker.job_id is None:
        raise NoVictim
    with alone(worker.pid):
        condition = gone_on(fleet, worker)
        with full(child):
            until = time.monotonic() + 3
            while time.monotonic() < until and not happens(condition):
                time.sleep(LOOK_S)
        return wait_until(condition, time.monotonic())


def spoil_weights(fleet: Fleet, rng: random.Random) -> float:
    """A child dies while its weights are damaged; until a worker has loaded them mended."""
    worker = choose_worker(fleet, rng)
    child = fleet.child_of(worker.pid)
    if child is None:
        raise NoVictim
    with alone(worker.pid), alone("weights"):
        with fleet.spoiled_weights():
            again = replaced(fleet)
            kill(child)
            time.sleep(rng.uniform(2, 6))
        return wait_until(again, time.monotonic())


def cut_connections(fleet: Fleet, rng: random.Random) -> float:
    """Every connection to the queue server is gone at once; what was blocked in one hears of it."""
    with alone("queue"):
        try:
            for kind in ("normal", "pubsub"):
                fleet.redis.client_kill_filter(_type=kind, skipme=True)
        except OUTAGES as error:
            raise NoVictim from error
        return wait_until(moving(fleet), time.monotonic())


def hold_half_open(fleet: Fleet, rng: random.Random) -> float:
    """Callers who begin a request and fall silent, their connections open; until one is served."""
    address = urlsplit(fleet.url)
    with ExitStack() as silent, client(fleet.url, fleet.keys[TENANTS[1]]) as http:
        for _ in range(HALF_OPEN):
            try:
                peer = socket.create_connection((address.hostname or "", address.port or 0), 5)
            except OSError as error:
                raise NoVictim from error
            silent.enter_context(peer)
            peer.sendall(BEGINNING % fleet.keys[TENANTS[1]].encode())
        began = time.monotonic()
        recovered_s = wait_until(lambda: http.get("/v1/videos").status_code == 200, began)
        time.sleep(rng.uniform(1, 3))
        return recovered_s


FAULTS: dict[str, Fault] = {
    "child killed": kill_child,
    "supervisor killed": kill_supervisor,
    "API killed": kill_api,
    "janitor killed": kill_janitor,
    "webhook process killed": kill_webhooks,
    "queue server killed": kill_queue,
    "queue server silent for 2 to 12 s": stop_queue,
    "supervisor stopped past its lease": stop_supervisor,
    "connections to the queue server cut": cut_connections,
    "200 half-open connections to the API": hold_half_open,
    "disk full for a child": fill_disk,
    "weights damaged for 2 to 6 s": spoil_weights,
    "child stopped for 1 to 4 s": stop_child,
    "store away for 2 to 6 s": take_store,
}
