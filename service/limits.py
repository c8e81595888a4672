"""A model's limits put on wishes: every default filled in, every number within the card.

What depends on a source clip is filled in later, by `fitting`, when the clip was looked at.
"""

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from service import fields
from service.errors import IncompatibleInputs, InvalidValue, MissingParameter
from service.guiding import (
    PER_FILM,
    check_stages,
    resolve_adapter,
    resolve_guiding,
    resolve_quality,
    resolve_steps,
)
from service.lengths import resolve_frames, shot_frames
from service.shots import GivenShot
from service.values import Field, check_length, refuse
from service.wishes import Wishes
from worker.jobs.catalog import OPEN, TASKS, ModelCard, Quality, Span
from worker.jobs.contract import MAX_SEED, StoryShot, VideoRequest

T = TypeVar("T")

WORDLESS = frozenset(TASKS) - {"text", "reference"}  # kinds that may do without a prompt
KEEPS_RATE = frozenset({"interpolate", "upscale"})


def resolve(
    wishes: Wishes, card: ModelCard, task_type: str, shots: Sequence[GivenShot] = ()
) -> VideoRequest:
    """Every default filled in and every limit of the card checked.

    For kinds with a source clip, size and frames are those of a clip of the default size.
    """
    form = resolve_format(wishes, card, task_type, shots)
    quality = resolve_quality(wishes, card)
    staged = resolve_staged(form, card, task_type)
    sampler = one_of(wishes.get(fields.SAMPLER), card.samplers, fields.SAMPLER)
    seed = resolve_seed(wishes)
    negative = limited_text(wishes, fields.NEGATIVE_PROMPT, card) or ""
    guidance = resolve_scale(wishes, card, quality)
    if guidance == 1 and card.kind == OPEN:
        check_unguided(negative, shots)
    return VideoRequest(
        model=card.id,
        task_type=task_type,
        prompt=resolve_prompt(wishes, card, task_type),
        negative_prompt=negative,
        **form._asdict(),
        seed=seed,
        num_inference_steps=resolve_steps(wishes, card, quality, task_type, staged),
        guidance_scale=guidance,
        sampler=sampler,
        quality=told_quality(quality, card, task_type, staged),
        **resolve_guiding(wishes, card, sampler),
        **resolve_adapter(wishes, card, quality, staged),
        **resolve_strengths(wishes, card),
        extend_before=wishes.get(fields.EXTEND_BEFORE) or False,
        shots=resolve_shots(shots, card, form.fps, seed, negative),
        upscale_factor=resolve_factor(wishes, card, task_type),
        target_fps=resolve_target(wishes, card, task_type),
        return_last_frame=wishes.get(fields.RETURN_LAST_FRAME) or False,
        metadata=wishes.get(fields.METADATA) or {},
        user=wishes.get(fields.USER),
    )


def told_quality(
    quality: Quality | None, card: ModelCard, task_type: str, staged: bool
) -> str | None:
    """The quality's name, where it changes anything: a model with stages has it in these alone."""
    alone = card.cascade is not None and not staged and task_type not in KEEPS_RATE
    return None if quality is None or alone else quality.name


class Format(NamedTuple):
    """Size, length and rate of a film, by the names of the request's fields."""

    width: int
    height: int
    num_frames: int
    fps: int

    @property
    def size(self) -> str:
        """As cards name it."""
        return f"{self.width}x{self.height}"


def resolve_format(
    wishes: Wishes, card: ModelCard, task_type: str, shots: Sequence[GivenShot]
) -> Format:
    width, height = resolve_size(wishes, card)
    fps = resolve_rate(wishes, card, task_type, f"{width}x{height}")
    return Format(width, height, resolve_frames(wishes, card, task_type, fps, shots), fps)


def resolve_staged(form: Format, card: ModelCard, task_type: str) -> bool:
    """Whether the film goes through stages after the base; raises InvalidValue where it would and
    is longer or shorter than they make."""
    staged = task_type not in KEEPS_RATE and card.staged(form.size, form.fps)
    if staged and task_type in PER_FILM:
        check_stages(card, form.size, form.fps, form.num_frames)
    return staged


def resolve_seed(wishes: Wishes) -> int:
    wished = wishes.get(fields.SEED)
    return secrets.randbelow(MAX_SEED + 1) if wished is None else wished


