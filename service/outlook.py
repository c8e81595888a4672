"""When each waiting job will start and end, reckoned from what workers say about themselves.

The time to the end is the work ahead, shared by the workers, and the job's own run. One picture
serves everybody for a second: of one model or, where workers serve several, of all models that have
a worker in common, whose jobs are then taken to have their turns one by one, tier after tier. A job
that came after it was taken is put at its end, unless jobs ahead of it were cancelled, failed or
given back since: then the picture is retaken. It reads only so many rows that are new to it, evenly
spread over the queue; those between are taken to be like the one before them until a later picture
has read them. A model that a worker does not hold is reckoned to be loaded there once.
"""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from worker.jobs.catalog import CostCurve, ModelCard
from worker.jobs.contract import Job, Status, Tier, VideoRequest
from worker.jobs.costs import Estimate, decisive, estimate
from worker.jobs.outcomes import Serving, WorkerInfo
from worker.jobs.pause import Pause
from worker.jobs.store import JobStore

FRESH_S = 1.0
READ_AT_ONCE = 250  # rows that are new to a picture: whoever asks waits for them
EFFORT = 0.1  # of the time at most goes into retaking pictures, however often something is upset
UP = ("idle", "busy")  # states of a worker that takes jobs

Line = Sequence[tuple[str, str]]  # waiting jobs and their models, next one first


@dataclass
class Picture:
    """Some models' workers and queues at a moment. Moments are of the monotonic clock."""

    at: float
    curves: Mapping[str, CostCurve]  # of each of the models
    workers: tuple[WorkerInfo, ...] = ()  # those that take jobs of any of them
    upsets: int = 0  # that it knows of
    took_s: float = 0.0
    retaken_at: float = -math.inf  # when one was last taken because of an upset
    free: list[tuple[float, int]] = field(default_factory=list)  # heap: when, which worker
    ends: dict[str, float] = field(default_factory=dict)  # of waiting jobs
    requests: dict[str, VideoRequest] = field(default_factory=dict)  # of the same
    _runs: dict[tuple[int, str, tuple[object, ...]], float] = field(default_factory=dict)
    _fetched: set[tuple[int, str]] = field(default_factory=set)  # models that are loaded by then

    def __post_init__(self) -> None:
        self._served = [
            {each.model: each for each in worker.serving if not each.broken}
            for worker in self.workers
        ]

    def serving(self, model: str) -> list[Serving]:
        """What each worker says of a model, of those that take its jobs."""
        return [served[model] for served in self._served if model in served]

    def add(self, job_id: str, request: VideoRequest) -> None:
        """Put a job behind all others: whoever is free first takes it."""
        self.presume(job_id, request)
        self.requests[job_id] = request

    def presume(self, job_id: str, like: VideoRequest) -> None:
        """Put a job that was not read behind all others, as if it asked for the same."""
        free_at, index = self._first_free(like.model)
        end = free_at + self._load_on(index, like.model) + self._run_on(index, like)
        heapq.heappush(self.free, (end, index))
        self.ends[job_id] = end

    def _first_free(self, model: str) -> tuple[float, int]:
        """Takes the first worker that takes a model's jobs out of the heap."""
        others = []
        while model not in self._served[self.free[0][1]]:
            others.append(heapq.heappop(self.free))
        found = heapq.heappop(self.free)
        for each in others:
            heapq.heappush(self.free, each)
        return found

    def _load_on(self, index: int, model: str) -> float:
        """How long a worker takes to load a model for its next job."""
        serving = self._served[index][model]
        if serving.loaded or (index, model) in self._fetched:
            return 0.0
        self._fetched.add((index, model))
        return serving.load_s or 0.0

    def _run_on(self, index: int, request: VideoRequest) -> float:
        """How long a job runs on one worker; of thousands that wait most are alike."""
        kind = (index, request.model, decisive(request))
        if kind not in self._runs:
            self._runs[kind] = self._estimate(request, self._served[index][request.model]).total_s
        return self._runs[kind]

    def _estimate(self, request: VideoRequest, serving: Serving) -> Estimate:
        return estimate(request, self.curves[request.model], serving.samples)

    def hand_over(self, job: Job) -> None:
        """Put a job ahead that has just left the queue: no worker speaks of it yet, or it ended."""
        if job.status is Status.QUEUED:
            self.add(job.id, job.request)
        elif job.status is Status.IN_PROGRESS:
            free_at, index = self._first_free(job.request.model)
            heapq.heappush(self.free, (free_at + self.left_s(job), index))

    def run_s(self, request: VideoRequest) -> float:
        """How long a job runs, on average over the workers."""
        estimates = [self._estimate(request, each) for each in self.serving(request.model)]
        return sum(each.total_s for each in estimates) / len(estimates)

    def left_s(self, job: Job) -> float:
        """How long a running job still takes: as its worker said it, else as jobs like it do."""
        request = job.request
        if job.cancel_requested:  # at its next step
            steps = [self._estimate(request, each).step_s for each in self.serving(request.model)]
            return sum(steps) / len(steps) if steps else 0.0
        left_s = remaining_s(job)
        if left_s is None and self.serving(request.model):
            left_s = max(0.0, self.run_s(request) - since_s(job.started_at))
        return left_s or 0.0


