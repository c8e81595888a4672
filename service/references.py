"""Reference pictures of a request: what each shows, what it is called, how much it counts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from service.errors import InvalidValue, show
from service.given import Given
from service.sources import read_image_source
from service.values import Choice, Number, from_json_text, refuse
from worker.jobs.catalog import ModelCard
from worker.jobs.contract import MAX_REFERENCES, ReferenceType

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MENTION = re.compile(r"(?<![\w@])@([\w-]+)")  # of a name in a prompt, as models read it
MEMBERS = frozenset({"name", "reference_type", "strength"})
TYPES = Choice(("subject", "style", "scene"))


@dataclass(frozen=True)
class GivenReference:
    """One reference as it was given."""

    image: Given
    name: str | None
    reference_type: ReferenceType
    strength: float


def read_references(
    items: Sequence[object], param: str, card: ModelCard
) -> tuple[GivenReference, ...]:
    """A list of references; names are each used once.

    raises InvalidValue, UnknownParameter
    """
    limit = min(MAX_REFERENCES, card.inputs.max_references)
    if len(items) > limit:
        raise InvalidValue(f"{param}: has {len(items)} pictures; the limit is {limit}", param)
    read = tuple(read_reference(item, f"{param}.{i}", card) for i, item in enumerate(items))
    names = [reference.name for reference in read if reference.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValue(f"{param}: the name {show(name)} is used twice", param)
    return read


def read_reference(item: object, param: str, card: ModelCard) -> GivenReference:
    item = from_json_text(item, param)
    said = item if isinstance(item, Mapping) else {}
    name, kind, strength = (said.get(key) for key in ("name", "reference_type", "strength"))
    if name is not None:
        read_name(name, f"{param}.name")
    kind = TYPES.read("subject" if kind is None else kind, f"{param}.reference_type")
    roles = card.inputs.reference_roles
    if kind not in roles:
        raise refuse(f"{param}.reference_type", f"one of {', '.join(roles)} for {card.id}", kind)
    span = card.inputs.reference_strength
    share = Number(span.minimum, span.maximum)
    weight = 1.0 if strength is None else share.read(strength, f"{param}.strength")
    return GivenReference(
        Given(read_image_source(item, param, MEMBERS), param),
        name,
        cast(ReferenceType, kind),
        weight,
    )


def read_name(name: object, param: str) -> str:
    """What a prompt can call a reference after an @. raises InvalidValue"""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise refuse(param, "1 to 64 letters, digits, _ or -", name)
    return name
