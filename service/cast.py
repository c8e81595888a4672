"""The characters of a request, as references: each by its name, with as many views as there is
room for.
"""

from collections.abc import Callable, Mapping, Sequence

from service.errors import IncompatibleInputs, InvalidValue, NoSuchCharacter, show
from service.given import Given
from service.references import GivenReference
from service.roles import as_list
from service.sources import CHARACTER_ID, CharacterView, check_members, read_id
from service.values import from_json_text, refuse
from worker.jobs.catalog import ModelCard
from worker.jobs.characters import Character
from worker.jobs.contract import MAX_REFERENCES

FindCharacter = Callable[[str], Character | None]


def nobody(character_id: str) -> None:
    """Finds no character."""


def read_cast(
    value: object, find: FindCharacter, others: Sequence[GivenReference], card: ModelCard
) -> tuple[GivenReference, ...]:
    """The references that a list of characters stands for.

    others  references given besides
    raises  InvalidValue, UnknownParameter, NoSuchCharacter; IncompatibleInputs for a model whose
            references show other things than subjects
    """
    items = as_list(from_json_text(value, "characters"))
    limit = min(MAX_REFERENCES, card.inputs.max_references)
    roles = card.inputs.reference_roles
    if items and "subject" not in roles:
        raise IncompatibleInputs(
            f"characters: are subjects, and references of {card.id} show only {', '.join(roles)}",
            "characters",
        )
    found = [read_member(item, f"characters.{i}", find) for i, item in enumerate(items[:limit])]
    room = limit - len(others)
    if len(items) > room:
        raise InvalidValue(
            f"characters: {len(items)} and {len(others)} other references; the limit is {limit}",
            "characters",
        )
    names = [reference.name for reference in others] + [one.name for one in found]
    for one in found:
        if names.count(one.name) > 1:
            raise InvalidValue(f"characters: the name {show(one.name)} is used twice", "characters")
    return tuple(
        GivenReference(
            Given(CharacterView(one.views[view].key), f"characters.{i}"), one.name, "subject", 1.0
        )
        for i, view in share(found, room)
        for one in [found[i]]
    )


def read_member(item: object, param: str, find: FindCharacter) -> Character:
    """`{id}`, or the id alone. raises InvalidValue, UnknownParameter, NoSuchCharacter"""
    item = from_json_text(item, param)
    if isinstance(item, Mapping):
        check_members(item, {"id"}, param)
        param, item = f"{param}.id", item.get("id")
    if not isinstance(item, str):
        raise refuse(param, "{id}", item)
    found = find(read_id(item, param, CHARACTER_ID))
    if found is None:
        raise NoSuchCharacter(item, param)
    return found


def share(characters: Sequence[Character], room: int) -> list[tuple[int, int]]:
    """Which views there is room for, as (character, view): first one of each, then another."""
    longest = max((len(one.views) for one in characters), default=0)
    turns = [
        (i, view)
        for view in range(longest)
        for i, one in enumerate(characters)
        if view < len(one.views)
    ]
    return sorted(turns[:room])
