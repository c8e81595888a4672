"""What clients order: bodies of every kind that the model's card declares, drawn by seed."""

import base64
import io
import random
from typing import Any

import numpy as np
from PIL import Image

from worker.jobs.catalog import read_catalog

SUBJECTS = ("a red ball", "a unicorn", "a fox", "a blue square", "a rocket", "a cat")
GROUNDS = ("a meadow", "a sunset", "the sea", "snow", "a city")
MOVES = ("left", "right", "up", "down")
TIERS = ("default", "default", "flex", "priority")
POISON = "poison"  # a word that kills whoever makes the film
POISON_EVERY, POISON_FIRST = 80, 5  # of one tenant's orders

SHARES = {"text": 5, "image": 3, "first_last_frame": 2, "extend": 3, "story": 2, "edit": 3}
PATHS = {"extend": "/v1/videos/extensions", "edit": "/v1/videos/edits"}

Body = dict[str, Any]

BASE: Body = {"size": "64x64", "fps": 8}  # films of the base alone


def draw_order(rng: random.Random, number: int, sources: list[str]) -> tuple[str, str, Body]:
    """A kind, the path that takes it and its body.

    number   how many its tenant has ordered before
    sources  ids of finished films to build on; without one nothing is built on
    """
    offered = read_catalog()["pocket"].tasks
    kinds = [kind for kind in SHARES if kind in offered]
    kind = rng.choices(kinds, [SHARES[kind] for kind in kinds])[0]
    if kind in PATHS and not sources:
        kind = "text"
    if number % POISON_EVERY == POISON_FIRST:
        poison = {"prompt": f"{POISON} {draw_prompt(rng)}", "num_frames": 8}
        return POISON, "/v1/videos", BASE | poison
    body: Body = {
        "prompt": draw_prompt(rng),
        "seed": rng.randrange(2**31),
        "num_inference_steps": rng.randint(2, 10),
        "service_tier": rng.choice(TIERS),
    }
    return kind, PATHS.get(kind, "/v1/videos"), body | draw_inputs(kind, rng, sources)


def draw_inputs(kind: str, rng: random.Random, sources: list[str]) -> Body:
    """What a kind of job needs besides its prompt."""
    if kind == "image":
        return BASE | {"num_frames": 8, "first_frame": draw_picture(rng)}
    if kind == "first_last_frame":
        pictures = {"first_frame": draw_picture(rng), "last_frame": draw_picture(rng)}
        return BASE | {"num_frames": 8} | pictures
    if kind == "story":
        return BASE | {"shots": [{"prompt": draw_prompt(rng), "seconds": 1} for _ in range(2)]}
    if kind == "extend":
        return {"num_frames": 8, "video": {"id": rng.choice(sources)}}
    if kind == "edit":
        return {"video": {"id": rng.choice(sources)}, "first_frame": draw_picture(rng)}
    return BASE | {"num_frames": rng.choice((8, 8, 12, 16))}


def draw_prompt(rng: random.Random) -> str:
    return f"{rng.choice(SUBJECTS)} moving {rng.choice(MOVES)} over {rng.choice(GROUNDS)}"


def draw_picture(rng: random.Random) -> str:
    """A picture of random patches, as a data URL."""
    patches = np.random.default_rng(rng.randrange(2**31)).integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize((64, 64), Image.Resampling.NEAREST).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
