"""A source clip and a job's numbers brought together: sizes, rates and lengths of the result."""

from dataclasses import dataclass, replace
from math import log
from typing import Any

from service import fields
from service.errors import InvalidValue
from service.excess import check_excess
from service.lengths import legal_counts
from service.limits import has_size, resolve, resolve_size
from service.media import Media
from service.values import refuse
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import StoredVideo, VideoRequest

Size = tuple[int, int]

FITTED = frozenset({"extend", "edit"})  # kinds that draw anew what belongs to a clip


def fit(
    draft: VideoRequest, wishes: Wishes, media: Media, card: ModelCard, seen: Size, rate: float
) -> VideoRequest:
    """The draft at the size and rate that its clip decides, where nobody asked for others: the
    size that needs the least crop, and of the rates at that size the nearest.

    raises InvalidValue, IncompatibleInputs: what can be asked for depends on both
    """
    if draft.task_type not in FITTED:
        return draft
    size = pick_size(wishes, card, seen, 1)
    rates = card.rates_at(f"{size[0]}x{size[1]}")
    asked = wishes.get(fields.FPS)
    fps = min(rates, key=lambda each: abs(log(each / rate))) if asked is None else asked
    decided = {fields.SIZE.name: size, fields.FPS.name: fps, fields.SEED.name: draft.seed}
    formed = replace(wishes, values={**wishes.values, **decided})
    request = resolve(formed, card, draft.task_type)
    check_excess(formed, media, card, request)
    return request


@dataclass(frozen=True)
class ClipPlan:
    """How a source clip is to be prepared, and what becomes of it."""

    size: Size  # of the result
    source_size: Size  # of the prepared clip
    source_fps: int
    fps: int  # of the result
    max_frames: int  # of the prepared clip


def plan_clip(
    draft: VideoRequest, wishes: Wishes, card: ModelCard, seen: Size, rate: float
) -> ClipPlan:
    """Sizes and rates for a clip of this size and rate.

    Without a wish for a size, the result gets the one of the model's that needs the least crop.
    raises InvalidValue
    """
    factor = draft.upscale_factor or 1
    size = pick_size(wishes, card, seen, factor)
    keeps_rate = draft.task_type in ("interpolate", "upscale")
    source_fps = max(1, round(rate)) if keeps_rate else draft.fps
    max_frames = card.inputs.max_total_frames
    if draft.task_type == "edit":
        max_frames = card.frames_at(draft.fps).maximum
    if draft.task_type == "extend":
        max_frames -= draft.num_frames
    return ClipPlan(
        size=size,
        source_size=(size[0] // factor, size[1] // factor),
        source_fps=source_fps,
        fps=result_rate(draft, wishes, card, source_fps),
        max_frames=max_frames,
    )


def pick_size(wishes: Wishes, card: ModelCard, seen: Size, factor: int) -> Size:
    """The result's size, a multiple of `factor`."""
    if has_size(wishes):
        size = resolve_size(wishes, card)
        if size[0] % factor or size[1] % factor:
            raise refuse("size", f"a multiple of upscale_factor {factor}", f"{size[0]}x{size[1]}")
        return size
    sizes = [fields.SIZE.type.read(name, "size") for name in card.sizes]
    usable = [size for size in sizes if not (size[0] % factor or size[1] % factor)]
    if not usable:
        raise refuse("upscale_factor", f"a divisor of the sizes {', '.join(card.sizes)}", factor)

    def distance(size: Size) -> tuple[float, float]:
        crop = abs(log(size[0] * seen[1] / (size[1] * seen[0])))
        return round(crop, 6), abs(log(size[0] * size[1] / (seen[0] * seen[1] * factor**2)))

    return min(usable, key=distance)


def result_rate(draft: VideoRequest, wishes: Wishes, card: ModelCard, source_fps: int) -> int:
    """Frames a second of the result. raises InvalidValue if an interpolation adds none"""
    if draft.task_type == "upscale":
        return source_fps
    if draft.task_type != "interpolate":
        return draft.fps
    factor = interpolation_factor(wishes)
    target = draft.target_fps or source_fps * (factor or 1)
    if factor is not None and target != source_fps * factor:
        raise InvalidValue(
            f"frame_interpolation_factor: {factor} times the source's {source_fps} fps is not "
            f"target_fps {target}",
            "frame_interpolation_factor",
        )
    if target <= source_fps:
        raise refuse("target_fps", f"above the source's {source_fps} fps", target)
    span = card.inputs.target_fps
    if not span.allows(target):
        raise refuse("target_fps", f"between {span.minimum:g} and {span.maximum:g}", target)
    return target


def interpolation_factor(wishes: Wishes) -> int | None:
    """How many times as many frames are asked for; None if that is not how it was asked.

    raises InvalidValue if factor and exponent disagree
    """
    factor = wishes.get(fields.INTERPOLATION_FACTOR)
    exponent = wishes.get(fields.INTERPOLATION_EXP)
    if exponent is None:
        return factor
    if factor not in (None, 2**exponent):
        raise refuse("frame_interpolation_exp", f"the exponent of factor {factor}", exponent)
    return int(2**exponent)


def settle(
    draft: VideoRequest, plan: ClipPlan, video: StoredVideo, card: ModelCard
) -> dict[str, Any]:
    """What the prepared clip decides about its request, as fields of it.

    raises InvalidValue if the result would be longer or shorter than the model can make
    """
    frames = video.num_frames
    if draft.task_type == "extend":
        frames += draft.num_frames
    if draft.task_type == "interpolate":
        frames = round((video.num_frames - 1) * plan.fps / plan.source_fps) + 1
    rule = card.frames_at(plan.fps)
    if draft.task_type == "edit" and not rule.allows(frames):
        wanted = f"a clip of {legal_counts(rule)} frames at {plan.fps} fps"
        raise refuse("video", wanted, f"{frames} frames")
    if frames > card.inputs.max_total_frames:
        limit = card.inputs.max_total_frames
        raise InvalidValue(f"video: the result has {frames} frames; the limit is {limit}", "video")
    width, height = plan.size
    return {
        "video": video,
        "width": width,
        "height": height,
        "fps": plan.fps,
        "num_frames": frames,
        "target_fps": plan.fps if draft.task_type == "interpolate" else None,
    }
