"""Whether one seed is one film at every frame rate: frames that share a time are held together."""

from dataclasses import asdict, replace
from itertools import combinations
from math import gcd
from statistics import fmean
from typing import Any

from models.catalog import ModelCard
from models.evaluation.bench import Bench, ignore
from models.evaluation.prompts import Prompt
from models.evaluation.scores import decibels, mean
from models.protocol import Frames

NAMES = ("fps_consistency_db",)
COUNT = 24


def base_size(card: ModelCard) -> str:
    """The size of the base's own frames."""
    return card.cascade.base_size if card.cascade else card.sizes[0]


def rates_of(card: ModelCard) -> tuple[int, ...]:
    """The rates at which one clip can be made: with stages, those that they fill in."""
    rule = card.cascade
    return tuple(sorted((rule and rule.fps) or card.rates_at(base_size(card))))


def lengths(card: ModelCard) -> dict[int, int]:
    """Frames of clips that last about equally long at every rate."""
    rates = rates_of(card)
    longest = min(card.frames_at(rate).maximum / rate for rate in rates)
    seconds = min(longest, card.default_frames / card.fps[0])
    return {rate: card.frames_at(rate).nearest(seconds * rate) for rate in rates}


def fps_consistency(bench: Bench) -> dict[str, Any]:
    """PSNR between clips of one seed at two rates, on the times they share; mean over all pairs.

    Control: the same between the clip at one rate and another prompt's at the other.
    """
    own, others = [], []
    before: dict[int, Frames] = {}
    for prompt in bench.watched("rates", bench.counted(bench.prompts, COUNT)):
        clips = {rate: _clip(bench, prompt, rate) for rate in lengths(bench.model.card)}
        pairs = list(combinations(clips, 2))
        own.append(fmean(together(clips[a], clips[b], a, b) for a, b in pairs))
        if before:
            others.append(fmean(together(before[a], clips[b], a, b) for a, b in pairs))
        before = clips
    row = asdict(mean(own, others or own))
    return {"fps_consistency_db": row | {"rates": list(lengths(bench.model.card))}}


def together(one: Frames, other: Frames, rate: int, other_rate: int) -> float:
    """PSNR of two clips on the frames that share a time, both beginning at 0."""
    shared = gcd(rate, other_rate)
    first, second = one[:: rate // shared], other[:: other_rate // shared]
    count = min(len(first), len(second))
    return decibels(first[:count], second[:count])


def _clip(bench: Bench, prompt: Prompt, rate: int) -> Frames:
    bare = bench.task(prompt, task_type="text")
    length = lengths(bench.model.card)[rate]
    if bench.model is bench.base and (rate, length) == (bare.fps, bare.num_frames):
        return bench.text_clip(prompt)
    width, height = (int(side) for side in base_size(bench.model.card).split("x"))
    task = replace(
        bare,
        width=width,
        height=height,
        fps=rate,
        num_frames=length,
    )
    return bench.model.generate(task, ignore)
