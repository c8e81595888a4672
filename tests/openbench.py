"""Measures the adapters of open weights against plain diffusers: `make open`.

The report lands in `reports/openweights.json`, part by part: whatever stops it, what was measured
stays, and `--only` measures parts anew. What an adapter costs is measured on random weights as wide
as Wan's smallest, since what a step costs does not depend on them; what batches gain, on these and
on a pupil, see `tests.pupil`. What the quality `fast` gains and loses is measured on the pupil,
since random weights answer something else at every step, so that nothing could be left out. Wants a
quiet machine to itself.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.openweights.__main__ import add
from models.openweights.families import WAN, Wishes
from models.openweights.fidelity import similarity
from models.openweights.loading import load_openweights
from models.openweights.pipeline import OpenModel, to_frames
from models.openweights.replay import wrapped
from models.openweights.tiers import FAST
from models.protocol import Frames, Maker, ResumableModel, Step, Task, VideoModel
from tests.models.wilds import WILDS, Shape, build, denoiser_of, save, wan
from tests.pupil import LONG, Lessons, pictures, taught
from worker.memory import resident_mb
from worker.rack import Rack

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "openweights.json"
PUPILS = ROOT / "var" / "pupils"
CONTRACT = ROOT / "tests" / "models" / "test_openweights.py"
SWAPPED = ("wan-2.1", "ltx", "animatediff")
WARM = 10  # jobs before memory counts
TOGETHER = 4  # films in a batch
PROMPTS = (
    "a red square moves to the left",
    "a blue square moves to the right",
    "a green square moves to the up",
    "a red square moves to the down",
)

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Scale(Shape):
    """How large the network is that is timed, and the film."""

    size: str
    frames: int
    steps: int


LARGE = Scale(4, 12, 128, 8960, "128x128", 9, 3)  # as wide as Wan's 1.3B, of fewer layers
SMALL = Scale(2, 2, 12, 32, "32x32", 5, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, default=REPORT)
    options.add_argument("--rounds", type=int, default=2, help="of each way, in turn")
    options.add_argument("--jobs", type=int, default=100, help="that alternate over three models")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--only", nargs="+", help="parts to measure; others stay as they were")
    asked = options.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as scratch:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "adapter": lambda: time_adapter(LARGE, asked.rounds, Path(scratch)),
            "pupil": lambda: time_pupil(LONG, WAN.steps, asked.rounds, Path(scratch), PUPILS),
            "swaps": lambda: alternate(asked.jobs, Path(scratch)),
            "contract": count_passing,
        }
        if strange := set(asked.only or ()) - set(parts):
            options.error(f"--only {', '.join(sorted(strange))}: is none of {', '.join(parts)}")
        measure(parts, asked.only or list(parts), asked.json, asked.threads)
    sys.stdout.write(asked.json.read_text(encoding="utf-8"))
    return 0


def measure(
    parts: dict[str, Callable[[], dict[str, Any]]], wanted: Sequence[str], path: Path, threads: int
) -> None:
    """Measure parts, and write each into the report as soon as there is one.

    path  of a report, whose other parts stay if only some are wanted
    """
    report: dict[str, Any] = {"details": {}}
    if set(wanted) < set(parts) and path.exists():
        report = json.loads(path.read_text(encoding="utf-8"))
    for name in wanted:
        say(f"{name} …")
        began = time.perf_counter()
        figures = parts[name]()
        details = figures.pop("details", {}) | {
            "took_s": round(time.perf_counter() - began, 1),
            "processor": platform.processor() or platform.machine(),
            "threads": threads,
            "versions": versions(),
        }
        say(f"{name}: {details['took_s']} s {json.dumps(figures)}")
        others = report.pop("details")
        report |= figures | {"details": others | {name: details}}
        write(report, path)


def say(text: str) -> None:
    """To whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def versions() -> dict[str, str]:
    """Of the libraries that what is measured depends on."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def write(report: dict[str, Any], path: Path) -> None:
    """Into a file; whoever stops this meanwhile finds the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)


