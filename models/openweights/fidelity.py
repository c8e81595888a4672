"""How near the quality tiers of a registered model come to its exact films, and how much sooner.

`praxino models measure NAME` makes one film in every tier, from the same words and seed, and writes
what it finds into the model's card, from where callers are told. The figures are of the very
weights, size, steps and device; other films may come nearer or less near.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.catalog import Fidelity, read_catalog
from models.openweights.loading import load_openweights
from models.openweights.pipeline import OpenModel
from models.openweights.tiers import FAST
from models.protocol import Frames, Step, Task

MEASURED = ("text", "image", "first_last_frame")  # kinds of film that are made, the first it can
WINDOW = 7  # pixels, of one comparison
PROMPT = "a red fox walks to the left over green grass, the camera follows it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one model; returns the exit status, and says on stderr what is wrong."""
    options = argparse.ArgumentParser("praxino models measure", description=__doc__)
    options.add_argument("name", help="of a registered model")
    options.add_argument("--models-dir", type=Path, required=True, help=argparse.SUPPRESS)
    options.add_argument("--prompt", default=PROMPT)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = options.parse_args(arguments)
    try:
        if asked.name not in (known := read_catalog(asked.models_dir)):
            raise ValueError(f"model {asked.name!r} is none of {sorted(known)}")
        folder = asked.models_dir / asked.name
        dtype = torch.bfloat16 if asked.device.startswith("cuda") else torch.float32
        found = measure(load_openweights(folder, asked.device, dtype), asked.prompt)
        write(found, folder / "card.json")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    for name, fidelity in found.items():
        sys.stdout.write(f"{name}: {json.dumps(vars(fidelity))}\n")
    return 0


def measure(model: OpenModel, prompt: str = PROMPT) -> dict[str, Fidelity]:
    """The fidelity of every tier but the exact one, by name. Where a model makes no films of words,
    they are of a picture, or of two.

    raises ValueError for a model that has no tiers, or makes none of these
    """
    plain = task_of(model, prompt)
    others = [tier for tier in model.card.qualities if not tier.exact]
    if not others:
        raise ValueError(f"{model.card.id} has one quality only")
    timed(model, replace(plain, num_inference_steps=1))  # wakes libraries up
    exact, exact_s = timed(model, plain)
    found = {}
    for tier in others:
        own = replace(plain, quality=tier.name)
        if tier.name == FAST:  # what is compiled for it is, before it is timed
            timed(model, replace(own, num_inference_steps=1))
        if tier.base_steps is not None:
            own = replace(own, num_inference_steps=tier.base_steps, guidance_scale=1.0)
        film, took_s = timed(model, own)
        found[tier.name] = Fidelity(
            ssim=round(similarity(exact, film), 4),
            psnr_db=round(noise_ratio(exact, film), 2),
            speedup=round(exact_s / took_s, 2),
            device=model.place.device,
            size=f"{plain.width}x{plain.height}",
            frames=plain.num_frames,
            steps=plain.num_inference_steps,
        )
    return found


def write(found: dict[str, Fidelity], card: Path) -> None:
    """Write what was found into a card; whoever reads it meanwhile sees the old one whole."""
    fields = json.loads(card.read_text(encoding="utf-8"))
    for tier in fields["tiers"]:
        if tier["name"] in found:
            tier["fidelity"] = vars(found[tier["name"]])
    draft = card.with_suffix(".draft")
    draft.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, card)


def task_of(model: OpenModel, prompt: str) -> Task:
    """The card's default film. raises ValueError"""
    card = model.card
    kind = next((kind for kind in MEASURED if kind in card.tasks), None)
    if kind is None:
        raise ValueError(f"{card.id}: makes none of {', '.join(MEASURED)}")
    width, height = map(int, card.sizes[0].split("x"))
    frame = shade(width, height)
    return Task(
        task_type=kind,
        prompt=prompt if card.max_prompt_chars else "",
        negative_prompt="",
        width=width,
        height=height,
        num_frames=card.default_frames,
        fps=card.fps[0],
        seed=7,
        num_inference_steps=int(card.steps.default),
        guidance_scale=card.guidance.default,
        sampler=card.samplers[0],
        first_frame=None if kind == "text" else frame,
        last_frame=frame[::-1] if kind == "first_last_frame" else None,
    )


def shade(width: int, height: int) -> Frames:
    """A picture (height, width, 3) of colours that run into one another."""
    down, right = np.meshgrid(
        np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij"
    )
    return np.stack([right, down, 255 - right], -1).astype(np.uint8)


def timed(model: OpenModel, task: Task) -> tuple[Frames, float]:
    """A film, and the seconds it took."""
    began = time.perf_counter()
    film = model.generate(task, ignore)
    return film, time.perf_counter() - began


def ignore(step: Step) -> None:
    """Nobody asks."""


def similarity(one: Frames, other: Frames) -> float:
    """Mean structural similarity of two films (T, H, W, 3) over even windows of the luma; 1 is the
    same film.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861), equation 13; windows do not weigh by distance.
    """
    weights = torch.tensor([0.299, 0.587, 0.114])
    x, y = ((torch.from_numpy(film).float() / 255) @ weights for film in (one, other))

    def mean(film: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(film[:, None], WINDOW, stride=1)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(score.mean())


def noise_ratio(one: Frames, other: Frames) -> float:
    """Peak signal-to-noise ratio of two films in dB; 99 at most, for the same film."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return min(99.0, 20 * math.log10(255) - 10 * math.log10(error)) if error else 99.0


if __name__ == "__main__":
    sys.exit(main())
