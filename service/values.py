"""Types of request fields: what a value must look like, whether it came as JSON or form text.

Each type reads one value and describes itself for OpenAPI. Limits that depend on the model are
checked later, in `intake`, where the model is known.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from starlette.datastructures import UploadFile

from service.errors import InvalidValue, show
from service.forms import decode_json

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
TRUE = ("true", "1")
FALSE = ("false", "0")


class Type(Protocol[T_co]):
    """How one field's value is read and described."""

    def read(self, value: object, param: str) -> T_co:
        """The typed value. raises InvalidValue naming the field, the value and the limit"""
        ...

    def schema(self) -> dict[str, Any]:
        """JSON Schema of what is accepted."""
        ...


def refuse(param: str, wanted: str, value: object) -> InvalidValue:
    """The refusal of a value: names the field, what it must be, and what it was."""
    return InvalidValue(f"{param}: must be {wanted}; got {show(value)}", param)


@dataclass(frozen=True)
class Text:
    """A string that UTF-8 can carry. Never read as JSON, whatever it starts with."""

    max_chars: int | None = None  # None: the model's card has the limit

    def read(self, value: object, param: str) -> str:
        if not isinstance(value, str):
            raise refuse(param, "a string", value)
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise refuse(param, "text without lone surrogates", value)
        check_length(value, self.max_chars, param)
        return value

    def schema(self) -> dict[str, Any]:
        limit = {} if self.max_chars is None else {"maxLength": self.max_chars}
        return {"type": "string"} | limit


def check_length(text: str, limit: int | None, param: str) -> None:
    if limit is not None and len(text) > limit:
        raise InvalidValue(
            f"{param}: has {len(text)} characters; the limit is {limit}; got {show(text)}", param
        )


@dataclass(frozen=True)
class Integer:
    """A whole number. Booleans are not numbers, and 25.0 is one."""

    minimum: int
    maximum: int

    def read(self, value: object, param: str) -> int:
        wanted = f"an integer between {self.minimum} and {self.maximum}"
        number = as_integer(value)
        if number is None or not self.minimum <= number <= self.maximum:
            raise refuse(param, wanted, value)
        return number

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


def as_integer(value: object) -> int | None:
    if isinstance(value, str) and INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None


@dataclass(frozen=True)
class Number:
    """A finite number."""

    minimum: float
    maximum: float = math.inf

    def read(self, value: object, param: str) -> float:
        wanted = f"a finite number of at least {self.minimum:g}"
        if math.isfinite(self.maximum):
            wanted = f"a number between {self.minimum:g} and {self.maximum:g}"
        number = as_number(value)
        if number is None or not math.isfinite(number):
            raise refuse(param, wanted, value)
        if not self.minimum <= number <= self.maximum:
            raise refuse(param, wanted, value)
        return number

    def schema(self) -> dict[str, Any]:
        top = {"maximum": self.maximum} if math.isfinite(self.maximum) else {}
        return {"type": "number", "minimum": self.minimum} | top


def as_number(value: object) -> float | None:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return None


@dataclass(frozen=True)
class Seconds:
    """A length of film time, as a number or as OpenAI's string of one."""

    def read(self, value: object, param: str) -> float:
        number = as_number(value)
        if number is None or not math.isfinite(number) or number <= 0:
            raise refuse(param, "a positive number of seconds", value)
        return number

    def schema(self) -> dict[str, Any]:
        number = {"type": "number", "exclusiveMinimum": 0}
        return {"anyOf": [{"type": "string", "pattern": r"^[0-9]*\.?[0-9]+$"}, number]}


@dataclass(frozen=True)
class Flag:
    """A switch. `only` is the one position that this server can serve, if it cannot serve both."""

    only: bool | None = None

    def read(self, value: object, param: str) -> bool:
        text = value.lower() if isinstance(value, str) else value
        if not (text is True or text is False or text in TRUE or text in FALSE):
            raise refuse(param, "true or false", value)
        flag = text is True or text in TRUE
        if self.only is not None and flag is not self.only:
            raise refuse(param, f"{str(self.only).lower()} on this server", value)
        return flag

    def schema(self) -> dict[str, Any]:
        limit = {} if self.only is None else {"enum": [self.only]}
        return {"type": "boolean"} | limit


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: object, param: str) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise refuse(param, f"one of {', '.join(self.words)}", value)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True)
class Size:
    """Width and height in pixels, as "WxH"."""

    def read(self, value: object, param: str) -> tuple[int, int]:
        match = SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise refuse(param, 'text like "832x480"', value)
        return int(match[1]), int(match[2])

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{SIZE.pattern}$"}


@dataclass(frozen=True)
class Aspect:
    """Width to height, as "W:H"."""

    def read(self, value: object, param: str) -> tuple[int, int]:
        sides = value.split(":") if isinstance(value, str) else []
        numbers = [int(side) for side in sides if INTEGER.fullmatch(side)]
        if len(sides) != 2 or len(numbers) != 2 or min(numbers) <= 0:
            raise refuse(param, 'text like "16:9"', value)
        return numbers[0], numbers[1]

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]+:[0-9]+$"}


@dataclass(frozen=True)
class Resolution:
    """The shorter side in pixels, as "480p"."""

    def read(self, value: object, param: str) -> int:
        digits = value.lower().removesuffix("p") if isinstance(value, str) else ""
        if not re.fullmatch(r"[0-9]{1,5}", digits):
            raise refuse(param, 'text like "480p"', value)
        return int(digits)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9]{1,5}[pP]?$"}


@dataclass(frozen=True)
class Pairs:
    """A few strings by name."""

    max_pairs: int
    max_key_chars: int
    max_value_chars: int

    def read(self, value: object, param: str) -> dict[str, str]:
        pairs = from_json_text(value, param)
        if not isinstance(pairs, dict):
            raise refuse(param, "an object of strings", value)
        if len(pairs) > self.max_pairs:
            raise InvalidValue(
                f"{param}: has {len(pairs)} pairs; the limit is {self.max_pairs}", param
            )
        return dict(self.read_pair(key, text, param) for key, text in pairs.items())

    def read_pair(self, key: str, value: object, param: str) -> tuple[str, str]:
        name = Text(self.max_key_chars).read(key, f"{param} key")
        return name, Text(self.max_value_chars).read(value, f"{param}.{show(key)[1:-1]}")

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "maxProperties": self.max_pairs,
            "propertyNames": {"maxLength": self.max_key_chars},
            "additionalProperties": {"type": "string", "maxLength": self.max_value_chars},
        }


@dataclass(frozen=True)
class Structure:
    """An object, a list, an upload, or the plain string that stands for one."""

    def read(self, value: object, param: str) -> object:
        read = from_json_text(value, param)
        if not isinstance(read, str | dict | list | UploadFile):
            raise refuse(param, "an object, a list, a string or a file", value)
        return read

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": kind} for kind in ("string", "object", "array")]}


def from_json_text(value: object, param: str) -> object:
    """Forms carry lists and objects as JSON text; some clients do so inside JSON too."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        return decode_json(value, param)
    return value


@dataclass(frozen=True)
class Field(Generic[T]):
    """One declared field of a request: drives parsing, refusals and the OpenAPI document."""

    name: str
    type: Type[T]
    about: str
    aliases: tuple[str, ...] = ()
    tasks: frozenset[str] = frozenset()  # kinds of job that use it; empty: every kind

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it answers to, its own first."""
        return (self.name, *self.aliases)
