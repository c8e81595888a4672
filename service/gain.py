"""What batches gain: the same jobs one after the other, and several at once.

Ordered together behind a job that keeps the worker busy, so that it finds them all waiting. Timed
from outside over HTTP, from that job's end to the last one's, on a trial service for each setting.
"""

import re
import statistics
import time
from collections.abc import Callable
from typing import Any, TypedDict

import httpx

from service.bench import OPEN_CAPS, PROMPT, most_steps
from service.client import Client, JobFailed, completed
from service.trial import trial_service

POLL_S = 0.05
BATCHES = re.compile(r'^praxino_batches_total\{jobs="(\d+)",model="[^"]*"\} (\S+)$', re.MULTILINE)

Note = Callable[[str], None]


class Gain(TypedDict):
    """How much sooner jobs end that are made at once."""

    batch_speedup: float  # median seconds one after the other, over those in batches
    details: dict[str, Any]


def measure_gain(size: int, rounds: int, note: Note) -> Gain:
    """Time rounds of twice as many jobs as a batch holds, without batches and with them.

    raises StartError, ServiceError, Unreachable; JobFailed if a job ends unlike asked, or if no
    batch came about: the model makes none, or has no memory for them
    """
    note(f"{rounds} rounds of {2 * size} jobs, up to {size} at once")
    batched, formed = time_rounds(size, 2 * size, rounds)
    if not formed:
        raise JobFailed(f"no batch was made of {2 * size} jobs that waited together")
    note(f"{rounds} rounds of {2 * size} jobs, one after the other")
    alone, _ = time_rounds(1, 2 * size, rounds)
    return summarise_gain(size, alone, batched, formed)


def summarise_gain(
    size: int, alone: list[float], batched: list[float], formed: dict[int, int]
) -> Gain:
    """The figure, from seconds of rounds and from how many batches held how many jobs."""
    both = statistics.median(alone), statistics.median(batched)
    return {
        "batch_speedup": round(both[0] / both[1], 3),
        "details": {
            "batch_size": size,
            "batch_jobs": 2 * size,
            "batch_alone_s_each": [round(seconds, 2) for seconds in alone],
            "batch_together_s_each": [round(seconds, 2) for seconds in batched],
            "batches": {str(jobs): count for jobs, count in sorted(formed.items())},
        },
    }


def time_rounds(most: int, jobs: int, rounds: int) -> tuple[list[float], dict[int, int]]:
    """Seconds of each round on a worker that makes up to `most` jobs at once; batches by jobs."""
    settings = OPEN_CAPS | {"PRAXINO_BATCH": str(most)}
    with trial_service(settings=settings) as url, Client(url) as client:
        seconds = [time_round(client, jobs) for _ in range(rounds + 1)][1:]  # then it is warm
        return seconds, read_batches(httpx.get(f"{url}/metrics").text)


def time_round(client: Client, jobs: int) -> float:
    """Seconds of jobs that wait together for one worker."""
    before = client.create(PROMPT, num_inference_steps=most_steps(client))
    waiting = [client.create(PROMPT, seed=seed) for seed in range(jobs)]
    completed(client.follow(before, lambda _: None, POLL_S))
    began = time.perf_counter()
    for video in waiting:
        completed(client.follow(video, lambda _: None, POLL_S))
    return time.perf_counter() - began


def read_batches(metrics: str) -> dict[int, int]:
    """How many batches held how many jobs, of the service's own metrics."""
    return {int(jobs): int(float(count)) for jobs, count in BATCHES.findall(metrics)}
