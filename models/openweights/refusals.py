"""What a task may hold: the last check before a pipeline, which would ignore or stretch silently.

The web side has refused all of this long before; here it protects whoever calls the model itself.
"""

from collections.abc import Iterator
from dataclasses import fields

from models.catalog import TAKEN, ModelCard
from models.openweights.segments import LONG
from models.protocol import Shot, Task

Refusal = tuple[bool, str]  # (allowed, what was asked for and what there is)

INPUTS = ("first_frame", "last_frame", "references", "video", "mask", "shots")
# What only other kinds of model are given; here it is what it is where nobody asks.
FOREIGN = (
    "extend_before",
    "upscale_factor",
    "target_fps",
    "last_frame_is_sketch",
    "guidance_rescale",
    "guidance_schedule",
    "context_frames",
    "context_guidance",
    "reconstruction_weight",
)
DEFAULTS = {field.name: field.default for field in fields(Task)}
KEYED = ("text", "image", "first_last_frame")  # kinds that may have keyframes


def check(task: Task, card: ModelCard) -> None:
    """Refuse what the card does not allow. raises ValueError with the value and the limit"""
    if task.task_type not in card.tasks or task.task_type not in TAKEN:
        raise ValueError(f"{card.id} cannot make task {task.task_type!r}: {sorted(card.tasks)}")
    for refusals in (
        _numbers(task, card),
        _lengths(task, card),
        _inputs(task, card),
        _words(task, card),
        _guidance(task),
        _foreign(task),
    ):
        for allowed, what in refusals:
            if not allowed:
                raise ValueError(f"{card.id} cannot make {what}")


def _numbers(task: Task, card: ModelCard) -> Iterator[Refusal]:
    size = f"{task.width}x{task.height}"
    yield size in card.sizes, f"size {size}: {list(card.sizes)}"
    yield task.fps in card.fps, f"{task.fps} frames per second: {list(card.fps)}"
    yield card.steps.allows(task.num_inference_steps), f"{task.num_inference_steps} steps"
    yield card.guidance.allows(task.guidance_scale), f"guidance scale {task.guidance_scale}"
    yield task.sampler in card.samplers, f"sampler {task.sampler!r}: {list(card.samplers)}"
    known = [adapter.id for adapter in card.adapters]
    yield task.adapter in (None, *known), f"adapter {task.adapter!r}: {known or 'there is none'}"
    yield 0 <= task.adapter_scale <= 2, f"adapter scale {task.adapter_scale}: 0..2"
    tiers = [tier.name for tier in card.tiers]
    yield (
        task.quality in (None, *tiers),
        f"quality {task.quality!r}: {tiers or 'there is one only'}",
    )
    for tier in card.tiers:
        if tier.name == task.quality and tier.base_steps is not None:
            steps = task.num_inference_steps
            yield steps == tier.base_steps, f"{steps} steps in quality {tier.name}"
        if tier.name == task.quality and tier.distilled:
            yield task.guidance_scale == 1, f"guidance in quality {tier.name}: it is built in"
            yield task.adapter is None, f"adapter {task.adapter!r} in quality {tier.name}: none"


def _lengths(task: Task, card: ModelCard) -> Iterator[Refusal]:
    if task.task_type not in LONG:
        yield card.frames.allows(task.num_frames), f"{task.num_frames} frames: {card.frames}"
    if task.video is not None:
        shape, rate = (task.height, task.width, 3), task.video_fps
        yield task.video.shape[1:] == shape, f"a clip of shape {task.video.shape}: {shape}"
        yield rate in (None, task.fps), f"a clip of {rate} frames per second: {task.fps}"
        count, asked = len(task.video), task.num_frames
        whole = count == asked if task.task_type == "edit" else 0 < count < asked
        yield whole, f"{asked} frames of a clip of {count}"
    if task.task_type not in LONG:
        return
    most = card.inputs.max_total_frames
    yield task.num_frames <= most, f"{task.num_frames} frames: {most}"
    if task.task_type == "story":
        total = sum(shot.num_frames for shot in task.shots)
        yield total == task.num_frames, f"{task.num_frames} frames of shots of {total}"


def _inputs(task: Task, card: ModelCard) -> Iterator[Refusal]:
    needs = TAKEN[task.task_type]
    for name in INPUTS:
        value = getattr(task, name)
        given = value is not None and len(value) > 0
        yield given or name not in needs, f"{task.task_type!r} without {name}"
        shared = name == "references" and task.task_type == "story" and "reference" in card.tasks
        yield not given or name in needs or shared, f"{task.task_type!r} with {name}"
    for name in ("first_frame_strength", "last_frame_strength", "reference_strength"):
        value = getattr(task, name)
        span = getattr(card.inputs, name)
        yield span.allows(value), f"{name} {value}: {span.minimum:g} to {span.maximum:g}"
    yield from _keyframes(task, card)
    for shot in task.shots:
        yield shot.last_frame is None, "a shot with a last frame"
        shown = not shot.references or "reference" in card.tasks
        yield shown, "a shot with references"
    every = (task.references, *(shot.references for shot in task.shots))
    for reference in (reference for references in every for reference in references):
        yield reference.role == "subject", f"a reference of role {reference.role!r}: 'subject'"
        yield reference.strength == 1, f"a reference of strength {reference.strength}: 1"


def _keyframes(task: Task, card: ModelCard) -> Iterator[Refusal]:
    places = [keyframe.index for keyframe in task.keyframes]
    most = card.inputs.max_keyframes if task.task_type in KEYED else 0
    yield len(places) <= most, f"{len(places)} keyframes for {task.task_type!r}: {most}"
    places += [0] if task.first_frame is not None else []
    places += [task.num_frames - 1] if task.last_frame is not None else []
    yield len(set(places)) == len(places), f"two pictures at one frame of {sorted(places)}"
    inside = all(0 <= at < task.num_frames for at in places)
    yield inside, f"keyframes at {places}: 0..{task.num_frames - 1}"


def _words(task: Task, card: ModelCard) -> Iterator[Refusal]:
    parts: tuple[Task | Shot, ...] = (task, *task.shots)
    for part in parts:
        for name in ("prompt", "negative_prompt"):
            length, most = len(getattr(part, name)), card.max_prompt_chars
            yield length <= most, f"a {name} of {length} characters: {most}"
        count, most = len(part.references), card.inputs.max_references
        yield count <= most, f"{count} references: {most}"


def _guidance(task: Task) -> Iterator[Refusal]:
    negative = task.negative_prompt or any(shot.negative_prompt for shot in task.shots)
    yield (
        not (task.guidance_scale == 1 and negative),
        "a negative prompt at guidance scale 1: nothing would follow it",
    )


def _foreign(task: Task) -> Iterator[Refusal]:
    for name in FOREIGN:
        value, plain = getattr(task, name), DEFAULTS[name]
        yield value == plain, f"a film with {name} {value!r}: {plain!r}"
