"""What a task may hold: the last check before a pipeline, which would ignore or stretch silently.

The web side has refused all of this long before; here it protects whoever calls the model itself.
"""

from collections.abc import Iterator

from models.catalog import ModelCard
from models.protocol import Task

Refusal = tuple[bool, str]  # (allowed, what was asked for and what there is)

INPUTS = ("first_frame", "last_frame", "references", "video", "shots")
NEEDS: dict[str, tuple[str, ...]] = {
    "text": (),
    "image": ("first_frame",),
    "first_last_frame": ("first_frame", "last_frame"),
}


def check(task: Task, card: ModelCard) -> None:
    """Refuse what the card does not allow. raises ValueError with the value and the limit"""
    if task.task_type not in card.tasks or task.task_type not in NEEDS:
        raise ValueError(f"{card.id} cannot make task {task.task_type!r}: {sorted(card.tasks)}")
    for refusals in (_numbers(task, card), _inputs(task), _guidance(task)):
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
    yield task.adapter is None, f"adapter {task.adapter!r}: there is none"
    yield task.quality is None, f"quality {task.quality!r}: there is one only"


def _inputs(task: Task) -> Iterator[Refusal]:
    needs = NEEDS[task.task_type]
    for name in INPUTS:
        value = getattr(task, name)
        given = value is not None and len(value) > 0
        yield given or name not in needs, f"{task.task_type!r} without {name}"
        yield not given or name in needs, f"{task.task_type!r} with {name}"
    for name in ("first_frame_strength", "last_frame_strength", "reference_strength"):
        value = getattr(task, name)
        yield value == 1, f"{name} {value}: given frames hold at every step, 1"
    yield not task.last_frame_is_sketch, "a clip towards a sketch: not trained for it"


def _guidance(task: Task) -> Iterator[Refusal]:
    unguided = task.guidance_scale == 1 and task.negative_prompt
    yield not unguided, "a negative prompt at guidance scale 1: nothing would follow it"
    yield task.guidance_rescale == 0, f"rescaled guidance, {task.guidance_rescale}: 0"
    schedule = task.guidance_schedule
    yield schedule == "constant", f"guidance schedule {schedule!r}: 'constant'"
    yield task.reconstruction_weight is None, "given frames that pull by gradient"
