"""Conditional and partial reads of one unchanging file, after RFC 9110 sections 13 and 14."""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

SPAN = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Slice:
    """Bytes `first` to `last`, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many bytes it spans."""
        return self.last - self.first + 1


class Unsatisfiable(Exception):
    """The asked range begins behind the last byte."""


def read_range(headers: Headers, etag: str, size: int) -> Slice | None:
    """The slice that a GET asks for; None for the whole.

    Several ranges, other units and malformed headers are ignored, as the RFC allows; so is a
    range whose `If-Range` names another version. raises Unsatisfiable
    """
    if headers.get("if-range", etag).strip() != etag:
        return None
    match = SPAN.fullmatch(headers.get("range", ""))
    if match is None or max(len(match[1]), len(match[2])) > 19:
        return None
    if match[1]:
        return from_start(int(match[1]), int(match[2]) if match[2] else size - 1, size)
    return from_end(int(match[2]), size) if match[2] else None


def from_start(first: int, last: int, size: int) -> Slice | None:
    if last < first and first < size:
        return None
    if first >= size:
        raise Unsatisfiable
    return Slice(first, min(last, size - 1))


def from_end(length: int, size: int) -> Slice:
    if length == 0 or size == 0:
        raise Unsatisfiable
    return Slice(max(0, size - length), size - 1)


def is_current(headers: Headers, etag: str) -> bool:
    """Whether `If-None-Match` names this version, so that 304 says enough."""
    listed = headers.get("if-none-match")
    if listed is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in listed.split(",")]
    return etag in tags or tags == ["*"]
