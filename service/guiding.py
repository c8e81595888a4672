"""Wishes about how a film is made, rather than what it shows: quality, steps, guidance, context."""

from typing import Any

from service import fields
from service.errors import IncompatibleInputs, InvalidValue
from service.values import Field, refuse
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard, Quality

FAMILY = "videoldm"  # the only kind of model that takes these
ITS_FIELDS: tuple[Field[Any], ...] = (
    fields.GUIDANCE_RESCALE,
    fields.GUIDANCE_SCHEDULE,
    fields.CONTEXT_FRAMES,
    fields.CONTEXT_GUIDANCE,
    fields.RECONSTRUCTION_WEIGHT,
)
PER_FILM = frozenset({"text", "image", "reference", "first_last_frame"})  # kinds with key frames


def resolve_guiding(wishes: Wishes, card: ModelCard, sampler: str) -> dict[str, Any]:
    """Guidance and context as fields of the request; what is not asked for keeps its default.

    raises InvalidValue, IncompatibleInputs
    """
    given = {field.name: wishes.get(field) for field in ITS_FIELDS if wishes.has(field)}
    for name, value in given.items():
        if card.kind != FAMILY:
            raise InvalidValue(f"{name}: model {card.id!r} does not take it; got {value}", name)
    if given.get("guidance_schedule") == "oscillating" and sampler == "dpmpp_2m":
        others = [other for other in card.samplers if other != sampler]
        raise IncompatibleInputs(
            "guidance_schedule: oscillating guidance needs another sampler than dpmpp_2m; "
            f"there are {', '.join(others) or 'none'}",
            "guidance_schedule",
        )
    sketch = wishes.get(fields.LAST_FRAME_IS_SKETCH) or False
    if sketch and not card.inputs.last_frame_sketches:
        raise refuse(
            "last_frame_is_sketch", f"false: {card.id} is not trained for sketches", sketch
        )
    if sketch and not wishes.has(fields.LAST_FRAME):
        raise IncompatibleInputs(
            "last_frame_is_sketch: there is no last_frame", "last_frame_is_sketch"
        )
    return given | {"last_frame_is_sketch": sketch}


def resolve_quality(wishes: Wishes, card: ModelCard) -> Quality | None:
    """The quality asked for, or the model's first; None for what is made without stages."""
    known = card.qualities
    asked = wishes.get(fields.QUALITY)
    if asked is None:
        return known[0] if known else None
    for quality in known:
        if quality.name == asked:
            return quality
    names = ", ".join(quality.name for quality in known)
    raise refuse("quality", f"one of {names}" if known else "absent: there is one only", asked)


def resolve_adapter(
    wishes: Wishes, card: ModelCard, quality: Quality | None, staged: bool
) -> dict[str, Any]:
    """The personal subject as fields of the request.

    raises InvalidValue naming those there are, IncompatibleInputs
    """
    name, scale = wishes.get(fields.ADAPTER), wishes.get(fields.ADAPTER_SCALE)
    if name is None:
        if scale is not None:
            raise IncompatibleInputs("adapter_scale: there is no adapter", "adapter_scale")
        return {}
    check_adapter(name, card)
    if quality is not None and quality.distilled and (staged or card.cascade is None):
        raise IncompatibleInputs(
            f"adapter: changes the base, and quality {quality.name} draws without it", "adapter"
        )
    return {"adapter": name, "adapter_scale": 1.0 if scale is None else scale}


def check_adapter(name: str | None, card: ModelCard) -> None:
    """raises InvalidValue naming those there are"""
    known = [adapter.id for adapter in card.adapters]
    if name is not None and name not in known:
        wanted = f"one of {', '.join(known)}" if known else f"absent: {card.id} has none"
        raise refuse(fields.ADAPTER.name, wanted, name)


def resolve_steps(
    wishes: Wishes, card: ModelCard, quality: Quality | None, task_type: str, staged: bool
) -> int:
    """Denoising steps of the base; a quality may fix them for films that go through stages."""
    asked, span = wishes.get(fields.STEPS), card.steps
    if asked is not None and not span.allows(asked):
        wanted = f"between {span.minimum:g} and {span.maximum:g}"
        raise refuse(fields.STEPS.name, wanted, asked)
    open_tier = card.cascade is None
    fixed = quality.fixed_steps(task_type) if quality and (staged or open_tier) else None
    if fixed is None:
        return int(span.default) if asked is None else asked
    if asked not in (None, fixed):
        assert quality is not None
        raise IncompatibleInputs(
            f"num_inference_steps: quality {quality.name} takes {fixed}; got {asked}",
            fields.STEPS.name,
        )
    return fixed


def check_stages(card: ModelCard, size: str, fps: int, num_frames: int) -> None:
    """raises InvalidValue for a film of one clip longer or shorter than its stages make"""
    rule = card.cascade
    if rule is None or not card.staged(size, fps):
        return
    seconds = num_frames / fps
    if not rule.min_seconds <= seconds <= rule.max_seconds:
        wanted = f"of {rule.min_seconds:g} to {rule.max_seconds:g} seconds at {size}"
        raise refuse("num_frames", wanted, f"{num_frames} frames, {seconds:g} s")