def write_report(report: dict[str, Any], path: Path) -> None:
    """Into a file, and for whoever waits."""
    write(report, path)
    sys.stdout.write(path.read_text(encoding="utf-8"))


def time_adapter(scale: Scale, rounds: int, folder: Path) -> dict[str, Any]:
    """One film by diffusers' own call and through the adapter, in turn, and several in a batch.

    raises AssertionError if the adapter makes another film than diffusers
    """
    model = load(wan_of(scale, folder / "timed"), scale, folder / "timed-models")
    task = task_of(model, scale)
    tasks = [replace(task, seed=seed) for seed in range(TOGETHER)]
    pipe = model.place.pipe
    assert np.array_equal(plain(pipe, task), model.generate(task, ignore))  # also warms up
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(pipe, task),
        "adapter": lambda: model.generate(task, ignore),
    }
    seconds = in_turn(ways, rounds)
    seconds |= in_turn({"batch": lambda: films_of(model, tasks)}, 1)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "adapter_overhead_ratio": round(middle["adapter"] / middle["plain"] - 1, 4),
        "exact_speedup_wide": round(TOGETHER * middle["plain"] / middle["batch"], 3),
        "details": {
            "what": "random weights as wide as Wan 1.3B's; medians of films of one job, by"
            f" diffusers and by the adapter; a batch of {TOGETHER} jobs against as many by"
            " diffusers, one after the other",
            "parameters": parameters(pipe.transformer),
            "scale": vars(scale),
            "seconds_each": rounded(seconds),
        },
    }


def time_pupil(
    lessons: Lessons, steps: int, rounds: int, folder: Path, cache: Path, compiled: str = "on"
) -> dict[str, Any]:
    """A taught network's films by diffusers one after the other, by the adapter in a batch, and in
    the quality `fast` with its blocks compiled and without, in turn.

    compiled  as for `load_openweights`, of the former

    raises AssertionError if the adapter makes other films than diffusers
    """
    began = time.perf_counter()
    checkpoint = taught(lessons, cache, say)
    taught_s = time.perf_counter() - began
    size = f"{lessons.side}x{lessons.side}"
    shape = (lessons.layers, lessons.heads, lessons.head_width, lessons.ffn)
    scale = Scale(*shape, size, lessons.frames, steps)
    model = load(checkpoint, scale, folder / "models", "pupil", "off")
    swift = load(checkpoint, scale, folder / "models", "swift", compiled)
    tasks = [
        replace(task_of(model, scale), prompt=prompt, negative_prompt="", seed=seed)
        for seed, prompt in enumerate(PROMPTS[:TOGETHER])
    ]
    model.generate(replace(tasks[0], num_inference_steps=1), ignore)
    began = time.perf_counter()
    swift.generate(in_fast(tasks[0]), ignore)
    compiled_s = time.perf_counter() - began
    seconds, films, latents = race(model, swift, tasks, rounds)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    off = np.abs(np.stack(films["batch"]).astype(int) - np.stack(films["plain"])).max()
    assert off <= 2, f"who shares a pass changes films by {off} of 255, which is not rounding"
    scores = json.loads((checkpoint / "scores.json").read_text(encoding="utf-8"))
    alike = [
        similarity(*(pictures(one, scores["spread"]) for one in pair))
        for pair in zip(latents["plain"], latents["fast"], strict=True)
    ]
    return {
        "exact_speedup": round(middle["plain"] / middle["batch"], 3),
        "fast_speedup": round(middle["plain"] / middle["fast"], 3),
        "fast_speedup_uncompiled": round(middle["plain"] / middle["cached"], 3),
        "fast_ssim": round(min(alike), 4),
        "details": {
            "what": f"a pupil; {TOGETHER} films by diffusers one after the other, against the same"
            " in one batch (exact) and one after the other with quality fast, its blocks compiled"
            " (PRAXINO_FAST_COMPILE=on; on a processor they are not by themselves) and not; steps,"
            " guidance and tolerance are the product's own for Wan; similarities are of latents as"
            " pictures, fast beside exact, the least of them is given; what fast gains depends on"
            " how a network was taught, see tests/pupil.py: a released one may gain less or more",
            "parameters": parameters(model.place.pipe.transformer),
            "scale": vars(scale),
            "lessons": vars(lessons),
            "taught_s": round(taught_s, 1),
            "first_compiled_film_s": round(compiled_s, 1),
            "scores": scores,
            "blocks_computed": round(share_computed(model, in_fast(tasks[0])), 3),
            "batch_off_by": int(off),
            "ssim_each": [round(one, 4) for one in alike],
            "seconds_each": rounded(seconds),
        },
    }


