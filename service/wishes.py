"""What a create body asks for: known fields, typed, under their own names.

Aliases lend their name only. Nothing here knows a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from service import fields
from service.errors import InvalidValue, UnknownParameter, show
from service.forms import Tree
from service.values import Field, from_json_text, refuse

T = TypeVar("T")
MAX_WARNINGS = 16


@dataclass(frozen=True)
class Wishes:
    """The fields that were given, typed, under their own names."""

    values: Mapping[str, Any]
    warnings: tuple[str, ...] = ()  # what was ignored

    def get(self, field: Field[T]) -> T | None:
        """The value given for a field, or None."""
        return cast("T | None", self.values.get(field.name))

    def has(self, field: Field[Any]) -> bool:
        """Whether the field was given."""
        return field.name in self.values


def read_wishes(tree: Tree, lenient: bool = False) -> Wishes:
    """Known fields, typed. Null means absent, and an alias must agree with its field.

    lenient  unknown fields are ignored with a warning
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}  # under which each field was given first
    warnings: list[str] = []
    for name, value in unfold_params(tree).items():
        field = fields.BY_NAME.get(name)
        if field is None and lenient:
            warnings.append(f"{unknown(name).message}; it was ignored")
            continue
        if field is None:
            raise unknown(name)
        if value is None:
            continue
        read = field.type.read(value, name)
        first = names.setdefault(field.name, name)
        if values.setdefault(field.name, read) != read:
            raise InvalidValue(
                f"{name}: contradicts {first}, which means the same; got {show(value)}", name
            )
    return Wishes(values, tuple(warnings[:MAX_WARNINGS]))


def unfold_params(tree: Tree) -> Tree:
    """`extra_params` opened up: the model's own parameters are fields like any other."""
    params = from_json_text(tree.get("extra_params"), "extra_params")
    if params is None:
        return {name: value for name, value in tree.items() if name != "extra_params"}
    if not isinstance(params, dict):
        raise refuse("extra_params", "an object", params)
    allowed = [field.name for field in fields.MODEL_PARAMS]
    for name, value in params.items():
        if name not in allowed:
            raise UnknownParameter(
                f"extra_params: may hold {', '.join(allowed)}; got {show(name)}",
                f"extra_params.{name}",
            )
        if tree.get(name, value) != value:
            raise InvalidValue(
                f"extra_params.{name}: contradicts {name}; got {show(value)}",
                f"extra_params.{name}",
            )
    return {name: value for name, value in tree.items() if name != "extra_params"} | params


def unknown(name: str) -> UnknownParameter:
    hint = fields.HINTS.get(name)
    return UnknownParameter(
        f"Unknown parameter: {show(name)}" + (f" ({hint})" if hint else ""), name
    )
