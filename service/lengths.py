"""How many frames a job makes: by seconds or count, of one clip, of shots, or added to a source."""

from collections.abc import Sequence

from service import fields
from service.errors import IncompatibleInputs, InvalidValue
from service.shots import GivenShot
from service.values import refuse
from service.wishes import Wishes
from worker.jobs.catalog import FrameRule, ModelCard

AS_LONG_AS_SOURCE = frozenset({"interpolate", "upscale", "edit"})


def resolve_frames(
    wishes: Wishes, card: ModelCard, task_type: str, fps: int, shots: Sequence[GivenShot]
) -> int:
    """The frame count that is asked for; of an extension, the count of added frames.

    raises InvalidValue, IncompatibleInputs
    """
    if task_type == "story":
        return story_frames(wishes, card, fps, shots)
    if task_type == "extend":
        return added_frames(wishes, card, fps)
    if task_type in AS_LONG_AS_SOURCE:
        for field in (fields.SECONDS, fields.NUM_FRAMES):
            if wishes.has(field):
                raise IncompatibleInputs(
                    f"{field.name}: the result is as long as its source; leave it out", field.name
                )
    return legal_frames(wishes, card, fps)


def story_frames(wishes: Wishes, card: ModelCard, fps: int, shots: Sequence[GivenShot]) -> int:
    """The frames of all shots; a wish for the whole must agree."""
    total = sum(shot_frames(shot, card, fps) for shot in shots)
    seconds, num_frames = wishes.get(fields.SECONDS), wishes.get(fields.NUM_FRAMES)
    if num_frames not in (None, total) or (
        seconds is not None and abs(seconds * fps - total) > len(shots)
    ):
        given = fields.SECONDS if num_frames in (None, total) else fields.NUM_FRAMES
        raise IncompatibleInputs(
            f"{given.name}: the shots have {total} frames, {total / fps:g} s in all", given.name
        )
    limit = card.inputs.max_total_frames
    if total > limit:
        raise InvalidValue(
            f"shots: have {total} frames at {fps} fps; the limit is {limit}", "shots"
        )
    return total


def shot_frames(shot: GivenShot, card: ModelCard, fps: int) -> int:
    """The frames of one shot; without a wish the model's default length. raises InvalidValue"""
    if shot.seconds is None:
        return card.default_frames_at(fps)
    shortest, longest = card.frames_at(fps).minimum / fps, card.inputs.max_total_frames / fps
    if not shortest <= shot.seconds <= longest:
        wanted = f"between {shortest:g} and {longest:g} at {fps} fps"
        raise refuse(f"{shot.param}.seconds", wanted, shot.seconds)
    return round(shot.seconds * fps)


def added_frames(wishes: Wishes, card: ModelCard, fps: int) -> int:
    """How many frames an extension adds."""
    seconds, num_frames = wishes.get(fields.SECONDS), wishes.get(fields.NUM_FRAMES)
    if seconds is None and num_frames is None:
        return card.default_frames_at(fps)
    limit = card.inputs.max_total_frames - 1
    count = num_frames if seconds is None else round(min(seconds, 1e6) * fps)
    field = fields.NUM_FRAMES if seconds is None else fields.SECONDS
    if count is None or not 1 <= count <= limit:
        wanted = f"1 to {limit} added frames at {fps} fps"
        raise refuse(field.name, wanted, num_frames if seconds is None else seconds)
    if num_frames not in (None, count):
        raise IncompatibleInputs(
            f"num_frames: {num_frames} contradict {seconds:g} seconds, {count} frames", "num_frames"
        )
    return count


def legal_frames(wishes: Wishes, card: ModelCard, fps: int) -> int:
    """A count that the model can make; a length in seconds snaps to the nearest."""
    seconds, num_frames = wishes.get(fields.SECONDS), wishes.get(fields.NUM_FRAMES)
    rule = card.frames_at(fps)
    if num_frames is not None and not rule.allows(num_frames):
        raise refuse("num_frames", legal_counts(rule), num_frames)
    if seconds is None:
        return num_frames or card.default_frames_at(fps)
    slack = rule.step / 2
    if not rule.minimum - slack <= seconds * fps <= rule.maximum + slack:
        shortest, longest = rule.minimum / fps, rule.maximum / fps
        raise refuse("seconds", f"between {shortest:g} and {longest:g} at {fps} fps", seconds)
    nearest = rule.nearest(seconds * fps)
    if num_frames not in (None, nearest):
        raise IncompatibleInputs(
            f"num_frames: {num_frames} frames contradict {seconds:g} seconds at {fps} fps, "
            f"which are {nearest} frames",
            "num_frames",
        )
    return nearest


def legal_counts(rule: FrameRule) -> str:
    between = f"between {rule.minimum} and {rule.maximum}"
    return between if rule.step == 1 else f"{between} and {rule.offset} + a multiple of {rule.step}"
