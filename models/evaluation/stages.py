"""The stages after the base, each against what it stands in for; and what a clip costs in seconds.

Clips are of held-out subjects. How a stage is held against its truth is the recipe's own measure.
"""

import time
from collections import defaultdict
from dataclasses import asdict, replace
from statistics import fmean, median
from typing import Any

from models.catalog import ModelCard
from models.evaluation.bench import Bench, ignore, task_of
from models.evaluation.prompts import Prompt
from models.evaluation.suite import Reading, Scores, measure, read
from models.protocol import Frames
from models.training import decoder, interpolator, upsampler
from models.training.concepts import HELD_OUT
from models.training.patches import LARGE_SIDE, LargeWorld
from models.training.world import World, WorldConfig
from models.videoldm.given import decode_latents
from models.videoldm.pictures import write_frames
from models.videoldm.staged import StagedLDM, drawn_in_few_steps
from models.videoldm.weights import Stages

COUNT = 24
TEACHER_STEPS = 64
TIMED = 3  # clips of each quality, after one that warms up


def parts(bench: Bench) -> tuple[StagedLDM, Stages]:
    """The model with its stages.

    raises ValueError for a model without
    """
    if not isinstance(bench.model, StagedLDM):
        raise ValueError(f"{bench.model.card.id} has no stages after its base")
    return bench.model, bench.model.base.preset.stages


def gains(bench: Bench) -> dict[str, Any]:
    """Rows of those of interpolator, upsampler and temporal decoder that there are.

    Controls are by definition: a linear blend or bicubic enlargement gains 0 dB over itself, and
    the image decoder's flicker is 1 of its own.
    """
    model, found = parts(bench)
    autoencoder, count = model.base.preset.autoencoder, bench.count or COUNT
    unseen = WorldConfig(concepts=tuple(sorted(HELD_OUT)))
    moving = World(bench.world.sheet, replace(unseen, direction_share=1.0))
    rows: dict[str, Any] = {}
    if found.interpolator is not None:
        told = interpolator.measured(found.interpolator, moving, autoencoder, count)
        rows["interpolation_gain_db"] = _row(told["gain_db"], 0.0, count, told)
    if found.upsampler is not None:
        world = LargeWorld(bench.world.sheet, unseen)
        told = upsampler.measured(found.upsampler, world, count, LARGE_SIDE)
        rows["upscale_gain_db"] = _row(told["gain_db"], 0.0, count, told)
    if found.decoder is not None:
        told = decoder.measured(found.decoder, autoencoder, moving, count)
        rows["decoder_flicker_ratio"] = _row(told["flicker_ratio"], 1.0, count, told)
    return rows


def _row(value: float, control: float, n: int, more: dict[str, float]) -> dict[str, Any]:
    return {"value": value, "control": control, "n": n, "details": more}


def student_ratio(bench: Bench) -> dict[str, Any]:
    """Adherence of the few-step student over that of the base in 64 steps, from the same seeds.

    Adherence is the mean of subject, direction and background. Control: the base in as few steps.
    What the student is worth in other step counts that it knows stands in the details.
    """
    prompts = bench.counted(bench.prompts, COUNT)
    made: dict[str, list[Reading]] = defaultdict(list)
    for prompt in bench.watched("student", prompts):
        for who, frames in _drawn(bench, prompt).items():
            made[who].append(read(bench.gallery, frames, bench.task(prompt).fps))
    scores = {who: measure(seen, prompts, bench.gallery.concepts) for who, seen in made.items()}
    means = {who: adherence_of(known) for who, known in scores.items()}
    teacher = max(means["teacher"], 1e-6)
    row = _row(means["student"] / teacher, means["base"] / teacher, len(prompts), means)
    return {"student_ratio": row | {"scores": {who: asdict(s) for who, s in scores.items()}}}


def adherence_of(scores: Scores) -> float:
    """Mean share of clips with the right subject, direction and background."""
    return fmean((scores.subject_r1.value, scores.direction.value, scores.background.value))


def _drawn(bench: Bench, prompt: Prompt) -> dict[str, Frames]:
    model, found = parts(bench)
    assert found.student is not None
    student, known = found.student, found.student.config.steps
    served = next(q.base_steps for q in model.cascade.rule.qualities if q.distilled) or known[0]
    few = replace(bench.task(prompt, task_type="text"), num_inference_steps=served)

    def made_in(steps: int) -> Frames:
        task = replace(few, num_inference_steps=steps)
        latents = drawn_in_few_steps(model.base, student, task, ignore)
        return write_frames(decode_latents(model.base.preset, latents))

    return {
        "student": made_in(served),
        **{f"student_{steps}": made_in(steps) for steps in known if steps != served},
        "base": bench.film(few),
        "teacher": bench.film(replace(few, num_inference_steps=TEACHER_STEPS)),
    }


def seconds_names(card: ModelCard) -> tuple[str, ...]:
    """The rows of `clip_seconds` for a card."""
    qualities = card.cascade.qualities if card.cascade else ()
    return tuple(f"clip_seconds_{quality.name}" for quality in qualities)


def clip_seconds(bench: Bench) -> dict[str, Any]:
    """Median seconds of a default film in each quality; the control is the first, cold one."""
    rows: dict[str, Any] = {}
    rule = bench.model.card.cascade
    for quality in rule.qualities if rule else ():
        task = replace(task_of(bench.model, bench.prompts[0]), quality=quality.name)
        taken = []
        for _ in bench.watched(f"seconds of {quality.name}", range(1 + TIMED)):
            begun = time.perf_counter()
            bench.model.generate(task, ignore)
            taken.append(time.perf_counter() - begun)
        rows[f"clip_seconds_{quality.name}"] = _row(median(taken[1:]), taken[0], TIMED, {})
    return rows
