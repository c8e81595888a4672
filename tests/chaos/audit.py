"""What must hold once everything has ended, read from outside and from the rows and files.

`lost`     a job that was accepted and has not ended, or failed though nobody asked; a film that is
           not there or not the one that the row names; a call that never came
`doubled`  one order with two jobs, two ends or two films; a job that nobody ordered
`leaked`   what belongs to nobody: files, leases, slots; and whatever another tenant gets to see
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import httpx

from tests.chaos.clients import Ledger, Order, client
from tests.chaos.orders import POISON
from tests.chaos.place import Place
from worker.jobs import keys, transport
from worker.jobs.contract import TERMINAL, ErrorCode, Job, Status
from worker.jobs.inputs import InputShelf
from worker.jobs.outcomes import JobNotFound
from worker.orphans import clear_orphans
from worker.shelf import Shelf

CLEAN_S = 90.0  # workers and janitor may still be clearing up


@dataclass
class Findings:
    """What does not hold: a line each. And how the jobs ended."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """Whether all holds."""
        return not (self.lost or self.doubled or self.leaked)


class Audit:
    """One look at everything. `collect_garbage` first, as the janitor does it every hour."""

    def __init__(self, fleet: Place, ledger: Ledger) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._store = fleet.store
        self._artifacts = fleet.artifacts
        self._found = Findings()
        self._http = {name: client(fleet.url, key) for name, key in fleet.keys.items()}
        self._named: set[str] = set()  # keys of all blobs that a row stands for

    def run(self) -> Findings:
        """Look at every job, tenant and file."""
        for order in self._ledger.orders:
            self._look_at_order(order)
        for job_id, order in self._ledger.accepted:
            self._look_at_job(job_id, order)
        for tenant in self._fleet.keys:
            self._look_at_tenant(tenant)
        self._look_at_calls()
        self._look_at_files()
        self._look_at_slots()
        for http in self._http.values():
            http.close()
        return self._found

    # Orders and jobs

    def _look_at_order(self, order: Order) -> None:
        if len(order.ids) > 1:
            self._found.doubled.append(f"one order has the jobs {sorted(order.ids)}")
        if order.refused:
            self._found.lost.append(f"an order of {order.kind} was refused: {order.refused}")

    def _look_at_job(self, job_id: str, order: Order) -> None:
        row = self._fleet.redis.hget(keys.job(job_id), "state")
        if row is None or row.decode() not in TERMINAL:
            self._found.lost.append(f"{job_id} has not ended: {row!r}")
            return
        self._look_from_abroad(job_id, order)
        if order.deleted:
            self._found.ended["deleted"] += 1
            if self._get(order.tenant, f"/v1/videos/{job_id}").status_code != 404:
                self._found.leaked.append(f"{job_id} is seen although it was deleted")
            return
        try:
            job = self._store.get(job_id, order.tenant)
        except JobNotFound:
            self._found.lost.append(f"{job_id} is not its tenant's")
            return
        self._look_at_end(job, order)
        self._look_at_events(job)
        if job.status is Status.COMPLETED:
            self._look_at_film(job)

    def _look_at_end(self, job: Job, order: Order) -> None:
        code = "" if job.error is None else job.error.code.value
        poisoned = order.kind == POISON and code == ErrorCode.WORKER_LOST
        self._found.ended[POISON if poisoned else code or job.status.value] += 1
        if order.cancel == Status.FAILED and code != ErrorCode.CANCELLED:
            self._found.lost.append(f"{job.id} was told to be cancelled and is {job.status} {code}")
        if code == ErrorCode.CANCELLED and order.cancel:
            return
        if order.kind == POISON and job.status is Status.COMPLETED:
            self._found.doubled.append(f"{job.id} cannot be made, and is completed")
        if job.status is Status.COMPLETED:
            return
        tried = len(job.attempts)
        if code != ErrorCode.WORKER_LOST or tried < self._store.settings.max_attempts:
            reasons = [attempt.reason for attempt in job.attempts]
            self._found.lost.append(f"{job.id} ({order.kind}) failed: {job.error}; {reasons}")

    def _look_at_events(self, job: Job) -> None:
        events = self._store.events.read(job.id, None).events
        ends = [event.type for event in events if event.type in TERMINAL]
        if ends != [job.status.value]:
            kind = self._found.lost if not ends else self._found.doubled
            kind.append(f"{job.id} is {job.status} and told {ends}")

    def _look_at_film(self, job: Job) -> None:
        """Exactly one, and every byte of it the published one's."""
        assert job.result is not None
        result = job.result
        pictures = (result.video, result.thumbnail, result.spritesheet, result.last_frame)
        for artifact in (*pictures, result.sidecar):
            if artifact is None:
                continue
            path = self._artifacts.path(artifact.key)
            digest = None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
            if digest != artifact.sha256:
                self._found.lost.append(f"{artifact.key} is not what was published: {digest}")
        served = b""
        with suppress(httpx.TransportError):  # as of a film that is shorter than it should be
            served = self._get(job.tenant, f"/v1/videos/{job.id}/content").content
        told = self._get(job.tenant, f"/v1/videos/{job.id}").json()["content_sha256"]
        if not hashlib.sha256(served).hexdigest() == told == result.video.sha256:
            self._found.lost.append(f"{job.id}: its content is not the film that its row names")

    # Tenants

    def _look_from_abroad(self, job_id: str, order: Order) -> None:
        for tenant in self._http:
            if tenant == order.tenant:
                continue
            for path in ("", "/content", "/events"):
                answer = self._get(tenant, f"/v1/videos/{job_id}{path}")
                if answer.status_code != 404:
                    line = f"{tenant} gets {answer.status_code} for {job_id}{path}"
                    self._found.leaked.append(line)

    def _look_at_tenant(self, tenant: str) -> None:
        listed = set(self._list(tenant))
        accepted = {i for i, order in self._ledger.accepted if order.tenant == tenant}
        kept = {i for i, o in self._ledger.accepted if o.tenant == tenant and not o.deleted}
        self._found.lost += [f"{job_id} is not listed" for job_id in sorted(kept - listed)]
        more = sorted(listed - accepted)
        if len(more) > self._ledger.unanswered(tenant):
            self._found.doubled.append(f"{tenant} has jobs that it did not order: {more}")
        for job in self._store.peek(listed | accepted):
            if job.tenant != tenant:
                self._found.leaked.append(f"{tenant} is shown a job of {job.tenant}: {job.id}")
            makers = self._fleet.redis.hget(keys.job(job.id), "made_by")
            made = self._store.peek([makers.decode()]) if makers else []
            if any(maker.tenant != job.tenant for maker in made):
                self._found.leaked.append(f"{job.id} has a film of another tenant")

    def _list(self, tenant: str) -> Iterable[str]:
        after: dict[str, str] = {}
        while True:
            page = self._get(tenant, "/v1/videos", limit="100", **after).json()
            yield from (video["id"] for video in page["data"])
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def _get(self, tenant: str, path: str, **query: str) -> httpx.Response:
        return self._http[tenant].get(path, params=query)

    # Calls

    def _look_at_calls(self) -> None:
        told: dict[str, set[tuple[str, str]]] = {}
        for request in self._fleet.receiver.requests():
            event = json.loads(request.body)
            seen = (request.headers["webhook-id"], event["data"]["status"])
            told.setdefault(event["data"]["id"], set()).add(seen)
        for job_id, order in self._ledger.accepted:
            if not order.calls or order.deleted:
                continue
            calls = told.get(job_id, set())
            status = self._fleet.redis.hget(keys.job(job_id), "state")
            if not calls:
                self._found.lost.append(f"nobody was called at the end of {job_id}")
            elif {s for _, s in calls} != {cast("bytes", status).decode()} or len(calls) > 1:
                self._found.doubled.append(f"{job_id} called with {sorted(calls)}")

    # Files and slots

    def _look_at_files(self) -> None:
        known = {job_id for job_id, _ in self._ledger.accepted}
        for tenant in self._fleet.keys:
            known |= set(self._list(tenant))
        for job in self._store.peek(sorted(known)):
            self._named |= set(named_keys(job.model_dump(mode="json")))
        films: Counter[str] = Counter()
        for blob in self._artifacts.list(""):
            job_id = blob.key.split("/")[1] if blob.key.count("/") else ""
            films[job_id] += blob.key.endswith("/video.mp4") and "/inputs/" not in blob.key
            if blob.key not in self._named:
                self._found.leaked.append(f"no row names {blob.key}")
        self._found.doubled += [f"{i} has {n} films" for i, n in films.items() if n > 1]
        shelf = Shelf(self._fleet.settings.shelf_dir)
        self._found.leaked += [f"the film of {i} is still on the shelf" for i in shelf.jobs()]

    def _look_at_slots(self) -> None:
        for what, held in held_slots(self._fleet).items():
            self._found.leaked.append(f"{what} still holds {held}")


