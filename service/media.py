"""The inputs of a request by the part they play: given frames, references, clip, shots.

Checks that a kind of job has what it needs and no more than its model takes. Nothing here
fetches or opens anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service import fields
from service.cast import FindCharacter, nobody, read_cast
from service.errors import IncompatibleInputs, InvalidValue, MissingParameter
from service.given import Given, read_image
from service.keyframes import GivenKeyframe, read_keyframes
from service.references import GivenReference, read_references
from service.roles import as_list
from service.shots import GivenShot, read_shots
from service.sources import read_video_source
from service.wishes import Wishes
from worker.jobs.catalog import OPEN, TAKEN, ModelCard

MAX_IMAGES = 64  # of one request, references and the frames of all shots included


@dataclass(frozen=True)
class Media:
    """Everything given besides words and numbers."""

    first_frame: Given | None = None
    last_frame: Given | None = None
    references: tuple[GivenReference, ...] = ()
    video: Given | None = None
    mask: Given | None = None
    keyframes: tuple[GivenKeyframe, ...] = ()
    shots: tuple[GivenShot, ...] = ()

    def __bool__(self) -> bool:
        return any((self.video, *self.images()))

    def images(self) -> Iterator[Given]:
        """Every picture, those that shots only name left out."""
        frames = [self.first_frame, self.last_frame, self.mask]
        frames += [keyframe.image for keyframe in self.keyframes]
        references = list(self.references)
        for shot in self.shots:
            frames += [shot.first_frame, shot.last_frame]
            references += shot.references
        yield from (frame for frame in frames if frame is not None)
        yield from (reference.image for reference in references)


def read_media(
    wishes: Wishes, card: ModelCard, task_type: str, find_character: FindCharacter = nobody
) -> Media:
    """What is given, once it is known to be what the kind of job needs.

    raises ApiError of status 400, naming the field, the value and the limit; NoSuchCharacter
    """
    plain = as_list(wishes.get(fields.INPUT_REFERENCE))
    as_references = plain if task_type == "reference" else []
    references = read_references(
        [*as_references, *as_list(wishes.get(fields.REFERENCE_IMAGES))],
        fields.REFERENCE_IMAGES.name,
        card,
    )
    references += read_cast(wishes.get(fields.CHARACTERS), find_character, references, card)
    media = Media(
        first_frame=read_first_frame(wishes, [] if as_references else plain),
        last_frame=read_image(wishes.get(fields.LAST_FRAME), fields.LAST_FRAME.name),
        references=references,
        video=read_video(wishes),
        mask=read_image(wishes.get(fields.MASK), fields.MASK.name),
        keyframes=read_keyframes(as_list(wishes.get(fields.KEYFRAMES)), card),
        shots=read_shots(
            wishes.get(fields.SHOTS), references, card, wishes.get(fields.PROMPT) or ""
        ),
    )
    check_needs(media, wishes, card, task_type)
    check_fit(media, wishes, card)
    if card.kind == OPEN:
        check_only(media, card, task_type)
        if wishes.get(fields.EXTEND_BEFORE):
            raise InvalidValue(
                f"extend_before: model {card.id!r} adds frames after a clip only; got true",
                "extend_before",
            )
    if (count := len(list(media.images()))) > MAX_IMAGES:
        raise InvalidValue(f"shots: hold {count} pictures; the limit is {MAX_IMAGES}", "shots")
    return media


def read_first_frame(wishes: Wishes, plain: list[Any]) -> Given | None:
    given = wishes.get(fields.FIRST_FRAME)
    if len(plain) > 1:
        raise IncompatibleInputs(
            f"input_reference: several pictures are references; got {len(plain)} where one "
            "first frame is wanted",
            "input_reference",
        )
    if plain and given is not None:
        raise IncompatibleInputs(
            "input_reference: one picture is the first frame, and first_frame is given as well",
            "input_reference",
        )
    if plain:
        return read_image(plain[0], fields.INPUT_REFERENCE.name)
    return read_image(given, fields.FIRST_FRAME.name)


def read_video(wishes: Wishes) -> Given | None:
    value = wishes.get(fields.VIDEO)
    return None if value is None else Given(read_video_source(value, "video"), "video")


def check_fit(media: Media, wishes: Wishes, card: ModelCard) -> None:
    """raises IncompatibleInputs for what the kind of job takes, but not together or not here"""
    referred = media.references or any(shot.references for shot in media.shots)
    if referred and "reference" not in card.tasks:
        param = "reference_images" if media.references else "shots"
        raise IncompatibleInputs(
            f"{param}: model {card.id!r} is not trained for references; got some", param
        )
    if media.mask is not None and not card.inputs.masks:
        raise IncompatibleInputs(
            f"mask: model {card.id!r} edits by frames or words; leave it out", "mask"
        )
    if wishes.get(fields.EXTEND_BEFORE) and media.last_frame is not None:
        raise IncompatibleInputs(
            "last_frame: frames that lead up to a clip end with the clip's first; leave it out",
            "last_frame",
        )


def check_only(media: Media, card: ModelCard, task_type: str) -> None:
    """raises IncompatibleInputs for what a checkpoint of open weights would ignore"""
    given = {
        "first_frame": media.first_frame,
        "last_frame": media.last_frame,
        "references": media.references,
        "video": media.video,
        "shots": media.shots,
    }
    for name, value in given.items():
        named = name == "references" and task_type == "story" and "reference" in card.tasks
        if value and name not in TAKEN.get(task_type, ()) and not named:
            param = fields.REFERENCE_IMAGES.name if name == "references" else name
            raise IncompatibleInputs(
                f"{param}: is not looked at for task_type {task_type}; leave it out", param
            )
    for shot in media.shots:
        if shot.last_frame is not None:
            raise IncompatibleInputs(
                f"{shot.param}.last_frame: model {card.id!r} ends no shot with a given frame; "
                "leave it out",
                f"{shot.param}.last_frame",
            )


def check_needs(media: Media, wishes: Wishes, card: ModelCard, task_type: str) -> None:
    """raises MissingParameter for the first thing that the kind of job cannot do without"""
    rates = (fields.TARGET_FPS, fields.INTERPOLATION_FACTOR, fields.INTERPOLATION_EXP)
    by_words = card.inputs.edits_by_words and wishes.has(fields.PROMPT)
    edited = media.first_frame or media.last_frame or by_words
    factor = wishes.has(fields.UPSCALE_FACTOR) or wishes.get(fields.ENABLE_UPSCALING)
    needs: dict[str, tuple[tuple[str, object], ...]] = {
        "image": (("first_frame", media.first_frame),),
        "reference": (("reference_images", media.references),),
        "first_last_frame": (("first_frame", media.first_frame), ("last_frame", media.last_frame)),
        "extend": (("video", media.video),),
        "story": (("shots", media.shots),),
        "interpolate": (("video", media.video), ("target_fps", any(map(wishes.has, rates)))),
        "upscale": (("video", media.video), ("upscale_factor", factor)),
        "edit": (
            ("video", media.video),
            ("mask", media.mask) if card.inputs.masks else ("first_frame", edited),
        ),
    }
    for name, found in needs.get(task_type, ()):
        if not found:
            raise MissingParameter(f"{name}: is required for task_type {task_type}", name)
