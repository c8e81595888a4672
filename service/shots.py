"""The shots of a story as they were given, in order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from service.errors import IncompatibleInputs, InvalidValue, MissingParameter, show
from service.given import Given, read_image
from service.references import GivenReference, read_references
from service.roles import as_list
from service.sources import check_members
from service.values import Choice, Integer, Seconds, Text, check_length, from_json_text, refuse
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import MAX_SEED, MAX_SHOTS, MAX_STORY_CHARS, Transition

MEMBERS = frozenset(
    "prompt seconds duration seed negative_prompt first_frame last_frame reference_images "
    "transition".split()
)
FIRST = "shots.0"  # has none before it, and may say either
TRANSITIONS = Choice(("cut", "continue"))


@dataclass(frozen=True)
class GivenShot:
    """One shot as it was given; None where the request or the model has the default."""

    param: str
    prompt: str
    negative_prompt: str
    seconds: float | None
    seed: int | None
    first_frame: Given | None
    last_frame: Given | None
    references: tuple[GivenReference, ...]  # some of them also the request's own
    transition: Transition


def read_shots(
    value: object, named: Sequence[GivenReference], card: ModelCard, prompt: str = ""
) -> tuple[GivenShot, ...]:
    """The list of shots; none if there is no such field.

    named   the request's own references, which shots may call by name
    prompt  the request's own, of shots without one
    raises  ApiError of status 400
    """
    items = as_list(value)
    limit = min(MAX_SHOTS, card.inputs.max_shots)
    if len(items) > limit:
        raise InvalidValue(f"shots: has {len(items)} shots; the limit is {limit}", "shots")
    by_name: dict[str, tuple[GivenReference, ...]] = {}
    for reference in named:  # a character has several pictures of one name
        if reference.name:
            by_name[reference.name] = (*by_name.get(reference.name, ()), reference)
    shots = tuple(
        read_shot(item, f"shots.{i}", by_name, card, prompt) for i, item in enumerate(items)
    )
    chars = sum(len(shot.prompt) + len(shot.negative_prompt) for shot in shots)
    if chars > MAX_STORY_CHARS:
        raise InvalidValue(
            f"shots: have {chars} characters of prompts; the limit is {MAX_STORY_CHARS}", "shots"
        )
    return shots


def read_shot(
    item: object,
    param: str,
    named: Mapping[str, tuple[GivenReference, ...]],
    card: ModelCard,
    prompt: str = "",
) -> GivenShot:
    said = from_json_text(item, param)
    if isinstance(said, str):
        said = {"prompt": said}
    if not isinstance(said, Mapping):
        raise refuse(param, "an object with a prompt", item)
    check_members(said, MEMBERS, param)
    seed, transition = said.get("seed"), said.get("transition")
    begun = said.get("first_frame") is not None and param != FIRST
    usual = "cut" if begun else "continue"
    if begun and transition == "continue":
        raise IncompatibleInputs(
            f"{param}.transition: a shot that continues has no first_frame of its own; "
            "got continue and one",
            f"{param}.transition",
        )
    return GivenShot(
        param=param,
        prompt=read_prompt(said, "prompt", param, card) or wanted(prompt, param),
        negative_prompt=read_prompt(said, "negative_prompt", param, card),
        seconds=read_seconds(said, param),
        seed=None if seed is None else Integer(0, MAX_SEED).read(seed, f"{param}.seed"),
        first_frame=read_image(said.get("first_frame"), f"{param}.first_frame"),
        last_frame=read_image(said.get("last_frame"), f"{param}.last_frame"),
        references=read_shot_references(said, param, named, card),
        transition=cast(
            Transition,
            TRANSITIONS.read(usual if transition is None else transition, f"{param}.transition"),
        ),
    )


def read_prompt(said: Mapping[str, Any], name: str, param: str, card: ModelCard) -> str:
    value = said.get(name)
    text = Text().read("" if value is None else value, f"{param}.{name}")
    check_length(text, card.max_prompt_chars, f"{param}.{name}")
    return text if text.strip() else ""


def wanted(prompt: str, param: str) -> str:
    """The request's prompt for a shot without one. raises MissingParameter"""
    if not prompt.strip():
        raise MissingParameter(f"{param}.prompt: is required", f"{param}.prompt")
    return prompt


def read_seconds(said: Mapping[str, Any], param: str) -> float | None:
    read = {
        Seconds().read(said[name], f"{param}.{name}")
        for name in ("seconds", "duration")
        if said.get(name) is not None
    }
    if len(read) > 1:
        raise InvalidValue(f"{param}.duration: contradicts seconds", f"{param}.duration")
    return next(iter(read), None)


def read_shot_references(
    said: Mapping[str, Any],
    param: str,
    named: Mapping[str, tuple[GivenReference, ...]],
    card: ModelCard,
) -> tuple[GivenReference, ...]:
    """Objects are references of the shot's own; plain names call the request's."""
    param = f"{param}.reference_images"
    items = as_list(from_json_text(said.get("reference_images"), param))
    called = [item for item in items if isinstance(item, str) and item.removeprefix("@") in named]
    own = [item for item in items if item not in called]
    for item in own:
        if isinstance(item, str) and "/" not in item and not item.startswith("file-"):
            raise InvalidValue(
                f"{param}: no reference of this request is named {show(item)}; "
                f"there are {', '.join(named) or 'none'}",
                param,
            )
    found = tuple(one for item in called for one in named[item.removeprefix("@")])
    return found + read_references(own, param, card)
