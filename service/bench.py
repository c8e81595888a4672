"""What the service adds to the bare model: overhead, admission latency, time to cancel.

Measured from outside over HTTP on a trial service. The bare model runs in a process of its own,
since nothing here loads torch, and takes turns with the service, so that both see the same machine.
"""

import asyncio
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypedDict, cast

from service.children import StartError
from service.client import Client, JobFailed, Video, completed
from service.outlook import median_error
from service.pressure import submit_steadily
from service.trial import trial_service
from worker.jobs.contract import VideoRequest

PROMPT = "a penguin moving right over the sea"
POLL_S = 0.01
FORECASTS = 6  # jobs ordered at once
OPEN_CAPS = {
    "PRAXINO_MAX_ACTIVE_PER_TENANT": "100000",
    "PRAXINO_MAX_QUEUED_PER_TENANT": "100000",
    "PRAXINO_MAX_QUEUE_DEPTH": "100000",
}


class Report(TypedDict):
    """The three figures that are promised, and what they were made of."""

    overhead_ms: float  # median of (submit to completed) minus bare generation
    submit_p99_ms: float  # from the planned send time to the answer
    cancel_p95_over_step_ms: float  # cancel sent to job ended, minus one denoising step
    eta_median_error: float  # of the time to the end, told when ordered: |told - true| / true
    details: dict[str, Any]


class Pace(TypedDict):
    """One timed bare generation."""

    seconds: float
    step_seconds: float


Note = Callable[[str], None]


def measure(rounds: int, cancels: int, rate: int, duration_s: float, note: Note) -> Report:
    """Run all three measurements; takes a minute or two on pocket.

    rounds      pairs of one job and one bare generation
    cancels     jobs cancelled while they denoise
    rate        submissions a second, evenly spaced whatever the answers take
    duration_s  how long submissions are sent
    raises      StartError, ServiceError, Unreachable, JobFailed if a job ends unlike asked
    """
    with trial_service(workers=0, settings=OPEN_CAPS) as url:
        note(f"submitting {rate} jobs a second for {duration_s:g} s")
        latencies = asyncio.run(submit_steadily(url, PROMPT, rate, duration_s))
    with trial_service() as url, Client(url) as client, BareModel() as bare:
        note(f"{rounds} jobs in turn with the bare model")
        request = request_of(_finished(client, 0))
        bare.time(request)  # both are warm now
        pairs = [
            time_pair(client, bare, request.model_copy(update={"seed": seed}))
            for seed in range(1, rounds + 1)
        ]
        note(f"{cancels} cancels while denoising")
        step_s = bare.time(request)["step_seconds"]
        waits = [time_cancel(client, seed) for seed in range(cancels)]
        note(f"forecasts for {FORECASTS} jobs ordered at once")
        forecasts = time_forecasts(client, FORECASTS)
    return summarise(latencies, pairs, waits, step_s, forecasts)


def summarise(
    latencies: Sequence[float],
    pairs: Sequence[tuple[float, float]],
    waits: Sequence[float],
    step_s: float,
    forecasts: Sequence[tuple[float, float]],
) -> Report:
    """The figures, from seconds: submissions, (job, bare generation) pairs, cancels, one step,
    (told, true) times to the end."""
    overheads = [job_s - bare_s for job_s, bare_s in pairs]
    return {
        "overhead_ms": in_ms(statistics.median(overheads)),
        "submit_p99_ms": in_ms(quantile(latencies, 0.99)),
        "cancel_p95_over_step_ms": in_ms(quantile(waits, 0.95) - step_s),
        "eta_median_error": round(median_error(forecasts), 3),
        "details": {
            "forecast_s_each": [[round(told, 2), round(true, 2)] for told, true in forecasts],
            "jobs": len(pairs),
            "job_ms_median": in_ms(statistics.median(job_s for job_s, _ in pairs)),
            "bare_ms_median": in_ms(statistics.median(bare_s for _, bare_s in pairs)),
            "overhead_ms_each": [in_ms(overhead) for overhead in overheads],
            "submissions": len(latencies),
            "submit_p50_ms": in_ms(quantile(latencies, 0.5)),
            "cancels": len(waits),
            "cancel_p50_ms": in_ms(quantile(waits, 0.5)),
            "step_ms": in_ms(step_s),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "load_average": round(os.getloadavg()[0], 2),
        },
    }


