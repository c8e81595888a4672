"""How jobs ended and how long they took, over all processes, as the scripts counted it.

Counted where a job ends, in the same step, so that no end is missed or counted twice.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from redis import Redis

from worker.jobs import keys

BOUNDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)  # s
ENDLESS = float("inf")
COUNTS = ("finished", "reused", "batched", "requeued", "loaded")  # the rest are histograms

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Histogram:
    """How many observations were at most each bound, ascending and cumulative, and their sum."""

    buckets: tuple[tuple[float, int], ...]  # the last bound is infinite
    sum_s: float


@dataclass(frozen=True)
class Tally:
    """Everything counted so far.

    finished    by (task_type, model, outcome): completed, or the code of the failure
    queue_wait  by (task_type, model), of jobs that were started
    run         by (task_type, model): the last attempt
    stage       by (model, stage), of completed jobs
    reused      by (task_type, model): completed with a copy of another job's film
    batched     by (model, jobs): batches of so many
    requeued    by (task_type, model, why): attempts that did not end their job, `fault` if that
                used up a retry, else `moved`: the worker left or had something of a higher tier
    loaded      by (model): times a worker loaded it
    """

    finished: Mapping[Labels, int]
    queue_wait: Mapping[Labels, Histogram]
    run: Mapping[Labels, Histogram]
    stage: Mapping[Labels, Histogram]
    reused: Mapping[Labels, int] = field(default_factory=dict)
    batched: Mapping[Labels, int] = field(default_factory=dict)
    requeued: Mapping[Labels, int] = field(default_factory=dict)
    loaded: Mapping[Labels, int] = field(default_factory=dict)


def read_tally(redis: Redis) -> Tally:
    """What was counted. raises RedisError"""
    found = cast("dict[bytes, bytes]", redis.hgetall(keys.TALLY))
    counts: dict[str, dict[Labels, int]] = {name: {} for name in COUNTS}
    parts: dict[str, dict[Labels, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, value in found.items():
        what, *labels = name.decode().split("\t")
        if what in counts:
            counts[what][tuple(labels)] = int(value)
        else:
            parts[what][tuple(labels[:-1])][labels[-1]] = float(value)
    shown = {what: to_histograms(groups) for what, groups in parts.items()}
    wait, run, stage = (shown.get(what, {}) for what in ("queue_wait", "run", "stage"))
    return Tally(queue_wait=wait, run=run, stage=stage, **counts)


def count_load(redis: Redis, model: str) -> None:
    """A worker has loaded a model. A repeat after a lost reply counts twice. raises RedisError"""
    redis.hincrby(keys.TALLY, f"loaded\t{model}", 1)


def to_histograms(groups: Mapping[Labels, Mapping[str, float]]) -> dict[Labels, Histogram]:
    return {labels: to_histogram(counted) for labels, counted in groups.items()}


def to_histogram(counted: Mapping[str, float]) -> Histogram:
    """From counts within each bucket to counts up to each bound."""
    within = {float(bound): int(n) for bound, n in counted.items() if bound != "sum"}
    total, buckets = 0, []
    for bound in (*BOUNDS, ENDLESS):
        total += within.get(bound, 0)
        buckets.append((bound, total))
    return Histogram(tuple(buckets), counted.get("sum", 0.0))