def race(
    model: OpenModel, swift: OpenModel, tasks: Sequence[Task], rounds: int
) -> tuple[Seconds, dict[str, list[Frames]], dict[str, list[torch.Tensor]]]:
    """The same films in four ways, in turn: what each took, its films, and their latents.

    swift  the same checkpoint, its blocks compiled in the quality `fast`
    """
    films: dict[str, list[Frames]] = {}
    latents: dict[str, list[torch.Tensor]] = {}

    def kept(name: str, by: OpenModel, make: Callable[[], list[Frames]]) -> Callable[[], None]:
        def way() -> None:
            with decoded(by.place.pipe) as given:
                films[name] = make()
            latents[name] = given

        return way

    def in_turn_by(by: OpenModel) -> list[Frames]:
        return [by.generate(in_fast(task), ignore) for task in tasks]

    ways: dict[str, Callable[[], object]] = {
        "plain": kept("plain", model, lambda: [plain(model.place.pipe, task) for task in tasks]),
        "batch": kept("batch", model, lambda: films_of(model, tasks)),
        "cached": kept("cached", model, lambda: in_turn_by(model)),
        "fast": kept("fast", swift, lambda: in_turn_by(swift)),
    }
    return in_turn(ways, rounds), films, latents


def in_fast(task: Task) -> Task:
    """The same in the quality `fast`."""
    return replace(task, quality=FAST)


