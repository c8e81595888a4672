"""The tenants: they order, repeat, cancel and delete over HTTP, and write down what they were told.

They are as patient as an SDK: what the service could not answer is asked again under the same
idempotency key. What was ordered without a key and not answered is not asked again, since nobody
could know what became of it.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx

from tests.chaos.orders import Body, draw_order

WINDOW = 8  # unfinished jobs of one tenant
ENDED = ("completed", "failed")
KEYLESS, REPEATED, EQUAL, CANCELLED, DELETED, CALLED = 0.15, 0.15, 0.08, 0.12, 0.04, 0.4
TIMEOUT_S = 15.0
RETRY_S = 0.2


@dataclass
class Order:
    """One order, and everything its tenant was told about it."""

    tenant: str
    kind: str
    key: str | None
    calls: bool  # wants to be called at the end
    ids: set[str] = field(default_factory=set)  # more than one is a job too many
    refused: str = ""  # an answer that no fault explains
    cancel: str = ""  # the status that the answer to a cancel told
    deleted: bool = False


class Ledger:
    """All orders of all tenants. Safe to share between threads."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self._lock = threading.Lock()

    def add(self, order: Order) -> None:
        """Write an order down before it is sent."""
        with self._lock:
            self.orders.append(order)

    @property
    def accepted(self) -> list[tuple[str, Order]]:
        """Every job that somebody was told of, with its order."""
        return [(job_id, order) for order in self.orders for job_id in sorted(order.ids)]

    def told(self, tenant: str) -> int:
        """How many jobs a tenant was told of."""
        return sum(len(order.ids) for order in list(self.orders) if order.tenant == tenant)

    def unanswered(self, tenant: str) -> int:
        """How many jobs of a tenant there may be that nobody was told of."""
        return sum(not order.ids for order in self.orders if order.tenant == tenant)


class Tenant:
    """One tenant at work in a thread of its own, until it has ordered its share."""

    def __init__(
        self, name: str, url: str, key: str, callback: str, ledger: Ledger, seed: int
    ) -> None:
        self.name = name
        self._http = client(url, key)
        self._callback = callback
        self._ledger = ledger
        self._rng = random.Random(f"{seed} {name}")
        self._waiting: list[str] = []  # ids, oldest first
        self._sources: list[str] = []  # of finished films
        self._last: tuple[str, str, Body] | None = None

    def work(self, count: int, stop: threading.Event) -> None:
        """Order until so many jobs were accepted."""
        with self._http:
            for number in itertools.count():
                self._make_room(stop)
                if stop.is_set() or self._ledger.told(self.name) >= count:
                    return
                self._order(number, stop)

    def _make_room(self, stop: threading.Event) -> None:
        """Wait until fewer jobs are unfinished."""
        while len(self._waiting) >= WINDOW and not stop.wait(0.05):
            for job_id in list(self._waiting):
                answer = self._try("GET", f"/v1/videos/{job_id}")
                if answer is None or answer.status_code >= 500:
                    break
                video = answer.json()
                if answer.status_code == 404 or video["status"] in ENDED:
                    self._waiting.remove(job_id)
                    if video.get("status") == "completed":
                        self._sources.append(job_id)

    def _order(self, number: int, stop: threading.Event) -> None:
        rng = self._rng
        if self._last is not None and rng.random() < EQUAL:
            kind, path, body = self._last  # the same film again, as a job of its own
        else:
            kind, path, body = draw_order(rng, number, self._sources[-4:])
        self._last = kind, path, body
        keyless = rng.random() < KEYLESS
        key = None if keyless else str(UUID(int=rng.getrandbits(128), version=4))
        order = Order(self.name, kind, key, rng.random() < CALLED)
        self._ledger.add(order)
        if order.calls:
            body = body | {"callback_url": self._callback}
        self._send(order, path, body, stop)
        if key is not None and rng.random() < REPEATED:
            self._send(order, path, body, stop)
        fate = rng.random()
        if order.ids and fate < CANCELLED + DELETED:
            stop.wait(rng.uniform(0, 1.5))
            self._end(order, delete=fate < DELETED)

    def _send(self, order: Order, path: str, body: Body, stop: threading.Event) -> None:
        headers = {} if order.key is None else {"Idempotency-Key": order.key}

        def again(answer: httpx.Response | None) -> bool:
            if answer is not None and answer.status_code == 429:
                return True
            return order.key is not None and (answer is None or answer.status_code >= 500)

        answer = self._ask("POST", path, again, stop, json=body, headers=headers)
        if answer is None or answer.status_code >= 500:
            return
        if answer.status_code != 200:
            order.refused = f"{path} {answer.status_code} {answer.text[:300]}"
            return
        job_id = answer.json()["id"]
        if job_id not in order.ids:
            order.ids.add(job_id)
            self._waiting.append(job_id)

    def _end(self, order: Order, *, delete: bool) -> None:
        """Cancel or delete the job; both may be repeated, so they are until answered."""
        job_id = min(order.ids)

        def again(answer: httpx.Response | None) -> bool:
            return answer is None or answer.status_code >= 500 or answer.status_code == 429

        stop = threading.Event()
        if delete:
            order.deleted = True
            self._sources = [source for source in self._sources if source != job_id]
            self._ask("DELETE", f"/v1/videos/{job_id}", again, stop)
            return
        answer = self._ask("POST", f"/v1/videos/{job_id}/cancel", again, stop)
        if answer is not None and answer.status_code == 200:
            order.cancel = answer.json()["status"]

    def _ask(
        self,
        method: str,
        path: str,
        again: Callable[[httpx.Response | None], bool],
        stop: threading.Event,
        **more: Any,
    ) -> httpx.Response | None:
        while True:
            answer = self._try(method, path, **more)
            if not again(answer) or stop.wait(RETRY_S):
                return answer

    def _try(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The answer; None if the connection failed before there was one."""
        with suppress(httpx.TransportError):
            return self._http.request(method, path, **more)
        return None


def client(url: str, key: str) -> httpx.Client:
    """A connection under one key."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)


def order_all(tenants: list[Tenant], jobs: int, stop: threading.Event) -> list[threading.Thread]:
    """Let all tenants order, together so many jobs; the threads, which end by themselves."""
    threads = []
    for index, tenant in enumerate(tenants):
        count = jobs // len(tenants) + (index < jobs % len(tenants))
        thread = threading.Thread(target=tenant.work, args=(count, stop), daemon=True)
        thread.start()
        threads.append(thread)
    return threads


def wait_for_threads(threads: list[threading.Thread], limit_s: float) -> bool:
    """Whether all of them end in time."""
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
