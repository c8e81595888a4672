"""Measures what a fleet is promised: `make fleet`.

Four workers beside one on a model that needs little processor time; the service with 10,000 jobs
waiting beside the same with none; a film with checkpoints beside one without. The report lands in
`reports/fleet.json`. Wants a quiet machine to itself. Exit status 0 only if every promise holds.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from models.registry import load_model
from service.bench import quantile
from tests.chaos.clients import client
from tests.chaos.fleet import Fleet
from tests.worker.conftest import read_submission, until
from tests.worker.shapes import write_weights
from worker.checkpoints import Checkpoints
from worker.film import Equipment, make_film
from worker.jobs.artifacts import checkpoint_prefix
from worker.jobs.disk import DiskStore
from worker.jobs.pause import Pause
from worker.jobs.store import JobStore
from worker.messages import Done, Run
from worker.rehearsal import order as default_order
from worker.shelf import Shelf

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "fleet.json"
SPEEDUP = 3.8  # of four workers over one
SHARE = 0.01  # of a film's time for its checkpoints
SLOWER, SLOWER_S = 1.25, 0.005  # by which a long queue may seem to slow a call: noise
LONGEST_S = 0.25  # of a single call beside a long queue
LIMIT_S = 600.0
BASE: dict[str, Any] = {"size": "64x64", "fps": 8}  # films of the base alone
LIGHT = "pace=0.001"  # a job that is over at once
SEEDS = itertools.count()  # no two orders are alike
OPEN_CAPS = {
    "MAX_ACTIVE_PER_TENANT": "1000000",
    "MAX_QUEUED_PER_TENANT": "1000000",
    "MAX_QUEUE_DEPTH": "1000000",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; the figures of earlier runs stay beside the new ones."""
    options = argparse.ArgumentParser(prog="python -m tests.fleetbench", description=__doc__)
    options.add_argument("--json", type=Path, default=REPORT)
    options.add_argument("--only", choices=sorted(MEASURES), action="append")
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--rounds", type=int, default=12, help="jobs of each worker")
    options.add_argument("--waiting", type=int, default=10_000)
    options.add_argument("--calls", type=int, default=100, help="of each kind")
    options.add_argument("--films", type=int, default=5, help="with checkpoints, and without")
    asked = options.parse_args(arguments)
    known = json.loads(asked.json.read_text("utf-8")) if asked.json.exists() else {}
    for name in asked.only or MEASURES:
        with tempfile.TemporaryDirectory(prefix="praxino-fleet-") as folder:
            known[name] = MEASURES[name](Path(folder), asked) | surroundings()
            sys.stdout.write(json.dumps({name: known[name]}, indent=2) + "\n")
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return int(not all(known[name]["holds"] for name in asked.only or MEASURES))


def surroundings() -> dict[str, Any]:
    """Where a figure was measured."""
    versions = {name: version(name) for name in ("praxino", "rq", "redis", "torch")}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


# Several workers


def measure_speedup(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Films a second of several workers over those of one."""
    rates = {n: films_per_s(folder / str(n), n, asked.rounds) for n in (1, asked.workers)}
    speedup = rates[asked.workers] / rates[1]
    return {
        "speedup": round(speedup, 3),
        "workers": asked.workers,
        "films_per_s": {str(count): round(rate, 4) for count, rate in rates.items()},
        "holds": speedup >= SPEEDUP * asked.workers / 4,
    }


def films_per_s(folder: Path, workers: int, rounds: int) -> float:
    """From the moment when each worker has ended its first job until all have ended their last."""
    with light_fleet(folder, workers) as fleet, client(fleet.url, fleet.keys["acme"]) as http:
        until(lambda: len(fleet.serving()) == workers, LIMIT_S)
        ids = [order(http, "pace=0.1", next(SEEDS)) for _ in range(workers * rounds)]
        until(lambda: not fleet.store.live_ids(), LIMIT_S)
        ended = sorted(job.completed_at or 0.0 for job in fleet.store.peek(ids))
    return (len(ended) - workers) / (ended[-1] - ended[workers - 1])


@contextmanager
def light_fleet(folder: Path, workers: int) -> Iterator[Fleet]:
    """A service whose model waits more than it computes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "light")
    light = {
        "MODEL_LOADER": "tests.worker.shapes:load_model",
        "WEIGHTS_DIR": str(folder / "light"),
        "REHEARSE": "0",
    }
    with Fleet(folder, workers, settings=light | OPEN_CAPS) as fleet:
        yield fleet


def order(http: httpx.Client, prompt: str, seed: int, steps: int = 20) -> str:
    """Order a film of eight frames; the job's id."""
    body = BASE | {"prompt": prompt, "seed": seed, "num_frames": 8, "num_inference_steps": steps}
    answer = http.post("/v1/videos", json=body)
    answer.raise_for_status()
    found: str = answer.json()["id"]
    return found


# A long queue


