"""What is asked for and nothing would heed: refused, lest an answer tell of what was not done."""

from collections.abc import Iterator, Sequence
from typing import Any

from service import fields
from service.errors import IncompatibleInputs, show
from service.media import Media
from service.references import MENTION, GivenReference
from service.values import Field, refuse
from service.wishes import Wishes
from worker.jobs.catalog import ModelCard, Quality
from worker.jobs.contract import VideoRequest

DRAWN_BY = (
    fields.NEGATIVE_PROMPT,
    fields.SAMPLER,
    fields.GUIDANCE_RESCALE,
    fields.GUIDANCE_SCHEDULE,
)  # how the base draws
ALONE = frozenset({"text", "image", "first_last_frame", "edit"})  # guided by words, or by nothing
UNDRAWN = frozenset({"interpolate", "upscale"})  # kinds that the base has no part in


def check_excess(wishes: Wishes, media: Media, card: ModelCard, request: VideoRequest) -> None:
    """raises IncompatibleInputs for a wish that the job could not heed; InvalidValue for words that
    call a reference which is not there, or a scale that a distilled base was not taught"""
    for field, why in unheeded(wishes, media, card, request):
        value = wishes.get(field)
        if value not in (None, "", "constant"):
            raise IncompatibleInputs(
                f"{field.name}: {why}; leave it out; got {show(value)}", field.name
            )
    check_names(wishes, media)
    check_scale(student(card, request), request.guidance_scale)


def unheeded(
    wishes: Wishes, media: Media, card: ModelCard, request: VideoRequest
) -> Iterator[tuple[Field[Any], str]]:
    """Fields that nothing looks at, each with the reason."""
    task_type = request.task_type
    if task_type in UNDRAWN:
        for field in (*DRAWN_BY, fields.STEPS, fields.GUIDANCE):
            yield field, f"task_type {task_type} does not look at it"
    elif card.cascade is not None and request.quality is None:
        yield fields.QUALITY, "the base alone makes films of this size and rate, in one way"
    if quality := student(card, request):
        for field in DRAWN_BY:
            yield field, f"quality {quality.name} draws without it"
    if task_type in ALONE and request.guidance_scale == 1 and not media.references:
        for field in (fields.NEGATIVE_PROMPT, fields.GUIDANCE_RESCALE, fields.GUIDANCE_SCHEDULE):
            yield field, "nothing follows it at guidance_scale 1"
    yield from pointless(wishes, media, request)


def pointless(
    wishes: Wishes, media: Media, request: VideoRequest
) -> Iterator[tuple[Field[Any], str]]:
    """Fields that weigh what is not there, each with the reason."""
    if request.context_frames == 0:
        yield fields.CONTEXT_GUIDANCE, "there are no context_frames"
    if wishes.has(fields.RECONSTRUCTION_WEIGHT):
        yield fields.CONTEXT_GUIDANCE, "frames pull by reconstruction_weight"
    ends = (media.last_frame, *(shot.last_frame for shot in media.shots))
    if request.task_type in ("extend", "story") and not any(ends):
        yield fields.LAST_FRAME_STRENGTH, "there is no last_frame"
    if not media.references and not any(shot.references for shot in media.shots):
        yield fields.REFERENCE_STRENGTH, "there are no references"


def student(card: ModelCard, request: VideoRequest) -> Quality | None:
    """The quality whose distilled base draws the film: it knows words and a scale, nothing else."""
    if card.cascade is None or request.task_type != "text":
        return None
    named = (quality for quality in card.qualities if quality.name == request.quality)
    return next((quality for quality in named if quality.distilled), None)


def check_names(wishes: Wishes, media: Media) -> None:
    """raises InvalidValue where words call a reference by a name that none has"""
    called: list[tuple[str, str, Sequence[GivenReference]]] = [
        (f"{shot.param}.prompt", shot.prompt, shot.references or media.references)
        for shot in media.shots
    ]
    called.append((fields.PROMPT.name, wishes.get(fields.PROMPT) or "", media.references))
    for param, words, references in called:
        known = sorted({reference.name for reference in references if reference.name})
        for name in MENTION.findall(words) if known else ():
            if name not in known:
                raise refuse(param, f"free of @names but {', '.join(known)}", f"@{name}")


def check_scale(quality: Quality | None, scale: float) -> None:
    """raises InvalidValue for a guidance scale that a distilled base was not taught"""
    if quality is None or quality.guidance is None:
        return
    least, most = quality.guidance
    if not least <= scale <= most:
        wanted = f"between {least:g} and {most:g} in quality {quality.name}"
        raise refuse(fields.GUIDANCE.name, wanted, scale)


def remarks(request: VideoRequest) -> tuple[str, ...]:
    """What of a request is only a title: told, since clients' libraries insist on a prompt."""
    words = [shot.prompt for shot in request.shots]
    if not request.prompt.strip():
        return ()
    if request.task_type in UNDRAWN:
        return (f"prompt: {request.task_type} follows no words; it is only the film's title",)
    if words and request.prompt not in words:
        return ("prompt: every shot has one of its own; it is only the film's title",)
    return ()
