"""Which picture plays which part: lists that name roles, sorted into the fields they mean.

`frame_images`, `content` and `input_reference` are one list under three names; what has a role
in it belongs to the field of that role. `strength` inside a frame is that frame's own field.
"""

from collections.abc import Mapping
from typing import Any

from service import fields
from service.errors import InvalidValue, show
from service.values import Field, from_json_text, refuse
from service.wishes import Wishes

ROLES: dict[str, Field[Any]] = {
    "first_frame": fields.FIRST_FRAME,
    "last_frame": fields.LAST_FRAME,
    "reference_image": fields.REFERENCE_IMAGES,
    "reference": fields.REFERENCE_IMAGES,
}
ROLE_MEMBERS = ("frame_type", "role")
STRENGTHS = (
    (fields.FIRST_FRAME, fields.FIRST_FRAME_STRENGTH),
    (fields.LAST_FRAME, fields.LAST_FRAME_STRENGTH),
)


def sort_images(wishes: Wishes) -> Wishes:
    """The same wishes with every picture under the field of its role.

    raises InvalidValue for an unknown role, or two pictures for one frame
    """
    values = dict(wishes.values)
    listed = values.pop(fields.INPUT_REFERENCE.name, None)
    plain = []
    for index, item in enumerate(listed if isinstance(listed, list) else [listed]):
        param = f"{fields.INPUT_REFERENCE.name}.{index}"
        item = from_json_text(item, param)
        if isinstance(item, Mapping) and item.get("type") == "text":
            assign(values, fields.PROMPT, fields.PROMPT.type.read(item.get("text"), param), param)
        elif not place(values, item, param) and item is not None:
            plain.append(item)
    if plain:
        values[fields.INPUT_REFERENCE.name] = plain if isinstance(listed, list) else plain[0]
    for frame, strength in STRENGTHS:
        split_strength(values, frame, strength)
    return Wishes(values, wishes.warnings)


def place(values: dict[str, Any], item: object, param: str) -> bool:
    """Whether the item names a role, and so went to that role's field."""
    if not isinstance(item, Mapping):
        return False
    roles = [item[name] for name in ROLE_MEMBERS if item.get(name) is not None]
    if not roles:
        return False
    field = ROLES.get(roles[0]) if isinstance(roles[0], str) else None
    if field is None or len(roles) > 1:
        raise refuse(f"{param}.role", f"one of {', '.join(ROLES)}", roles[0])
    picture = {name: value for name, value in item.items() if name not in ROLE_MEMBERS}
    if field is fields.REFERENCE_IMAGES:
        values[field.name] = [*as_list(values.get(field.name)), picture]
    else:
        assign(values, field, picture, param)
    return True


def assign(values: dict[str, Any], field: Field[Any], value: object, param: str) -> None:
    if values.setdefault(field.name, value) != value:
        raise InvalidValue(f"{param}: contradicts {field.name}; got {show(value)}", param)


def split_strength(values: dict[str, Any], frame: Field[Any], strength: Field[float]) -> None:
    given = values.get(frame.name)
    if not isinstance(given, Mapping) or given.get("strength") is None:
        return
    param = f"{frame.name}.strength"
    assign(values, strength, strength.type.read(given["strength"], param), param)
    values[frame.name] = {name: value for name, value in given.items() if name != "strength"}


def as_list(value: object) -> list[Any]:
    """One item or several, as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
