"""What the OpenAPI document says beyond what signatures show: bodies and refusals."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from service.errors import ErrorEnvelope
from service.fields import FIELDS, create_schema
from service.forms import FORM_TYPES
from service.values import Field

REASONS = {
    400: "A field is missing, unknown, or outside its limit; `param` names it.",
    401: "The API key is missing or unknown.",
    403: "The API key may not do this.",
    404: "No such video or file for this key, or it has no content.",
    409: "The video ended before the cancel, or the first upload with the key is not over.",
    410: "The content's time is over.",
    413: "The body is too large.",
    415: "The body's type is not read here.",
    416: "The asked range lies outside the content.",
    422: "The idempotency key came before with another body.",
    429: "Too many requests or active jobs for this tenant; see `Retry-After`.",
    503: "The queue is full or away, or nothing is ready; see `Retry-After`.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented refusals of a route, all with the envelope.

    Where a key is asked for, its rate of requests is limited and the queue server knows it.
    """
    every = {*statuses, 429, 503} if 401 in statuses else set(statuses)
    listed: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorEnvelope, "description": REASONS[status]} for status in sorted(every)
    }
    return listed | {"default": {"model": ErrorEnvelope, "description": "Any other refusal."}}


def create_body(
    only: Sequence[Field[Any]] = FIELDS, without: Sequence[Field[Any]] = ()
) -> dict[str, Any]:
    """The create body in its three encodings, straight from the table of fields.

    only, without  the fields of a route that does not take all of them
    """
    schema = create_schema(tuple(field for field in only if field not in without))
    return {
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": schema} for media_type in ("application/json", *FORM_TYPES)
            },
        }
    }


def upload_body(purposes: tuple[str, ...]) -> dict[str, Any]:
    """The form that uploads a file."""
    expiry = {
        "type": "object",
        "properties": {
            "anchor": {"type": "string", "enum": ["created_at"]},
            "seconds": {"type": "integer", "minimum": 3600},
        },
        "required": ["seconds"],
    }
    schema = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"type": "string", "enum": list(purposes)},
            "expires_after": expiry,
        },
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def character_body() -> dict[str, Any]:
    """The form that names a character."""
    clip = {"type": "string", "format": "binary", "description": "A clip, or a picture."}
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
            "video": clip,
            "image": {"type": "string", "format": "binary", "description": "Instead of a clip."},
        },
        "additionalProperties": False,
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def binary(*media_types: str) -> dict[str, Any]:
    """Content of an answer that is bytes."""
    return {media_type: {"schema": {"type": "string"}} for media_type in media_types}


def operation_ids(app: FastAPI) -> list[str]:
    """Every documented operation's id, in path order."""
    paths = app.openapi()["paths"]
    return [call["operationId"] for path in paths.values() for call in path.values()]
