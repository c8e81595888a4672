"""The praxino_ metrics: what this process counts, and what the store knows at scrape time.

Never with job ids. A scrape answers without the queue server, with `praxino_queue_up` at 0.
"""

import math
from collections import Counter as Tally
from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from worker.jobs.contract import Job
from worker.jobs.outbox import Outbox
from worker.jobs.outcomes import WorkerInfo
from worker.jobs.store import JobStore
from worker.jobs.tally import Histogram as TallyHistogram

QUICK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


STATES = ("starting", "idle", "busy", "resting", "draining")  # of a worker
KIND = ("task_type", "model")


class Metrics:
    """One registry per application, so that two in one process do not mix."""

    def __init__(self, store: JobStore, models: Iterable[str], outbox: Outbox) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "praxino_http_requests",
            "Answered HTTP requests.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "praxino_http_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ("method", "route"),
            buckets=QUICK_S,
            registry=self.registry,
        )
        self.submitted = Counter(
            "praxino_jobs_submitted",
            "Jobs admitted by this process, replays left out.",
            ("task_type", "model"),
            registry=self.registry,
        )
        self.registry.register(StoreCollector(store, tuple(models), outbox))
        ProcessCollector(registry=self.registry)  # memory, processor time, files, by standard names

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note one answered request; `route` is the template, never the path itself."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def count_submission(self, job: Job) -> None:
        """Note one job that was admitted now."""
        self.submitted.labels(job.request.task_type, job.request.model).inc()

    def render(self) -> bytes:
        """The text exposition. Asks the queue server: call it off the event loop."""
        return generate_latest(self.registry)


class StoreCollector(Collector):
    """Gauges read from the queue server when somebody scrapes."""

    def __init__(self, store: JobStore, models: tuple[str, ...], outbox: Outbox) -> None:
        self.store = store
        self.outbox = outbox
        self.models = models

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the queue server."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The gauges, or only that the queue server is away."""
        up = GaugeMetricFamily("praxino_queue_up", "Whether the queue server answers.")
        try:
            gauges = self.read_store()
        except RedisError:
            gauges = []
        up.add_metric((), float(bool(gauges)))
        return [up, *gauges]

    def read_store(self) -> list[Metric]:
        """raises RedisError"""
        known = self.store.workers()
        workers = GaugeMetricFamily("praxino_workers", "Live workers.", labels=("state",))
        states = Tally(STATES) + Tally(worker.state for worker in known)
        for state, count in states.items():
            workers.add_metric((state,), count - (state in STATES))
        return [
            *self.read_queues(),
            workers,
            *read_workers(known),
            *self.read_letters(),
            *self.read_tally(),
        ]

    def read_queues(self) -> list[Metric]:
        """How many jobs of each model wait, for how long, and how many run. raises RedisError"""
        depth = GaugeMetricFamily("praxino_queue_depth", "Jobs that wait.", labels=("queue",))
        age = GaugeMetricFamily(
            "praxino_queue_age_seconds",
            "Since the order of the job that waits longest; 0 if none waits.",
            labels=("queue",),
        )
        running = GaugeMetricFamily(
            "praxino_jobs_running", "Jobs that workers hold.", labels=("model",)
        )
        for model in self.models:
            depth.add_metric((model,), self.store.depth(model))
            age.add_metric((model,), self.store.oldest(model) or 0.0)
            running.add_metric((model,), self.store.running(model))
        return [depth, age, running]

    def read_tally(self) -> list[Metric]:
        """What the queue server counted, the same from every API process. raises RedisError"""
        tally = self.store.tally()
        ended, reused = "Jobs that ended, by how.", "Jobs that got a copy of another's film."
        requeued = "Attempts that did not end their job: after a fault, or moved to another worker."
        return [
            to_counter("jobs_finished", ended, (*KIND, "outcome"), tally.finished),
            to_counter("jobs_reused", reused, KIND, tally.reused),
            to_counter("jobs_requeued", requeued, (*KIND, "why"), tally.requeued),
            to_counter("batches", "Batches, by how many jobs.", ("model", "jobs"), tally.batched),
            to_counter("model_loads", "Times a worker loaded it.", ("model",), tally.loaded),
            to_family("job_queue_wait", "From order to start.", KIND, tally.queue_wait),
            to_family("job_run", "The last attempt.", KIND, tally.run),
            to_family("job_stage", "Stages of completed jobs.", ("model", "stage"), tally.stage),
        ]

    def read_letters(self) -> list[Metric]:
        """raises RedisError"""
        tries: dict[tuple[str, ...], int] = {
            (outcome,): count for outcome, count in self.outbox.deliveries().items()
        }
        about = "Tries to deliver a webhook."
        waiting = GaugeMetricFamily("praxino_webhooks_waiting", "Webhooks not yet delivered.")
        waiting.add_metric((), self.outbox.waiting())
        return [to_counter("webhook_deliveries", about, ("outcome",), tries), waiting]


def read_workers(known: Iterable[WorkerInfo]) -> list[Metric]:
    """What live workers said of themselves. A worker's name is new at each start."""
    labels = ("worker", "model")
    pace = GaugeMetricFamily(
        "praxino_worker_steps_per_second",
        "Denoising steps, of its latest kind of job.",
        labels=labels,
    )
    memory = GaugeMetricFamily(
        "praxino_worker_memory_bytes",
        "Of the GPU, or of the process without one: what a job may use, and the most one has used.",
        labels=(*labels, "kind"),
    )
    loaded = GaugeMetricFamily(
        "praxino_worker_model_loaded",
        "Whether a worker holds one of its models now; its jobs wait for the loading of others.",
        labels=labels,
    )
    pairs = ((worker, each) for worker in known for each in worker.serving)
    for worker, each in pairs:
        named = (worker.name, each.model)
        loaded.add_metric(named, float(each.loaded))
        if each.seconds_per_step:
            pace.add_metric(named, 1 / each.seconds_per_step)
        for kind, size_mb in (("limit", each.memory_mb), ("peak", each.peak_mb)):
            if size_mb:
                memory.add_metric((*named, kind), size_mb * 2**20)
    return [pace, memory, loaded]


def to_counter(
    name: str, about: str, labels: tuple[str, ...], found: Mapping[tuple[str, ...], int]
) -> Metric:
    """Counts by their labels, as Prometheus reads them."""
    family = CounterMetricFamily(f"praxino_{name}", about, labels=labels)
    for values, count in found.items():
        family.add_metric(values, count)
    return family


def to_family(
    name: str, about: str, labels: tuple[str, ...], found: Mapping[tuple[str, ...], TallyHistogram]
) -> Metric:
    """Histograms by their labels, as Prometheus reads them."""
    family = HistogramMetricFamily(f"praxino_{name}_seconds", about, labels=labels)
    for values, histogram in found.items():
        buckets = [
            ("+Inf" if math.isinf(bound) else str(bound), count)
            for bound, count in histogram.buckets
        ]
        family.add_metric(values, buckets, histogram.sum_s)
    return family
