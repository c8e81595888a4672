"""Scores of what the checkers read in clips, and the gates that the checkers must pass.

On rendered clips of the very prompts, and on the same clips after the model's autoencoder, every
checker must be at least 98 % right, or nothing is scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from models.evaluation.checker import SIDE, look, shows_motion
from models.evaluation.gallery import SCENE_NAMES, Gallery
from models.evaluation.prompts import MOTIONS, Prompt
from models.evaluation.scores import Area, Score, area_under_curve, score
from models.protocol import Frames

GATE = 0.98  # share of known clips that every checker must read right


class GateError(Exception):
    """A checker is not right often enough on clips whose truth is known."""


@dataclass(frozen=True)
class Reading:
    """What the checker saw in one clip."""

    velocity: tuple[float, float]  # (right, down), frame sides a second
    scene: str
    similarities: Tensor  # (concepts,)
    flicker: float  # 0..1


@dataclass(frozen=True)
class Scores:
    """Everything measured on one set of clips."""

    subject_r1: Score
    subject_auc: Area
    direction: Score
    background: Score
    flicker: float  # mean over clips


def read(gallery: Gallery, frames: Frames, fps: float) -> Reading:
    """Read one clip, (T, H, W, 3) uint8, scaled to 64 x 64 first if it is larger."""
    clip = rearrange(torch.from_numpy(frames).float() / 255, "t h w c -> t c h w")
    if clip.shape[-2:] != (SIDE, SIDE):
        clip = functional.interpolate(clip, (SIDE, SIDE), mode="area")
    views = look(gallery.finder, rearrange(clip, "t c h w -> c t h w"), fps)
    return Reading(
        velocity=views.velocity,
        scene=gallery.scene(views),
        similarities=gallery.recognise(views),
        flicker=views.flicker,
    )


def measure(
    readings: Sequence[Reading], prompts: Sequence[Prompt], concepts: Sequence[str]
) -> Scores:
    """Scores of clips against their prompts, with shuffled prompts as control.

    raises ValueError if a prompt's concept is not in the gallery, or the lengths differ
    """
    if len(readings) != len(prompts):
        raise ValueError(f"{len(readings)} clips for {len(prompts)} prompts")
    truths = [concepts.index(prompt.concept) for prompt in prompts]
    similarities = torch.stack([reading.similarities for reading in readings])
    nearest = similarities.argmax(1).tolist()

    def moves(clip: int, prompt: int) -> bool:
        return shows_motion(readings[clip].velocity, prompts[prompt].motion)

    def stands(clip: int, prompt: int) -> bool:
        return readings[clip].scene == prompts[prompt].scene

    n = len(prompts)
    return Scores(
        subject_r1=score(n, lambda clip, p: nearest[clip] == truths[p], 1 / len(concepts)),
        subject_auc=area_under_curve(similarities, truths),
        direction=score(n, moves, 1 / len(MOTIONS)),
        background=score(n, stands, 1 / len(SCENE_NAMES)),
        flicker=sum(reading.flicker for reading in readings) / n,
    )


def check_gate(scores: Scores, what: str) -> None:
    """Refuse to go on with a checker that misreads known clips.

    raises GateError naming the checker, its figure and the gate
    """
    for name in ("subject_r1", "direction", "background"):
        value = getattr(scores, name).value
        if value < GATE:
            raise GateError(f"{name} is right on {value:.3f} of {what} clips, gate is {GATE}")