def merged(known: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """An earlier report with fresh figures in place of the same ones; the others stay."""
    details = {**known.get("details", {}), **fresh.get("details", {})}
    return {**known, **fresh, "details": details}


def in_ms(seconds: float) -> float:
    """Milliseconds to one decimal."""
    return round(1000 * seconds, 1)


class BareModel:
    """The model without a service, in a process of its own; see `worker.pace`."""

    def __enter__(self) -> "BareModel":
        self._process = subprocess.Popen(
            (sys.executable, "-m", "worker.pace"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()  # the model is loaded
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def time(self, request: VideoRequest) -> Pace:
        """Generate once; raises StartError if the process ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(request.model_dump_json() + "\n")
        self._process.stdin.flush()
        return cast(Pace, self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StartError("the bare model ended; its own message stands above")
        return json.loads(line)


def time_pair(client: Client, bare: BareModel, request: VideoRequest) -> tuple[float, float]:
    """Seconds of a job as its client sees it, and of the same generation without a service.

    The bare model goes first. The client asks after its job once and is answered at the end: a
    hundred questions a second would take the processor from the model.
    """
    bare_s = bare.time(request)["seconds"]
    began = time.perf_counter()
    video = _finished(client, request.seed)
    job_s = time.perf_counter() - began
    if request_of(video) != request:
        raise JobFailed("the service ran another request than the bare model")
    return job_s, bare_s


def _finished(client: Client, seed: int) -> Video:
    return completed(client.settled(client.create(PROMPT, seed=seed)))


def time_cancel(client: Client, seed: int) -> float:
    """Seconds from sending a cancel, somewhere within a denoising step, to the job's end."""
    video = client.create(PROMPT, seed=seed, num_inference_steps=most_steps(client))
    while video.get("stage") != "denoising":
        if video["status"] in ("completed", "failed"):
            raise JobFailed(f"a job ended before its cancel: {video['status']}")
        time.sleep(POLL_S)
        video = client.retrieve(video["id"])
    time.sleep(0.037 * (seed % 7))  # spread over the step
    began = time.perf_counter()
    video = client.follow(client.cancel(video["id"]), lambda _: None, POLL_S)
    waited_s = time.perf_counter() - began
    error = video.get("error")
    if error is None or error["code"] != "cancelled":
        raise JobFailed(f"a cancelled job ended as {video['status']}")
    return waited_s


def time_forecasts(client: Client, count: int) -> list[tuple[float, float]]:
    """Seconds to the end of jobs that queue together: as told when ordered, and as they were."""
    ordered = [(client.create(PROMPT, seed=seed), time.perf_counter()) for seed in range(count)]
    pairs = []
    for video, began in ordered:
        told = video.get("eta_seconds")
        if told is None:
            raise JobFailed("the service forecast nothing for a job")
        completed(client.settled(video))
        pairs.append((told, time.perf_counter() - began))
    return pairs


def most_steps(client: Client) -> int:
    """The largest number of denoising steps that the first model allows."""
    return int(client.models()[0]["num_inference_steps"]["maximum"])


def request_of(video: Video) -> VideoRequest:
    """The request behind a finished job, as the model gets it."""
    width, height = video["size"].split("x")
    return VideoRequest(
        model=video["model"],
        task_type=video["task_type"],
        prompt=video["prompt"],
        width=int(width),
        height=int(height),
        num_frames=video["num_frames"],
        fps=video["fps"],
        seed=video["seed"],
        num_inference_steps=video["num_inference_steps"],
        guidance_scale=video["guidance_scale"],
        sampler=video["sampler"],
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(share * len(ordered))) - 1]