@dataclass(frozen=True)
class Prospect:
    """What a request would take on one worker, its memory in MiB if known, and its class."""

    estimate: Estimate
    memory_mb: float | None
    gpu_class: str


class Outlook:
    """Forecasts for every model. Safe to share between threads."""

    def __init__(self, store: JobStore, cards: Mapping[str, ModelCard]) -> None:
        self._store = store
        self._cards = cards
        self._pictures: dict[str, Picture] = {}
        self._lock = threading.Lock()

    def seen(self, job: Job) -> Job:
        """The job with the time to its end as of now, or none where nobody can tell."""
        return job.model_copy(update={"eta_s": self.eta_s(job)})

    def eta_s(self, job: Job) -> float | None:
        """Seconds to the job's end; None while no worker is up, and once it has ended."""
        picture = self._picture(job.request.model)
        if job.status is Status.IN_PROGRESS:
            left = picture.left_s(job) if picture else remaining_s(job)
            return None if left is None else round(left, 2)
        if job.status is not Status.QUEUED or picture is None:
            return None
        if job.id not in picture.ends:  # its first forecast is the one that is remembered
            picture = self._undisturbed(picture, job.request.model)
        with self._lock:
            if job.id not in picture.ends:
                picture.add(job.id, job.request)
            return round(max(0.0, picture.ends[job.id] - time.monotonic()), 2)

    def run_s(self, request: VideoRequest) -> float | None:
        """How long the request will run once it is its turn; None while nobody can tell."""
        picture = self._picture(request.model)
        return None if picture is None else round(picture.run_s(request), 3)

    def prospects(self, request: VideoRequest) -> list[Prospect]:
        """What the request takes on each worker that measured anything."""
        picture = self._picture(request.model)
        curve = self._curve(request.model)
        return [
            Prospect(estimate(request, curve, each.samples), each.memory_mb, worker.gpu_class)
            for worker in (picture.workers if picture else ())
            if (each := worker.of(request.model)) and each.samples
        ]

    def weights(self, model: str) -> str | None:
        """Digest of the weights of every worker of a model; None if they differ, one has not
        loaded it yet, or none is up."""
        picture = self._picture(model)
        serving = picture.serving(model) if picture else []
        found = {each.weights_sha256 for each in serving}
        return found.pop() or None if len(found) == 1 else None

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
        return picture if picture is not None and picture.serving(model) else None

    def _undisturbed(self, picture: Picture, model: str) -> Picture:
        """The picture, or a new one if jobs in it have stopped before their time."""
        if time.monotonic() - picture.retaken_at < picture.took_s / EFFORT:
            return picture
        with suppress(RedisError):
            if self._upsets(picture.curves) != picture.upsets:
                fresh = self._refreshed(model, picture.at)
                return fresh if fresh.serving(model) else picture
        return picture

    def _refreshed(self, model: str, than: float | None = None) -> Picture:
        """A new picture: one that is newer `than` a moment. raises RedisError"""
        oldest = time.monotonic() - FRESH_S if than is None else than
        with self._lock:
            known = self._pictures.get(model)
            if known is not None and known.at > oldest:
                return known  # another thread has just taken it
            picture = self._take(model, known.requests if known else {})
            picture.took_s = time.monotonic() - picture.at
            if than is not None:
                picture.retaken_at = picture.at
            elif known is not None:
                picture.retaken_at = known.retaken_at
            self._pictures |= dict.fromkeys(picture.curves, picture)
            return picture

    def _upsets(self, models: Iterable[str]) -> int:
        return sum(map(self._store.upsets, models))

    def _take(self, model: str, known: dict[str, VideoRequest]) -> Picture:
        """raises RedisError

        known  jobs that waited a moment ago
        """
        at = time.monotonic()
        up = [worker for worker in self._store.workers() if worker.state in UP]
        models, workers = related(model, up)
        curves = {each: self._curve(each) for each in models}
        picture = Picture(at, curves, workers, self._upsets(models))
        if not workers:
            return picture
        line = self._line(models)
        begun = {w.job_id for w in workers if w.job_id}
        gone = lately_gone(known, begun | {job_id for job_id, _ in line})
        found = {job.id: job for job in self._store.peek([*begun, *gone, *unread(line, known)])}
        busy = [found.get(worker.job_id or "") for worker in workers]
        picture.free = [
            (at + picture.left_s(job) if job and job.status is Status.IN_PROGRESS else at, index)
            for index, job in enumerate(busy)
        ]
        heapq.heapify(picture.free)
        for job_id in gone:
            if job_id in found and picture.serving(found[job_id].request.model):
                picture.hand_over(found[job_id])
        requests = known | {job_id: job.request for job_id, job in found.items()}
        _line_up(picture, line, requests)
        return picture

    def _line(self, models: Sequence[str]) -> Line:
        """Who waits for these models, next one first; for paused ones, after all others."""
        if len(models) == 1:
            return [(job_id, models[0]) for job_id in self._store.waiting(models[0])]
        switch = Pause(self._store.redis)
        paused = [model for model in models if switch.is_paused(model)]
        served = [model for model in models if model not in paused]
        return [*self._shared_line(served), *self._shared_line(paused)]

    def _shared_line(self, models: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The waiting jobs of each tier, one of every model in turn."""
        for tier in Tier:
            waiting = (
                [(job_id, model) for job_id in self._store.waiting(model, tier)] for model in models
            )
            for turns in itertools.zip_longest(*waiting):
                yield from (each for each in turns if each is not None)


def related(model: str, up: Sequence[WorkerInfo]) -> tuple[list[str], tuple[WorkerInfo, ...]]:
    """A model, the workers that serve it, all others that these serve, and so on."""
    models, names = {model}, set[str]()
    while more := [each for each in up if each.name not in names and models & {*each.models}]:
        names.update(each.name for each in more)
        models.update(*(each.models for each in more))
    return sorted(models), tuple(worker for worker in up if worker.name in names)


def unread(line: Line, known: Mapping[str, VideoRequest]) -> list[str]:
    """Those of a line that are to be read: so many, evenly spread over each model's new ones."""
    new: dict[str, list[str]] = {}
    for job_id, model in line:
        if job_id not in known:
            new.setdefault(model, []).append(job_id)
    share = max(1, READ_AT_ONCE // max(1, len(new)))
    return [job_id for ids in new.values() for job_id in evenly(ids, share)]


def _line_up(picture: Picture, line: Line, requests: Mapping[str, VideoRequest]) -> None:
    """Put the waiting jobs into a picture, those nobody has read as the one before them."""
    before: dict[str, VideoRequest] = {}
    for job_id, model in line:
        request = requests.get(job_id)
        if request is not None:
            picture.add(job_id, request)
            before[model] = request
        elif model in before:
            picture.presume(job_id, before[model])


def lately_gone(known: Mapping[str, VideoRequest], present: Set[str]) -> list[str]:
    """The last jobs that waited a moment ago, in their order, and do so no more."""
    return [job_id for job_id in known if job_id not in present][-READ_AT_ONCE:]


def evenly(ids: Sequence[str], most: int) -> Sequence[str]:
    """At most so many of them, evenly spread from the first on."""
    return ids[:: max(1, math.ceil(len(ids) / most))]


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