def measure_depth(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """What calls and the change from job to job take with nothing waiting, and with very much."""
    with light_fleet(folder, 1) as fleet, client(fleet.url, fleet.keys["acme"]) as http:
        until(lambda: len(fleet.serving()) == 1, LIMIT_S)
        seconds = {"empty": time_everything(fleet, http, asked.calls)}
        fill(fleet, asked.waiting)
        seconds["full"] = time_everything(fleet, http, asked.calls)
    figures = {
        state: {
            name: {f"p{share}_ms": in_ms(each, share / 100) for share in (50, 95, 100)}
            for name, each in calls.items()
        }
        for state, calls in seconds.items()
    }
    slower = [
        name
        for name, each in seconds["full"].items()
        if quantile(each, 0.5) > SLOWER * quantile(seconds["empty"][name], 0.5) + SLOWER_S
        or max(each) > max(LONGEST_S, max(seconds["empty"][name]))
    ]
    return {"waiting": asked.waiting, **figures, "slower": slower, "holds": not slower}


def time_everything(fleet: Fleet, http: httpx.Client, calls: int) -> dict[str, list[float]]:
    """Seconds of each call while no job may begin, and between two jobs once they may."""
    times: dict[str, list[float]] = {}
    ids: list[str] = []
    pause = Pause(fleet.redis)
    pause.pause()
    timed(times, "submit", calls, lambda: ids.append(order(http, LIGHT, next(SEEDS), 1)))
    asked, told = iter(ids), iter(ids)
    timed(times, "retrieve", calls, lambda: http.get(f"/v1/videos/{next(asked)}"))
    timed(times, "list", calls, lambda: http.get("/v1/videos", params={"limit": "20"}))
    timed(times, "cancel", calls, lambda: http.post(f"/v1/videos/{next(told)}/cancel"))
    timed(times, "metrics", max(2, calls // 10), lambda: http.get("/metrics"))
    fill(fleet, calls)
    waiting = fleet.store.live_ids()
    pause.resume()
    until(lambda: len(waiting - fleet.store.live_ids()) >= calls, LIMIT_S)
    pause.pause()
    until(lambda: all(worker.state == "idle" for worker in fleet.store.workers()), LIMIT_S)
    made = fleet.store.peek(waiting - fleet.store.live_ids())
    runs = sorted((job.started_at or 0.0, job.completed_at or 0.0) for job in made)
    times["next job"] = [begun - ended for (_, ended), (begun, _) in itertools.pairwise(runs)]
    return times


def timed(times: dict[str, list[float]], name: str, calls: int, call: Callable[[], object]) -> None:
    """Note how long each of so many calls takes."""
    each = times.setdefault(name, [])
    for _ in range(calls):
        began = time.perf_counter()
        call()
        each.append(time.perf_counter() - began)


def fill(fleet: Fleet, count: int) -> None:
    """Let so many jobs of all tenants wait."""
    caps = {name.lower(): int(most) for name, most in OPEN_CAPS.items()}
    store = JobStore(fleet.redis, fleet.settings.model_copy(update=caps))
    for _, tenant in zip(range(count), itertools.cycle(fleet.keys), strict=False):
        submission = read_submission({"prompt": LIGHT, "num_inference_steps": 1})
        store.submit(replace(submission, tenant=tenant))


def in_ms(seconds: Sequence[float], share: float) -> float:
    """A quantile, in milliseconds."""
    return round(1000 * quantile(seconds, share), 2)


# Checkpoints


def measure_checkpoints(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """What writing checkpoints takes of a film of the delivered model, at the delivered share."""
    tools = equipment(folder)
    seconds: dict[float, list[float]] = {SHARE: [], 0.0: []}
    film(tools, 0)  # warms up
    with saving_timed() as spent:
        for seed in range(1, asked.films + 1):
            for share, each in seconds.items():
                began = time.perf_counter()
                film(replace(tools, checkpoint_overhead=share), seed)
                each.append(time.perf_counter() - began)
    share = sum(spent) / sum(seconds[SHARE])
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "share": round(share, 5),
        "written": len(spent),
        "longest_ms": in_ms(spent, 1.0) if spent else 0.0,
        "films": asked.films,
        "seconds_with": round(middle[SHARE], 3),
        "seconds_without": round(middle[0.0], 3),
        "holds": len(spent) >= asked.films and share <= SHARE,
    }


@contextmanager
def saving_timed() -> Iterator[list[float]]:
    """The seconds that each written checkpoint took, as they come."""
    spent: list[float] = []
    save = Checkpoints.save

    def timed_save(checkpoints: Checkpoints) -> None:
        began = time.perf_counter()
        save(checkpoints)
        spent.append(time.perf_counter() - began)

    with patch.object(Checkpoints, "save", timed_save):
        yield spent


def equipment(folder: Path) -> Equipment:
    """What a worker's child makes films with: the delivered model, and a disk."""
    (folder / "scratch").mkdir()
    return Equipment(
        model=load_model("pocket", None, "cpu", "auto"),
        store=DiskStore(folder / "artifacts"),
        shelf=Shelf(folder / "shelf"),
        scratch_dir=folder / "scratch",
        encoder="libx264",
        storage_patience_s=0,
        checkpoint_overhead=0.0,
    )


def film(tools: Equipment, seed: int, steps: int | None = None) -> None:
    """Make a film of the model's default size, length and, else, steps. raises AssertionError"""
    job, card = f"video_{seed}", tools.model.card
    ordered = default_order(card, card.default_frames, steps or int(card.steps.default))
    run = Run(
        exec="e",
        job_id=job,
        attempt=1,
        request=ordered.model_copy(update={"seed": seed}),
        artifact_prefix=f"studio/{job}/e/",
        checkpoint_prefix=checkpoint_prefix("studio", job),
    )
    answer = make_film(run, tools, lambda message: None, lambda: False)
    assert isinstance(answer, Done), answer
    tools.shelf.drop(job)


MEASURES: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "speedup": measure_speedup,
    "depth": measure_depth,
    "checkpoints": measure_checkpoints,
}


if __name__ == "__main__":
    sys.exit(main())
