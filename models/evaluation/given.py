"""Whether a clip keeps the frames that it is given: the first, and the last at every strength.

PixelDance (arXiv:2311.10982), section 3: the first frame binds, the last one guides. The pictures
are of subjects held out and trained in turn, before backgrounds never trained on.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from einops import rearrange
from torch.nn.functional import max_pool2d

from models.evaluation.bench import Bench
from models.evaluation.prompts import Prompt
from models.evaluation.scores import decibels, mean
from models.evaluation.truth import round_trip
from models.protocol import Frames
from models.training.captions import still_caption
from models.training.conditions import sketch
from models.videoldm.pictures import write_frames

FIRST, LAST = ("first_frame_psnr_db",), ("last_frame_gain_db", "last_frame_monotone")
SKETCH = ("sketch_edge_iou", "sketch_gain_db")
COUNT = 24
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def first_frame(bench: Bench) -> dict[str, Any]:
    """The clip's first frame against the given picture.

    Control: clips of the same words and seeds without a picture. Ceiling: the picture through the
    model's autoencoder and back, which no clip can pass.
    """
    kept, words, ceilings = [], [], []
    for prompt in bench.watched("first frame", bench.counted(bench.mixed, COUNT)):
        picture = bench.shown(prompt)[:1]
        kept.append(decibels(bench.begun_clip(prompt)[:1], picture))
        words.append(decibels(bench.text_clip(prompt)[:1], picture))
        ceilings.append(_ceiling(bench, picture))
    return {"first_frame_psnr_db": asdict(mean(kept, words)) | {"ceiling": fmean(ceilings)}}


def last_frame(bench: Bench) -> dict[str, Any]:
    """How near clips come to the given last frame at strengths from 0 to 1.

    The gain is that of strength 1 over the clip of the same words and seed alone; its control is
    the same towards another clip's last frame. `over_first_frame` is the gain over strength 0,
    which knows the first frame. Every third clip is made at the strengths between.
    """
    prompts = bench.counted(bench.mixed, COUNT)
    goals = [bench.shown(prompt)[-1:] for prompt in prompts]
    arrivals: dict[float, list[float]] = {strength: [] for strength in STRENGTHS}
    gains, controls, over_first = [], [], []
    for index, prompt in enumerate(bench.watched("last frame", prompts)):
        inner = STRENGTHS if index % 3 == 0 else (STRENGTHS[0], STRENGTHS[-1])
        ends = {strength: _end(bench, prompt, strength) for strength in inner}
        near = {strength: decibels(end, goals[index]) for strength, end in ends.items()}
        words, other = bench.text_clip(prompt)[-1:], goals[index - 1]
        gains.append(near[1.0] - decibels(words, goals[index]))
        controls.append(decibels(ends[1.0], other) - decibels(words, other))
        over_first.append(near[1.0] - near[0.0])
        if len(near) == len(STRENGTHS):
            for strength, value in near.items():
                arrivals[strength].append(value)
    course = [fmean(arrivals[strength]) for strength in STRENGTHS]
    falls = {
        "value": float(rises(course)),
        "control": float(rises(course[::-1])),
        "n": len(arrivals[1.0]),
        "arrival_db": course,
    }
    gain = asdict(mean(gains, controls)) | {"over_first_frame": fmean(over_first)}
    return {"last_frame_gain_db": gain, "last_frame_monotone": falls}


def sketched(bench: Bench) -> dict[str, Any]:
    """Whether clips end where a drawing of their last frame says, at strength 1.

    Words tell subject and scene: where things go is the drawing's to tell. `sketch_edge_iou` is how
    well the lines of a clip's last frame lie on the drawing's; its control, those of the clip
    without a drawing; its ceiling, of the true frame through the model's autoencoder and back.
    `sketch_gain_db` is how much nearer the clip ends to the true frame than without a drawing; its
    control, the same towards another's.
    """
    prompts = [
        replace(prompt, text=still_caption(prompt.concept, prompt.scene))
        for prompt in bench.counted(bench.mixed, COUNT)
    ]
    goals = [bench.shown(prompt)[-1] for prompt in prompts]
    overlaps, free_overlaps, ceilings, gains, controls = [], [], [], [], []
    for index, prompt in enumerate(bench.watched("sketch", prompts)):
        goal, other, line = goals[index], goals[index - 1], drawing(goals[index])
        free = _end(bench, prompt, 0)[0]
        drawn = _end(bench, prompt, 1, last_frame=line, last_frame_is_sketch=True)[0]
        overlaps.append(overlap(drawing(drawn), line))
        free_overlaps.append(overlap(drawing(free), line))
        if bench.autoencoder is not None:
            ceilings.append(overlap(drawing(round_trip(bench.autoencoder, goal[None])[0]), line))
        gains.append(decibels(drawn, goal) - decibels(free, goal))
        controls.append(decibels(drawn, other) - decibels(free, other))
    lines = asdict(mean(overlaps, free_overlaps))
    return {
        "sketch_edge_iou": lines | {"ceiling": fmean(ceilings or [1.0])},
        "sketch_gain_db": asdict(mean(gains, controls)),
    }


def overlap(one: Frames, other: Frames) -> float:
    """Intersection over union of two drawings' lines (H, W, 3), each a pixel wider all around."""
    masks = [torch.from_numpy(drawn[..., 0] < 128)[None].float() for drawn in (one, other)]
    first, second = (max_pool2d(mask, 3, stride=1, padding=1).bool() for mask in masks)
    return float((first & second).sum() / (first | second).sum().clamp(min=1))


def drawing(frame: Frames) -> Frames:
    """Pencil lines of a frame (H, W, 3), as training draws them."""
    pixels = rearrange(torch.from_numpy(frame), "h w c -> 1 c h w").float() / 127.5 - 1
    return write_frames(rearrange(sketch(pixels), "1 c h w -> 1 c 1 h w"))[0]


def rises(values: Sequence[float]) -> bool:
    """Whether each value is above the one before."""
    return all(value > before for before, value in pairwise(values))


def _end(bench: Bench, prompt: Prompt, strength: float, **changes: Any) -> Frames:
    """The last frame (1, H, W, 3) of a clip between both ends of what the prompt says."""
    truth = bench.shown(prompt)
    if strength == 0 and "image" in bench.base.card.tasks:
        return bench.begun_clip(prompt)[-1:]  # the same, bit for bit
    given = {"first_frame": truth[0], "last_frame": truth[-1], "last_frame_strength": strength}
    task = bench.task(prompt, task_type="first_last_frame", **given | changes)
    return bench.film(task)[-1:]


def _ceiling(bench: Bench, picture: Frames) -> float:
    if bench.autoencoder is None:
        return 60.0
    return decibels(round_trip(bench.autoencoder, picture), picture)
