"""A model's limits put on wishes: every default filled in, every number within the card."""

import secrets
from typing import Any, TypeVar

from service import fields
from service.errors import IncompatibleInputs, InvalidValue, MissingParameter
from service.values import Field, check_length, refuse
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard, Span
from worker.jobs.contract import MAX_SEED, VideoRequest

T = TypeVar("T")


def resolve(wishes: Wishes, card: ModelCard, task_type: str) -> VideoRequest:
    """Every default filled in and every limit of the card checked."""
    width, height = resolve_size(wishes, card)
    fps, num_frames = resolve_frames(wishes, card)
    seed = wishes.get(fields.SEED)
    return VideoRequest(
        model=card.id,
        task_type=task_type,
        prompt=resolve_prompt(wishes, card),
        negative_prompt=limited_text(wishes, fields.NEGATIVE_PROMPT, card) or "",
        width=width,
        height=height,
        num_frames=num_frames,
        fps=fps,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        num_inference_steps=int(within(wishes.get(fields.STEPS), card.steps, fields.STEPS)),
        guidance_scale=within(wishes.get(fields.GUIDANCE), card.guidance, fields.GUIDANCE),
        sampler=one_of(wishes.get(fields.SAMPLER), card.samplers, fields.SAMPLER),
        metadata=wishes.get(fields.METADATA) or {},
        user=wishes.get(fields.USER),
    )


def resolve_prompt(wishes: Wishes, card: ModelCard) -> str:
    prompt = limited_text(wishes, fields.PROMPT, card)
    if prompt is None:
        raise MissingParameter("prompt: is required", "prompt")
    if not prompt.strip():
        raise refuse("prompt", f"1 to {card.max_prompt_chars} characters, not only spaces", prompt)
    return prompt


def limited_text(wishes: Wishes, field: Field[str], card: ModelCard) -> str | None:
    text = wishes.get(field)
    check_length(text or "", card.max_prompt_chars, field.name)
    return text


def within(value: float | None, span: Span, field: Field[Any]) -> float:
    if value is None:
        return span.default
    if not span.allows(value):
        raise refuse(field.name, f"between {span.minimum:g} and {span.maximum:g}", value)
    return value


def one_of(value: T | None, choices: tuple[T, ...], field: Field[T]) -> T:
    if value is None:
        return choices[0]
    if value not in choices:
        raise refuse(field.name, f"one of {', '.join(map(str, choices))}", value)
    return value


def resolve_size(wishes: Wishes, card: ModelCard) -> tuple[int, int]:
    """One of the card's sizes: by `size`, by both sides, or by the first that fits the hints."""
    sizes = {name: fields.SIZE.type.read(name, "size") for name in card.sizes}
    wanted, param = explicit_size(wishes)
    fitting = [size for size in sizes.values() if fits(size, wishes)]
    if wanted is not None:
        if wanted not in sizes.values():
            got = f"{wanted[0]}x{wanted[1]}"
            raise refuse(param, f"one of {', '.join(sizes)}", got)
        if wanted not in fitting:
            raise InvalidValue(
                f"{param}: contradicts resolution or aspect_ratio; got {wanted[0]}x{wanted[1]}",
                param,
            )
        return wanted
    if not fitting:
        param = "resolution" if wishes.has(fields.RESOLUTION) else "aspect_ratio"
        raise refuse(param, f"that of one of the sizes {', '.join(sizes)}", show_hint(wishes))
    return fitting[0]


def explicit_size(wishes: Wishes) -> tuple[tuple[int, int] | None, str]:
    size, width, height = (
        wishes.get(fields.SIZE),
        wishes.get(fields.WIDTH),
        wishes.get(fields.HEIGHT),
    )
    if width is None and height is None:
        return size, "size"
    if width is None or height is None:
        absent = "width" if width is None else "height"
        raise MissingParameter(f"{absent}: width and height come together", absent)
    if size not in (None, (width, height)):
        raise InvalidValue(f"width: contradicts size; got {width}x{height}", "width")
    return (width, height), "width"


def fits(size: tuple[int, int], wishes: Wishes) -> bool:
    resolution, aspect = wishes.get(fields.RESOLUTION), wishes.get(fields.ASPECT_RATIO)
    if resolution is not None and min(size) != resolution:
        return False
    return aspect is None or abs(size[0] * aspect[1] / (size[1] * aspect[0]) - 1) <= 0.02


def show_hint(wishes: Wishes) -> str:
    resolution, aspect = wishes.get(fields.RESOLUTION), wishes.get(fields.ASPECT_RATIO)
    shown = [] if resolution is None else [f"{resolution}p"]
    return " ".join(shown + ([] if aspect is None else [f"{aspect[0]}:{aspect[1]}"]))


def resolve_frames(wishes: Wishes, card: ModelCard) -> tuple[int, int]:
    """Frames per second and frame count; a length in seconds snaps to the nearest legal count."""
    fps = one_of(wishes.get(fields.FPS), card.fps, fields.FPS)
    seconds, num_frames = wishes.get(fields.SECONDS), wishes.get(fields.NUM_FRAMES)
    if num_frames is not None and not card.frames.allows(num_frames):
        raise refuse("num_frames", legal_counts(card), num_frames)
    if seconds is None:
        return fps, num_frames or card.default_frames
    slack = card.frames.step / 2
    if not card.frames.minimum - slack <= seconds * fps <= card.frames.maximum + slack:
        shortest, longest = card.frames.minimum / fps, card.frames.maximum / fps
        raise refuse("seconds", f"between {shortest:g} and {longest:g} at {fps} fps", seconds)
    nearest = card.frames.nearest(seconds * fps)
    if num_frames not in (None, nearest):
        raise IncompatibleInputs(
            f"num_frames: {num_frames} frames contradict {seconds:g} seconds at {fps} fps, "
            f"which are {nearest} frames",
            "num_frames",
        )
    return fps, nearest


def legal_counts(card: ModelCard) -> str:
    rule = card.frames
    between = f"between {rule.minimum} and {rule.maximum}"
    return between if rule.step == 1 else f"{between} and {rule.offset} + a multiple of {rule.step}"
