"""When each waiting job will start and end, reckoned from what workers say about themselves.

The time to the end is the work ahead, shared by the workers, and the job's own run. One picture
per model serves everybody for a second; a job that came after it was taken is put at its end.
"""

import heapq
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from worker.jobs.catalog import CostCurve, ModelCard
from worker.jobs.contract import Job, Status, VideoRequest
from worker.jobs.costs import Estimate, estimate
from worker.jobs.outcomes import WorkerInfo
from worker.jobs.store import JobStore

FRESH_S = 1.0
UP = ("idle", "busy")  # states of a worker that takes jobs


@dataclass
class Picture:
    """One model's workers and queue at a moment. Moments are of the monotonic clock."""

    at: float
    curve: CostCurve
    workers: tuple[WorkerInfo, ...] = ()  # those that take jobs
    free: list[tuple[float, int]] = field(default_factory=list)  # heap: when, which worker
    ends: dict[str, float] = field(default_factory=dict)  # of waiting jobs

    def add(self, job_id: str, request: VideoRequest) -> None:
        """Put a job behind all others: whoever is free first takes it."""
        free_at, index = heapq.heappop(self.free)
        run_s = estimate(request, self.curve, self.workers[index].samples).total_s
        heapq.heappush(self.free, (free_at + run_s, index))
        self.ends[job_id] = free_at + run_s

    def run_s(self, request: VideoRequest) -> float:
        """How long a job runs, on average over the workers."""
        runs = [estimate(request, self.curve, w.samples).total_s for w in self.workers]
        return sum(runs) / len(runs)


class Outlook:
    """Forecasts for every model. Safe to share between threads."""

    def __init__(self, store: JobStore, cards: Mapping[str, ModelCard]) -> None:
        self._store = store
        self._cards = cards
        self._pictures: dict[str, Picture] = {}
        self._requests: dict[str, VideoRequest] = {}  # of waiting jobs
        self._lock = threading.Lock()

    def seen(self, job: Job) -> Job:
        """The job with the time to its end as of now, or none where nobody can tell."""
        return job.model_copy(update={"eta_s": self.eta_s(job)})

    def eta_s(self, job: Job) -> float | None:
        """Seconds to the job's end; None while no worker is up, and once it has ended."""
        picture = self._picture(job.request.model)
        if job.status is Status.IN_PROGRESS:
            left = remaining_s(job)
            if left is None and picture is not None:
                left = max(0.0, picture.run_s(job.request) - since_s(job.started_at))
            return None if left is None else round(left, 2)
        if job.status is not Status.QUEUED or picture is None:
            return None
        with self._lock:
            if job.id not in picture.ends:
                picture.add(job.id, job.request)
            return round(max(0.0, picture.ends[job.id] - time.monotonic()), 2)

    def run_s(self, request: VideoRequest) -> float | None:
        """How long the request will run once it is its turn; None while nobody can tell."""
        picture = self._picture(request.model)
        return None if picture is None else round(picture.run_s(request), 3)

    def prospects(self, request: VideoRequest) -> list[tuple[Estimate, float | None]]:
        """What the request takes on each worker that measured anything, and its memory in MiB."""
        picture = self._picture(request.model)
        known = [w for w in picture.workers if w.samples] if picture else []
        curve = self._curve(request.model)
        return [(estimate(request, curve, w.samples), w.memory_mb) for w in known]

    def _curve(self, model: str) -> CostCurve:
        card = self._cards.get(model)
        return card.cost if card else CostCurve()

    def _picture(self, model: str) -> Picture | None:
        """The model's picture, or None while no worker is up or the queue server is away."""
        picture = self._pictures.get(model)
        if picture is None or time.monotonic() - picture.at > FRESH_S:
            # A forecast is never worth failing an answer, nor waiting for another's reading.
            with suppress(RedisError):
                picture = self._refreshed(model)
        return picture if picture is not None and picture.workers else None

    def _refreshed(self, model: str) -> Picture:
        with self._lock:
            known = self._pictures.get(model)
            if known is not None and time.monotonic() - known.at <= FRESH_S:
                return known  # another thread has just taken it
            picture = self._take(model)
            self._pictures[model] = picture
            return picture

    def _take(self, model: str) -> Picture:
        """raises RedisError"""
        workers = tuple(
            worker
            for worker in self._store.workers()
            if worker.model == model and worker.state in UP
        )
        picture = Picture(time.monotonic(), self._curve(model), workers)
        if not workers:
            return picture
        running = {job.id: job for job in self._store.peek(w.job_id for w in workers if w.job_id)}
        picture.free = [
            (picture.at + self._busy_s(picture, running.get(worker.job_id or "")), index)
            for index, worker in enumerate(workers)
        ]
        heapq.heapify(picture.free)
        for job_id, request in self._waiting(model):
            picture.add(job_id, request)
        return picture

    def _busy_s(self, picture: Picture, job: Job | None) -> float:
        if job is None or job.status is not Status.IN_PROGRESS:
            return 0.0
        left = remaining_s(job)
        return picture.run_s(job.request) if left is None else left

    def _waiting(self, model: str) -> Iterable[tuple[str, VideoRequest]]:
        """The waiting jobs in the order in which they will be served."""
        ids = self._store.waiting(model)
        strangers = [job_id for job_id in ids if job_id not in self._requests]
        found = {job.id: job.request for job in self._store.peek(strangers)} if strangers else {}
        here = self._requests | found
        others = {i: r for i, r in self._requests.items() if r.model != model}
        waiting = [(job_id, here[job_id]) for job_id in ids if job_id in here]
        self._requests = others | dict(waiting)
        return waiting


def remaining_s(job: Job) -> float | None:
    """What is left of a running job, as its worker said it a moment ago."""
    if job.eta_s is None:
        return None
    return max(0.0, job.eta_s - since_s(job.reported_at))


def since_s(moment: float | None) -> float:
    """Seconds since a moment of the queue server's clock."""
    return 0.0 if moment is None else max(0.0, time.time() - moment)


def median_error(pairs: Sequence[tuple[float, float]]) -> float:
    """The median of |forecast - actual| / actual over (forecast, actual) pairs of seconds."""
    errors = sorted(abs(forecast - actual) / actual for forecast, actual in pairs)
    middle = len(errors) // 2
    return errors[middle] if len(errors) % 2 else (errors[middle - 1] + errors[middle]) / 2
