"""What every artifact store agrees on: keys, media types, faults. Knows no particular store."""

import errno
import os
import re
from dataclasses import dataclass

SEGMENT = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,199}")
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".webp": "image/webp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".safetensors": "application/octet-stream",
}
CHUNK_BYTES = 1 << 20


class StorageFault(OSError):
    """The store does not answer, or refuses for a reason that may pass: the same call may
    succeed later. An input error by number, so that nobody takes it for a damaged file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)


@dataclass(frozen=True)
class Blob:
    """A stored blob as a listing shows it."""

    key: str
    size_bytes: int
    modified_at: float  # Unix seconds


@dataclass(frozen=True)
class Serving:
    """How a browser is to take a blob that it gets straight from the store."""

    media_type: str
    disposition: str  # as in the header Content-Disposition


def unseen() -> None:
    """Nobody asks whether bytes move."""


def check_key(key: str) -> None:
    """Raise ValueError unless the key is a relative path of plain names."""
    if not all(SEGMENT.fullmatch(part) for part in key.split("/")):
        raise ValueError(f"artifact key {key!r} is not a relative path of plain names")


def read_media_type(key: str) -> str:
    """The media type that a key's suffix stands for; raises ValueError if it is none of ours."""
    suffix = os.path.splitext(key)[1]
    if suffix not in MEDIA_TYPES:
        raise ValueError(f"artifact key {key!r} must end in one of {', '.join(MEDIA_TYPES)}")
    return MEDIA_TYPES[suffix]