def resolve_strengths(wishes: Wishes, card: ModelCard) -> dict[str, float]:
    """How much given pictures count, as fields of the request."""
    spans = {
        fields.FIRST_FRAME_STRENGTH: card.inputs.first_frame_strength,
        fields.LAST_FRAME_STRENGTH: card.inputs.last_frame_strength,
        fields.REFERENCE_STRENGTH: card.inputs.reference_strength,
    }
    return {field.name: within(wishes.get(field), span, field) for field, span in spans.items()}


def check_unguided(negative_prompt: str, shots: Sequence[GivenShot]) -> None:
    """raises IncompatibleInputs for a negative prompt, which nothing would follow"""
    given = {fields.NEGATIVE_PROMPT.name: negative_prompt}
    given |= {f"{shot.param}.negative_prompt": shot.negative_prompt for shot in shots}
    for param, text in given.items():
        if text:
            raise IncompatibleInputs(f"{param}: nothing follows it at guidance_scale 1", param)


def resolve_prompt(wishes: Wishes, card: ModelCard, task_type: str) -> str:
    prompt = limited_text(wishes, fields.PROMPT, card)
    if task_type in WORDLESS:
        return prompt or ""
    if prompt is None:
        raise MissingParameter("prompt: is required", "prompt")
    if not prompt.strip():
        raise refuse("prompt", f"1 to {card.max_prompt_chars} characters, not only spaces", prompt)
    return prompt


def limited_text(wishes: Wishes, field: Field[str], card: ModelCard) -> str | None:
    text = wishes.get(field)
    check_length(text or "", card.max_prompt_chars, field.name)
    return text


def resolve_scale(wishes: Wishes, card: ModelCard, quality: Quality | None) -> float:
    """The strength of guidance; 1, which is none, where a quality of open weights has it built
    in."""
    asked = wishes.get(fields.GUIDANCE)
    if quality is None or card.cascade is not None or not quality.distilled:
        return within(asked, card.guidance, fields.GUIDANCE)
    if asked not in (None, 1):
        raise IncompatibleInputs(
            f"guidance_scale: quality {quality.name} has it built in, so 1; got {asked:g}",
            fields.GUIDANCE.name,
        )
    return 1.0


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


def resolve_rate(wishes: Wishes, card: ModelCard, task_type: str, size: str) -> int:
    if task_type in KEEPS_RATE and wishes.has(fields.FPS):
        raise IncompatibleInputs("fps: the rate is the source's; see target_fps", "fps")
    rates = card.fps if task_type in KEEPS_RATE else card.rates_at(size)
    return one_of(wishes.get(fields.FPS), rates, fields.FPS)


def resolve_shots(
    shots: Sequence[GivenShot], card: ModelCard, fps: int, seed: int, negative_prompt: str
) -> tuple[StoryShot, ...]:
    """The shots without their pictures; their seeds follow from the request's."""
    return tuple(
        StoryShot(
            prompt=shot.prompt,
            num_frames=shot_frames(shot, card, fps),
            seed=(seed + index) & MAX_SEED if shot.seed is None else shot.seed,
            negative_prompt=shot.negative_prompt or negative_prompt,
            transition=shot.transition,
        )
        for index, shot in enumerate(shots)
    )


def resolve_factor(wishes: Wishes, card: ModelCard, task_type: str) -> int | None:
    """How many times as wide and high; None for kinds that keep their size."""
    if task_type != "upscale":
        return None
    factors = card.inputs.upscale_factors
    return one_of(wishes.get(fields.UPSCALE_FACTOR), factors, fields.UPSCALE_FACTOR)


def resolve_target(wishes: Wishes, card: ModelCard, task_type: str) -> int | None:
    """The rate to interpolate to; None if it is asked for as a factor of the source's."""
    target = wishes.get(fields.TARGET_FPS)
    if task_type != "interpolate" or target is None:
        return None
    return int(within(target, card.inputs.target_fps, fields.TARGET_FPS))


def has_size(wishes: Wishes) -> bool:
    """Whether anything is said about the size."""
    about = (fields.SIZE, fields.WIDTH, fields.HEIGHT, fields.RESOLUTION, fields.ASPECT_RATIO)
    return any(wishes.has(field) for field in about)


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