def named_keys(value: object) -> Iterable[str]:
    """The keys of all artifacts that a row names, inputs and results alike."""
    if isinstance(value, dict):
        if "sha256" in value and "key" in value:
            yield value["key"]
        for inner in value.values():
            yield from named_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from named_keys(inner)


def held_slots(fleet: Place) -> dict[str, int]:
    """What only running or waiting jobs may hold on the queue server."""
    redis = fleet.redis
    held = {"the list of live jobs": redis.scard(keys.LIVE), "outbox": redis.zcard(keys.OUTBOX)}
    held["handout"] = redis.zcard(keys.HANDOUT)
    held |= {f"{t}'s cap": redis.scard(keys.tenant_active(t)) for t in fleet.keys}
    for queue in transport.queue_names(redis):
        held[f"queue {queue}"] = redis.llen(transport.queue_key(queue))
        held[f"leases of {queue}"] = redis.zcard(transport.wip_key(queue))
        held[f"dequeued of {queue}"] = redis.llen(transport.intermediate_key(queue))
    return {what: int(cast(int, count)) for what, count in held.items() if count}


def wait_for(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether a condition comes to hold in time; faults of the queue server are waited out."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return True
        except Exception:
            time.sleep(0.5)
        time.sleep(0.1)
    return False


def collect_garbage(fleet: Place) -> None:
    """What the janitor does every minute and every hour, at once and without regard for age."""
    wait_for(lambda: not held_slots(fleet), CLEAN_S)
    clear_orphans(fleet.redis, fleet.artifacts, young_s=0.0)
    InputShelf(fleet.redis, fleet.artifacts).sweep()
    shelf, live = Shelf(fleet.settings.shelf_dir), fleet.store.live_ids()
    for job_id in shelf.jobs():
        if job_id not in live:
            shelf.drop(job_id)
