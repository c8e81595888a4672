"""What a task may hold: the last check before a pipeline, which would ignore or stretch silently.

The web side has refused all of this long before; here it protects whoever calls the model itself.
"""

from collections.abc import Iterator

from models.catalog import TAKEN, ModelCard
from models.protocol import Task

Refusal = tuple[bool, str]  # (allowed, what was asked for and what there is)

INPUTS = ("first_frame", "last_frame", "references", "video", "shots")


def check(task: Task, card: ModelCard) -> None:
    """Refuse what the card does not allow. raises ValueError with the value and the limit"""
    if task.task_type not in card.tasks or task.task_type not in TAKEN:
        raise ValueError(f"{card.id} cannot make task {task.task_type!r}: {sorted(card.tasks)}")
    for refusals in (
        _numbers(task, card),
        _inputs(task, card),
        _words(task, card),
        _guidance(task),
    ):
        for allowed, what in refusals:
            if not allowed:
                raise ValueError(f"{card.id} cannot make {what}")


def _numbers(task: Task, card: ModelCard) -> Iterator[Refusal]:
    size = f"{task.width}x{task.height}"
    yield size in card.sizes, f"size {size}: {list(card.sizes)}"
    yield card.frames.allows(task.num_frames), f"{task.num_frames} frames: {card.frames}"
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


def _inputs(task: Task, card: ModelCard) -> Iterator[Refusal]:
    needs = TAKEN[task.task_type]
    for name in INPUTS:
        value = getattr(task, name)
        given = value is not None and len(value) > 0
        yield given or name not in needs, f"{task.task_type!r} without {name}"
        yield not given or name in needs, f"{task.task_type!r} with {name}"
    for name in ("first_frame_strength", "last_frame_strength", "reference_strength"):
        value = getattr(task, name)
        span = getattr(card.inputs, name)
        yield span.allows(value), f"{name} {value}: {span.minimum:g} to {span.maximum:g}"
    yield not task.last_frame_is_sketch, "a clip towards a sketch: not trained for it"
    for reference in task.references:
        yield reference.role == "subject", f"a reference of role {reference.role!r}: 'subject'"
        yield reference.strength == 1, f"a reference of strength {reference.strength}: 1"


def _words(task: Task, card: ModelCard) -> Iterator[Refusal]:
    most = card.max_prompt_chars
    for name in ("prompt", "negative_prompt"):
        length = len(getattr(task, name))
        yield length <= most, f"a {name} of {length} characters: {most}"
    most = card.inputs.max_references
    yield len(task.references) <= most, f"{len(task.references)} references: {most}"


def _guidance(task: Task) -> Iterator[Refusal]:
    unguided = task.guidance_scale == 1 and task.negative_prompt
    yield not unguided, "a negative prompt at guidance scale 1: nothing would follow it"
    yield task.guidance_rescale == 0, f"rescaled guidance, {task.guidance_rescale}: 0"
    schedule = task.guidance_schedule
    yield schedule == "constant", f"guidance schedule {schedule!r}: 'constant'"
    yield task.reconstruction_weight is None, "given frames that pull by gradient"
