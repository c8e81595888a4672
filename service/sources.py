"""Where a picture or clip comes from, as a request says it: every form of an input, read.

Nothing here fetches or opens anything; see `gathering`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.datastructures import UploadFile

from service.errors import InvalidValue, UnknownParameter, show
from service.values import from_json_text, refuse

MAX_DATA_URL_CHARS = 20_971_520
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
CHARACTER_ID = re.compile(r"char_[0-9a-f]{32}")
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")

IMAGE_FORMS = (
    "a file, a URL, a data-URL, a file id, {image_url}, {file_id}, "
    '{video_id, frame: "first" or "last"} or {type: "image_url", image_url: {url}}'
)
VIDEO_FORMS = "a file, a URL, {id}, {file_id} or {video_url}"


@dataclass(frozen=True)
class Upload:
    """A file in the form itself."""

    file: UploadFile


@dataclass(frozen=True)
class DataUrl:
    """Bytes in the text itself, still encoded."""

    text: str


@dataclass(frozen=True)
class RemoteUrl:
    """A file on somebody else's server."""

    url: str


@dataclass(frozen=True)
class FileId:
    """A file uploaded before."""

    id: str


@dataclass(frozen=True)
class VideoId:
    """The film of an earlier job, or one frame of it."""

    id: str
    frame: Literal["first", "last"] | None = None


@dataclass(frozen=True)
class CharacterView:
    """A picture that is kept of a character, by its key in the artifact store."""

    key: str


Source = Upload | DataUrl | RemoteUrl | FileId | VideoId | CharacterView


def read_image_source(value: object, param: str, also: frozenset[str] = frozenset()) -> Source:
    """Any form of ImageInput.

    also    members that an object may have besides those that say where the picture is
    raises  InvalidValue, UnknownParameter
    """
    value = from_json_text(value, param)
    if isinstance(value, list) and len(value) == 1:
        value = from_json_text(value[0], param)
    if isinstance(value, UploadFile):
        return Upload(value)
    if isinstance(value, str):
        return read_text(value, param, IMAGE_FORMS)
    if not isinstance(value, Mapping):
        raise refuse(param, IMAGE_FORMS, value)
    given = only(value, param, ("image_url", "file_id", "video_id"), IMAGE_FORMS)
    check_members(
        value, {given, "type", *(("frame",) if given == "video_id" else ()), *also}, param
    )
    if given == "image_url":
        return read_url(unwrap_url(value[given], f"{param}.{given}"), f"{param}.{given}")
    if given == "file_id":
        return FileId(read_id(value[given], f"{param}.{given}", FILE_ID))
    return VideoId(read_id(value[given], f"{param}.{given}", VIDEO_ID), read_frame(value, param))


def read_video_source(value: object, param: str) -> Source:
    """Any form of VideoInput. raises InvalidValue, UnknownParameter"""
    value = from_json_text(value, param)
    if isinstance(value, UploadFile):
        return Upload(value)
    if isinstance(value, str):
        if VIDEO_ID.fullmatch(value):
            return VideoId(value)
        return read_text(value, param, VIDEO_FORMS)
    if not isinstance(value, Mapping):
        raise refuse(param, VIDEO_FORMS, value)
    given = only(value, param, ("id", "file_id", "video_url"), VIDEO_FORMS)
    check_members(value, {given, "type"}, param)
    if given == "id":
        return VideoId(read_id(value[given], f"{param}.{given}", VIDEO_ID))
    if given == "file_id":
        return FileId(read_id(value[given], f"{param}.{given}", FILE_ID))
    return read_url(unwrap_url(value[given], f"{param}.{given}"), f"{param}.{given}")


def read_text(text: str, param: str, forms: str) -> Source:
    """A bare string: file id, data-URL or URL."""
    if FILE_ID.fullmatch(text):
        return FileId(text)
    if text.startswith("data:") or "://" in text[:16]:
        return read_url(text, param)
    raise refuse(param, forms, text)


def read_url(url: object, param: str) -> Source:
    if not isinstance(url, str):
        raise refuse(param, "a URL or data-URL", url)
    if not url.startswith("data:"):
        return RemoteUrl(url)
    if len(url) > MAX_DATA_URL_CHARS:
        raise InvalidValue(
            f"{param}: has {len(url)} characters; the limit of a data-URL is {MAX_DATA_URL_CHARS}",
            param,
        )
    return DataUrl(url)


def unwrap_url(value: object, param: str) -> object:
    """`{url}`, as chat messages write it, is the same as the URL."""
    value = from_json_text(value, param)
    if isinstance(value, Mapping):
        check_members(value, {"url", "detail"}, param)
        return value.get("url")
    return value


def read_frame(value: Mapping[str, Any], param: str) -> Literal["first", "last"]:
    frame = value.get("frame", "last")
    if frame == "first":
        return "first"
    if frame == "last":
        return "last"
    raise refuse(f"{param}.frame", "first or last", frame)


def read_id(value: object, param: str, shape: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not shape.fullmatch(value):
        raise refuse(param, f"an id like {shape.pattern}", value)
    return value


def only(value: Mapping[str, Any], param: str, names: tuple[str, ...], forms: str) -> str:
    """The one of these members that is there."""
    found = [name for name in names if value.get(name) is not None]
    if len(found) != 1:
        raise refuse(param, forms, sorted(value))
    return found[0]


def check_members(value: Mapping[str, Any], allowed: set[str] | frozenset[str], param: str) -> None:
    """raises UnknownParameter for a member that would be ignored"""
    for name, member in value.items():
        if name not in allowed and member is not None:
            raise UnknownParameter(
                f"{param}: may hold {', '.join(sorted(allowed))}; got {show(name)}",
                f"{param}.{name}",
            )
