"""Pictures that a clip shows at frames of its own choice: which frame, and what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.errors import IncompatibleInputs, InvalidValue
from service.given import Given
from service.sources import read_image_source
from service.values import Integer, from_json_text, refuse
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import VideoRequest

MEMBERS = frozenset({"frame"})
PARAM = "keyframes"


@dataclass(frozen=True)
class GivenKeyframe:
    """One of them as it was given."""

    frame: int  # counted from 0
    image: Given


def read_keyframes(items: Sequence[object], card: ModelCard) -> tuple[GivenKeyframe, ...]:
    """The list of keyframes, each at a frame of its own.

    raises InvalidValue, UnknownParameter
    """
    limit = card.inputs.max_keyframes
    if len(items) > limit:
        raise InvalidValue(f"{PARAM}: has {len(items)} pictures; {card.id} takes {limit}", PARAM)
    read = tuple(read_keyframe(item, f"{PARAM}.{i}", card) for i, item in enumerate(items))
    frames = [keyframe.frame for keyframe in read]
    for at, frame in enumerate(frames):
        if frame in frames[:at]:
            raise InvalidValue(f"{PARAM}.{at}.frame: {frame} is given twice", f"{PARAM}.{at}.frame")
    return read


def read_keyframe(item: object, param: str, card: ModelCard) -> GivenKeyframe:
    item = from_json_text(item, param)
    if not isinstance(item, Mapping) or "frame" not in item:
        raise refuse(param, "an object with a frame and an image", item)
    frame = Integer(0, card.frames.maximum - 1).read(item["frame"], f"{param}.frame")
    return GivenKeyframe(frame, Given(read_image_source(item, param, MEMBERS), param))


def check_places(
    keyframes: Sequence[GivenKeyframe], request: VideoRequest, first: bool, last: bool
) -> None:
    """See that each lies within the clip, and not where a first or last frame is given.

    raises InvalidValue, IncompatibleInputs
    """
    ends = request.num_frames - 1
    taken = ({0: "first_frame"} if first else {}) | ({ends: "last_frame"} if last else {})
    for at, keyframe in enumerate(keyframes):
        param = f"{PARAM}.{at}.frame"
        if keyframe.frame > ends:
            raise refuse(param, f"0 to {ends}, a frame of the clip", keyframe.frame)
        if keyframe.frame in taken:
            raise IncompatibleInputs(
                f"{param}: {keyframe.frame} is where {taken[keyframe.frame]} is given", param
            )