@contextmanager
def decoded(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """What films are decoded from while this is entered, each (1, 16, t, h, w)."""
    given: list[torch.Tensor] = []

    def noting(decode: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(latents: torch.Tensor, *more: Any, **named: Any) -> Any:
            given.append(latents)
            return decode(latents, *more, **named)

        return wrapper

    with wrapped(pipe.vae, "decode", noting):
        yield given


def share_computed(model: OpenModel, task: Task) -> float:
    """Of a film's passes, those that went through the last block; 1 where none was left out."""
    counts = {"passes": 0, "blocks": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            counts[name] += 1

        return hook

    network = model.place.pipe.transformer
    inside = network.blocks[-1].ffn
    handles = [network.register_forward_hook(count("passes"))]
    handles += [inside.register_forward_hook(count("blocks"))]
    try:
        model.generate(task, ignore)
    finally:
        for handle in handles:
            handle.remove()
    return counts["blocks"] / counts["passes"]


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> Seconds:
    """What each way took, again and again, all ways in every round."""
    seconds: Seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in ways.items():
            began = time.perf_counter()
            make()
            seconds[name].append(time.perf_counter() - began)
            say(f"  {name} {seconds[name][-1]:.2f} s")
    return seconds


def rounded(seconds: Seconds) -> Seconds:
    return {name: [round(s, 4) for s in each] for name, each in seconds.items()}


def parameters(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def films_of(model: OpenModel, tasks: Sequence[Task]) -> list[Frames]:
    """The films of several jobs, made in one batch."""
    films: dict[int, Frames] = {}

    def maker(at: int, task: Task) -> Maker:
        def make(own: ResumableModel) -> None:
            films[at] = own.generate(task, ignore)

        return make

    model.together([maker(at, task) for at, task in enumerate(tasks)])
    return [films[at] for at in range(len(tasks))]


def wan_of(scale: Scale, folder: Path) -> Path:
    """A checkpoint of Wan's kind with random weights."""
    import diffusers

    torch.manual_seed(0)
    parts = wan()
    parts["transformer"] = denoiser_of(scale, parts["text_encoder"].config.d_model)
    save(diffusers.WanPipeline(**parts), folder)
    return folder


def load(
    folder: Path, scale: Scale, models_dir: Path, name: str = "timed", compiled: str = "auto"
) -> OpenModel:
    """Register a checkpoint and load it on the processor; `compiled` as for `load_openweights`."""
    wishes = Wishes((scale.size,), scale.frames, scale.steps, WAN.guidance, None)
    add(name, folder, models_dir, wishes, None)
    return load_openweights(models_dir / name, "cpu", torch.float32, compiled=compiled)


def task_of(model: VideoModel, scale: Scale) -> Task:
    width, height = map(int, scale.size.split("x"))
    return Task(
        "text",
        "a red fox walks to the left",
        "rain",
        width,
        height,
        scale.frames,
        model.card.fps[0],
        7,
        scale.steps,
        5.0,
        "native",
    )


def plain(pipe: Any, task: Task, **more: Any) -> Frames:
    """The film as diffusers' documentation makes it, with a scheduler as fresh as ours; what else
    the pipeline is to be called with goes by its name."""
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        prompt=task.prompt,
        negative_prompt=task.negative_prompt,
        width=task.width,
        height=task.height,
        num_frames=task.num_frames,
        num_inference_steps=task.num_inference_steps,
        guidance_scale=task.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(task.seed),
        output_type="np",
        **more,
    )
    return to_frames(made.frames[0])


def alternate(jobs: int, folder: Path) -> dict[str, Any]:
    """Jobs over three models in turn on a worker's rack that holds one: what memory grows by, from
    the first jobs after the warm ones to the last, where it was highest.

    raises AssertionError if a model makes another's film
    """
    for name in SWAPPED:
        wishes = Wishes(("32x32",), 9, 2, 3.0, None)
        add(name, build(name, folder / name / "weights"), folder / "models", wishes, None)
    films: dict[str, Frames] = {}
    held: list[float] = []
    scale = Scale(0, 0, 0, 0, "32x32", 9, 2)
    swaps: list[str] = []
    rack = Rack(partial(load_one, folder / "models"), 1, 0, 0, swaps.append)
    for at in range(jobs):
        name = SWAPPED[at % len(SWAPPED)]
        model = rack.get(name)
        film = model.generate(task_of(model, scale), ignore)
        assert np.array_equal(films.setdefault(name, film), film), f"{name} made another film"
        del model  # else the rack would let it go in vain
        held.append(resident_mb(os.getpid()) or 0.0)
        if (at + 1) % 10 == 0:
            say(f"  {at + 1} jobs, {held[-1]:.0f} MB")
    assert len(swaps) == jobs - 1
    round_of = len(SWAPPED)
    before = max(held[min(WARM, jobs - 1) :][:round_of])
    growth = max(held[-round_of:]) / before - 1
    details = {"swapped": list(SWAPPED), "jobs": jobs, "held_mb": [round(mb) for mb in held]}
    return {"memory_growth": round(growth, 4), "details": details}


def load_one(models: Path, name: str) -> OpenModel:
    """A registered checkpoint on the processor."""
    return load_openweights(models / name, "cpu", torch.float32)


def count_passing() -> dict[str, Any]:
    """How many checkpoints pass all of the adapters' contract, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "contract.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(CONTRACT), f"--junitxml={result}"]
        command += ["-n", "2", "--dist", "worksteal"]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env=alone, check=False, stdout=sys.stderr)
        return passing(ET.parse(result).getroot())


def passing(suite: ET.Element) -> dict[str, Any]:
    """The figure, from a JUnit report of tests that are each named for a checkpoint."""
    told = dict.fromkeys(WILDS, 0)
    wrong = set()
    for case in suite.iter("testcase"):
        name = case.get("name", "").partition("[")[2].rstrip("]")
        told[name] = told.get(name, 0) + 1
        if len(case):  # a failure, an error, a skip
            wrong.add(name)
    good = [name for name in WILDS if told[name] and name not in wrong]
    return {
        "adapters_passing": len(good),
        "adapters": len(WILDS),
        "details": {"passing": good, "wrong": sorted(wrong)},
    }


def ignore(step: Step) -> None:
    """Nobody asks."""


if __name__ == "__main__":
    sys.exit(main())
