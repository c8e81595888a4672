"""What a task may hold: the model's own last check, with the value and the limit in every refusal.

The web side has refused all of this long before; here it protects whoever calls the model itself.
"""

from collections.abc import Collection, Iterator

from models.catalog import ModelCard
from models.protocol import Reference, Task
from models.videoldm.conditioning import MAX_CONTEXT
from models.videoldm.pictures import retimed_count

Refusal = tuple[bool, str]  # (allowed, what was asked for and what there is)

_INPUTS = ("first_frame", "last_frame", "references", "video", "shots", "mask", "keyframes")
# Kind of task to the inputs that it needs and those that it may take besides.
_NEEDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "image": ("first_frame",),
    "first_last_frame": ("first_frame", "last_frame"),
    "reference": ("references",),
    "extend": ("video",),
    "story": ("shots",),
    "edit": ("video",),
}
_TAKES: dict[str, tuple[str, ...]] = {
    "image": ("references",),
    "first_last_frame": ("references",),
    "extend": ("first_frame", "last_frame", "references"),
    "story": ("first_frame", "last_frame", "references"),
    "edit": ("first_frame", "last_frame", "references"),
}


def check(task: Task, card: ModelCard, abilities: Collection[str] = ()) -> None:
    """Refuse what the card does not allow.

    abilities  what the weights were trained for besides the card's kinds of task
    raises     ValueError with the value and the limit
    """
    if task.task_type not in card.tasks or task.task_type not in _NEEDS:
        raise ValueError(f"{card.id} cannot make task {task.task_type!r}: {sorted(card.tasks)}")
    for refusals in (
        _settings(task, card),
        _strengths(task, card),
        _guidance(task),
        _inputs(task, card, abilities),
        _lengths(task, card),
    ):
        for allowed, what in refusals:
            if not allowed:
                raise ValueError(f"{card.id} cannot make {what}")


def _settings(task: Task, card: ModelCard) -> Iterator[Refusal]:
    size = f"{task.width}x{task.height}"
    yield size in card.sizes, f"size {size}: {list(card.sizes)}"
    yield task.fps in card.fps, f"{task.fps} frames per second: {list(card.fps)}"
    yield card.steps.allows(task.num_inference_steps), f"{task.num_inference_steps} steps"
    yield card.guidance.allows(task.guidance_scale), f"guidance scale {task.guidance_scale}"
    known = [adapter.id for adapter in card.adapters]
    yield task.adapter is None or task.adapter in known, f"adapter {task.adapter!r}: {known}"
    yield 0 <= task.adapter_scale <= 2, f"adapter scale {task.adapter_scale}: within 0..2"
    yield task.sampler in card.samplers, f"sampler {task.sampler!r}: {list(card.samplers)}"


def _strengths(task: Task, card: ModelCard) -> Iterator[Refusal]:
    for name in ("first_frame_strength", "last_frame_strength", "reference_strength"):
        value, span = getattr(task, name), getattr(card.inputs, name)
        yield span.allows(value), f"{name} {value}: within {span.minimum:g}..{span.maximum:g}"
    for reference in _all_references(task):
        value = reference.strength
        yield 0 <= value <= 1, f"a reference of strength {value}: within 0..1"


def _guidance(task: Task) -> Iterator[Refusal]:
    yield 0 <= task.guidance_rescale <= 1, f"rescale {task.guidance_rescale}: within 0..1"
    schedule = task.guidance_schedule
    yield schedule in ("constant", "oscillating", "linear"), f"guidance schedule {schedule!r}"
    # 2M would mix the estimates of two functions.
    mixes = schedule == "oscillating" and task.sampler == "dpmpp_2m"
    yield not mixes, "oscillating guidance with dpmpp_2m: take ddim or ancestral"
    context = task.context_frames
    yield 0 <= context <= MAX_CONTEXT, f"{context} context frames: 0..{MAX_CONTEXT}"
    guided = task.context_guidance
    yield 1 <= guided <= 4, f"context guidance {guided}: within 1..4"
    weight = task.reconstruction_weight
    yield weight is None or 0 <= weight <= 100, f"reconstruction weight {weight}: within 0..100"


def _inputs(task: Task, card: ModelCard, abilities: Collection[str]) -> Iterator[Refusal]:
    needs = _NEEDS[task.task_type]
    takes = (*needs, *_TAKES.get(task.task_type, ()))
    for name in _INPUTS:
        value = getattr(task, name)
        given = value is not None and len(value) > 0
        yield given or name not in needs, f"{task.task_type!r} without {name}"
        yield not given or name in takes, f"{task.task_type!r} with {name}"
    if task.task_type == "extend":
        beside = "last_frame" if task.extend_before else "first_frame"
        yield getattr(task, beside) is None, f"an extension with {beside}: the clip has it"
    yield from _references(task, card)
    sketch = task.last_frame_is_sketch
    yield not sketch or "sketch" in abilities, "a clip towards a sketch: not trained for it"


def _references(task: Task, card: ModelCard) -> Iterator[Refusal]:
    most = card.inputs.max_references
    for references in (task.references, *(shot.references for shot in task.shots)):
        count = len(references)
        yield count <= most, f"{count} references: {most} at most"
        yield not count or "reference" in card.tasks, "clips with references: not trained for them"
    for reference in _all_references(task):
        yield reference.role == "subject", f"references for {reference.role!r}: only 'subject'"


def _all_references(task: Task) -> Iterator[Reference]:
    yield from task.references
    for shot in task.shots:
        yield from shot.references


def _lengths(task: Task, card: ModelCard) -> Iterator[Refusal]:
    frames, total = task.num_frames, card.inputs.max_total_frames
    if task.task_type == "extend":
        assert task.video is not None
        source = retimed_count(len(task.video), task.video_fps, task.fps)
        yield frames > source, f"{frames} frames of a clip that has {source} already"
        yield frames <= total, f"{frames} frames: {total} at most"
    elif task.task_type == "story":
        lengths = [shot.num_frames for shot in task.shots]
        least, shots = card.frames.minimum, card.inputs.max_shots
        yield len(lengths) <= shots, f"{len(lengths)} shots: {shots} at most"
        yield frames <= total, f"{frames} frames: {total} at most"
        yield min(lengths) >= least, f"a shot of {min(lengths)} frames: {least} at least"
        yield sum(lengths) == frames, f"{frames} frames of shots of {sum(lengths)}"
    else:
        yield card.frames.allows(frames), f"{frames} frames: {card.frames}"
