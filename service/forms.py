"""Request bodies, JSON or form, to one nested value: names to values, before any meaning.

Form names follow the brackets that the SDKs write: `a[b]` is a member, `a[]` an element, and
`a[][b]` a column of a list of objects. Values stay text; `values` gives them types.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from service.errors import (
    AmbiguousFormArray,
    BadRequest,
    InvalidValue,
    PayloadTooLarge,
    UnsupportedMediaType,
    show,
)

Leaf = str | UploadFile
Tree = dict[str, Any]  # nested names to leaves, or any JSON value

MAX_NESTING = 8
NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
SEGMENT = re.compile(r"\[([^\[\]]*)\]")
JSON_TYPE = re.compile(r"application/(?:json|[\w.-]+\+json)")
MULTIPART = "multipart/form-data"
FORM_TYPES = (MULTIPART, "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class BodyLimits:
    """How much of a body is read before it is refused."""

    body_bytes: int
    form_bytes: int  # of a form with files, which are kept on the disk meanwhile
    part_bytes: int
    files: int
    fields: int


@dataclass(frozen=True)
class RawBody:
    """A body read from the wire and not yet understood: exactly one of the two is set."""

    json: bytes | None = None
    form: tuple[tuple[str, Leaf], ...] | None = None


async def read_body(request: Request, limits: BodyLimits) -> RawBody:
    """Read the body, counting bytes.

    raises PayloadTooLarge over a limit, UnsupportedMediaType for a type that is not read
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    max_bytes = limits.form_bytes if media_type == MULTIPART else limits.body_bytes
    counted = Request(request.scope, Counter(request, max_bytes).receive)
    if media_type in FORM_TYPES:
        return await read_form(counted, limits, media_type == MULTIPART)
    if media_type and not JSON_TYPE.fullmatch(media_type):
        raise UnsupportedMediaType(
            f"Content-Type: must be application/json, multipart/form-data or "
            f"application/x-www-form-urlencoded; got {show(media_type)}",
            param="Content-Type",
        )
    return RawBody(json=await counted.body())


async def read_form(request: Request, limits: BodyLimits, multipart: bool) -> RawBody:
    try:
        if multipart:
            form = await Parts(request, limits).parse()
        else:
            form = await request.form(max_fields=limits.fields)
    except (HTTPException, MultiPartException) as error:
        detail = error.detail if isinstance(error, HTTPException) else error.message
        over = "exceeded maximum" in detail or "Too many" in detail
        kind = PayloadTooLarge if over else BadRequest
        raise kind(f"Malformed form: {detail}") from error
    return RawBody(form=tuple(form.multi_items()))


class Parts(MultiPartParser):
    """Files go to the disk, text stays in memory: all text together is bounded like a JSON body."""

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        super().__init__(
            request.headers,
            request.stream(),
            max_files=limits.files,
            max_fields=limits.fields,
            max_part_size=limits.part_bytes,
        )
        self.text_left = limits.body_bytes

    def on_part_end(self) -> None:
        """One part less to read, and less room for the text of the next."""
        super().on_part_end()
        _, leaf = self.items[-1]
        if isinstance(leaf, str):
            self.text_left = max(0, self.text_left - len(leaf))
            self.max_part_size = min(self.max_part_size, self.text_left)


