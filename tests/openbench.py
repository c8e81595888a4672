"""Measures the adapters of open weights against plain diffusers: `make open`.

The report lands in `reports/openweights.json`. Weights are random and of Wan's shape: what a step
costs does not depend on them. How alike fast and exact films are does; that figure is of networks
that change more from step to step than trained ones. Wants a quiet machine to itself.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.openweights.__main__ import add
from models.openweights.families import Wishes
from models.openweights.loading import load_openweights
from models.openweights.pipeline import OpenModel, to_frames
from models.protocol import Frames, Step, Task, VideoModel
from tests.models.wilds import WILDS, build, save, wan
from worker.memory import resident_mb
from worker.rack import Rack

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "openweights.json"
CONTRACT = ROOT / "tests" / "models" / "test_openweights.py"
SWAPPED = ("wan-2.1", "ltx", "animatediff")
WARM = 10  # jobs before memory counts


@dataclass(frozen=True)
class Scale:
    """How large the network is that is timed, and the film."""

    layers: int
    heads: int
    head_width: int
    ffn: int
    size: str
    frames: int
    steps: int


LARGE = Scale(14, 12, 96, 4608, "128x128", 9, 10)  # 0.3 billion parameters
SMALL = Scale(2, 2, 12, 32, "32x32", 5, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; returns the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, default=REPORT)
    options.add_argument("--rounds", type=int, default=5, help="of each way, in turn")
    options.add_argument("--jobs", type=int, default=100, help="that alternate over three models")
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as scratch:
        report = time_adapter(LARGE, asked.rounds, Path(scratch))
        report |= alternate(asked.jobs, Path(scratch))
    report |= count_passing()
    report["details"] |= {
        "processor": platform.processor() or platform.machine(),
        "threads": asked.threads,
        "versions": versions(),
    }
    write_report(report, asked.json)
    return 0


def versions() -> dict[str, str]:
    """Of the libraries that what is measured depends on."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}


def write_report(report: dict[str, Any], path: Path) -> None:
    """Into a file, and for whoever waits."""
    text = json.dumps(report, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def time_adapter(scale: Scale, rounds: int, folder: Path) -> dict[str, Any]:
    """The same film by diffusers' own call, through the adapter, and in the fast tier, in turn.

    raises AssertionError if the adapter makes another film than diffusers
    """
    model = load(wan_of(scale, folder / "timed"), scale, folder / "timed-models")
    task = task_of(model, scale)
    pipe, fast = model.place.pipe, Task(**vars(task) | {"quality": "fast"})
    ways: dict[str, Callable[[], Frames]] = {
        "plain": lambda: plain(pipe, task),
        "adapter": lambda: model.generate(task, ignore),
        "fast": lambda: model.generate(fast, ignore),
    }
    films = {name: make() for name, make in ways.items()}  # also warms up
    assert np.array_equal(films["plain"], films["adapter"])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in ways.items():
            began = time.perf_counter()
            make()
            seconds[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    network = pipe.transformer
    return {
        "adapter_overhead_ratio": round(middle["adapter"] / middle["plain"] - 1, 4),
        "exact_speedup": round(middle["plain"] / middle["adapter"], 3),
        "fast_speedup": round(middle["plain"] / middle["fast"], 3),
        "fast_ssim": round(similarity(films["plain"], films["fast"]), 4),
        "details": {
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "scale": vars(scale),
            "seconds_each": {name: [round(s, 4) for s in each] for name, each in seconds.items()},
        },
    }


def wan_of(scale: Scale, folder: Path) -> Path:
    """A checkpoint of Wan's kind with random weights."""
    import diffusers

    torch.manual_seed(0)
    parts = wan()
    parts["transformer"] = denoiser_of(scale, parts["text_encoder"].config.d_model)
    save(diffusers.WanPipeline(**parts), folder)
    return folder


def denoiser_of(scale: Scale, text_dim: int) -> Any:
    """A network of Wan's kind with random weights, in the default type and on the default device.

    text_dim  numbers of a token of the text encoder
    """
    import diffusers

    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=scale.heads,
        attention_head_dim=scale.head_width,
        in_channels=16,
        out_channels=16,
        text_dim=text_dim,
        freq_dim=256,
        ffn_dim=scale.ffn,
        num_layers=scale.layers,
    ).eval()


def load(folder: Path, scale: Scale, models_dir: Path) -> OpenModel:
    """Register a checkpoint and load it on the processor."""
    wishes = Wishes((scale.size,), scale.frames, scale.steps, 5.0, None)
    add("timed", folder, models_dir, wishes, None)
    return load_openweights(models_dir / "timed", "cpu", torch.float32)


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
    assert len(swaps) == jobs - 1
    round_of = len(SWAPPED)
    before = max(held[min(WARM, jobs - 1) :][:round_of])
    growth = max(held[-round_of:]) / before - 1
    details = {"swapped": list(SWAPPED), "jobs": jobs, "held_mb": [round(mb) for mb in held]}
    return {"memory_growth": round(growth, 4), "swaps": details}


def load_one(models: Path, name: str) -> OpenModel:
    """A registered checkpoint on the processor."""
    return load_openweights(models / name, "cpu", torch.float32)


def count_passing() -> dict[str, Any]:
    """How many checkpoints pass all of the adapters' contract, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "contract.xml"
        command = (sys.executable, "-m", "pytest", "-q", str(CONTRACT), f"--junitxml={result}")
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
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
    return {"adapters_passing": len(good), "adapters": len(WILDS), "passing": good}


def similarity(one: Frames, other: Frames, window: int = 7) -> float:
    """Mean structural similarity of two films over even windows of the luma.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), equation 13.
    """
    weights = torch.tensor([0.299, 0.587, 0.114])
    x, y = ((torch.from_numpy(film).float() / 255) @ weights for film in (one, other))

    def mean(film: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(film[:, None], window, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(score.mean())


def ignore(step: Step) -> None:
    """Nobody asks."""


if __name__ == "__main__":
    sys.exit(main())