class Counter:
    """A `receive` that refuses a body as soon as it is known to be too large."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self.inner = request.receive
        self.max_bytes = max_bytes
        self.seen = 0
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:19]) > max_bytes:
            self.refuse(int(declared[:19]))

    async def receive(self) -> Message:
        message = await self.inner()
        self.seen += len(message.get("body", b""))
        if self.seen > self.max_bytes:
            self.refuse(self.seen)
        return message

    def refuse(self, size: int) -> None:
        raise PayloadTooLarge(f"The body has at least {size} bytes; the limit is {self.max_bytes}")


def parse_body(body: RawBody) -> Tree:
    """Names to values; a member `extra_body` is merged under the explicit fields.

    Runs in a thread: a large JSON body takes longer than the event loop may stand still.
    """
    tree = nest(body.form) if body.form is not None else parse_json(body.json or b"")
    extra = tree.pop("extra_body", None)
    if isinstance(extra, str):
        extra = decode_json(extra, "extra_body")
    if extra is None:
        return tree
    if not isinstance(extra, dict):
        raise InvalidValue(f"extra_body: must be an object; got {show(extra)}", "extra_body")
    return extra | tree


def parse_json(raw: bytes) -> Tree:
    if raw.lstrip()[:2] == b"--":
        raise BadRequest(
            "The body is multipart/form-data, but Content-Type says JSON; "
            "leave the header to the client library",
            param="Content-Type",
        )
    value = decode_json(raw, "body")
    if not isinstance(value, dict):
        raise BadRequest(f"The body must be a JSON object; got {show(value)}")
    return value


def decode_json(raw: bytes | str, param: str) -> Any:
    """Any JSON value. NaN and infinities pass here, so that the field's own check names them."""
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise BadRequest(f"{param}: JSON is nested too deeply", param) from error
    except ValueError as error:
        raise BadRequest(f"{param}: not valid JSON: {error}", param) from error


@dataclass
class Branch:
    """What the form said about one name, in the order it came."""

    leaves: list[Leaf] = field(default_factory=list)
    appended: list[Leaf] = field(default_factory=list)
    members: dict[str, "Branch"] = field(default_factory=dict)
    columns: dict[tuple[str, ...], list[Leaf]] = field(default_factory=dict)


def nest(pairs: Sequence[tuple[str, Leaf]]) -> Tree:
    """Bracketed names to nested values.

    raises InvalidValue for malformed or contradicting names, AmbiguousFormArray for columns of
    unequal length
    """
    root = Branch()
    for name, leaf in pairs:
        plant(root, split_name(name), leaf)
    return {name: gather(branch, name) for name, branch in root.members.items()}


def split_name(name: str) -> tuple[str, ...]:
    """`a[b][]` to ("a", "b", "")."""
    match = NAME.fullmatch(name)
    if match is None:
        raise InvalidValue(f"Malformed form field name {show(name)}", show(name).strip("'"))
    path = (match[1], *SEGMENT.findall(match[2]))
    if len(path) > MAX_NESTING:
        raise InvalidValue(
            f"{match[1]}: form field is nested {len(path)} deep; the limit is {MAX_NESTING}",
            match[1],
        )
    return path


def plant(root: Branch, path: tuple[str, ...], leaf: Leaf) -> None:
    branch = root
    for index, segment in enumerate(path):
        if segment == "":
            rest = path[index + 1 :]
            if rest:
                branch.columns.setdefault(rest, []).append(leaf)
            else:
                branch.appended.append(leaf)
            return
        branch = branch.members.setdefault(segment, Branch())
    branch.leaves.append(leaf)


def gather(branch: Branch, param: str) -> Any:
    """The value a branch stands for; repeated plain names make a list."""
    said = [branch.leaves, branch.appended, branch.members, branch.columns]
    if sum(map(bool, said)) != 1:
        raise InvalidValue(f"{param}: form fields contradict each other about its shape", param)
    if branch.members:
        return {name: gather(child, f"{param}.{name}") for name, child in branch.members.items()}
    if branch.columns:
        return zip_columns(branch.columns, param)
    if branch.appended:
        return branch.appended
    return branch.leaves[0] if len(branch.leaves) == 1 else branch.leaves


def zip_columns(columns: Mapping[tuple[str, ...], list[Leaf]], param: str) -> list[Tree]:
    """Columns to rows. SDKs group a list of objects by column, which forgets absent members."""
    lengths = {".".join(path): len(column) for path, column in columns.items()}
    if len(set(lengths.values())) > 1 or any("" in path for path in columns):
        raise AmbiguousFormArray(
            f"{param}: columns {lengths} cannot be told apart into objects; "
            "send the list as one JSON string, or the body as application/json",
            param,
        )
    rows = [Branch() for _ in range(next(iter(lengths.values())))]
    for path, column in columns.items():
        for row, leaf in zip(rows, column, strict=True):
            plant(row, path, leaf)
    return [
        {name: gather(child, f"{param}.{index}.{name}") for name, child in row.members.items()}
        for index, row in enumerate(rows)
    ]
