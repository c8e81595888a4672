"""What a file is by its first bytes. Names and declared types are never asked."""

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 64

FTYP_MOVIES = frozenset(
    "isom iso2 iso3 iso4 iso5 iso6 iso7 iso8 iso9 mp41 mp42 avc1 dash M4V  M4VH M4VP MSNV f4v  "
    "qt   3gp4 3gp5 3gp6 3gpp 3g2a mmp4".replace("  ", " ").split(" ")
)


@dataclass(frozen=True)
class Signature:
    """A kind of file that can be an input."""

    kind: Literal["image", "video"]
    media_type: str
    suffix: str  # as files of it are stored


PNG = Signature("image", "image/png", ".png")
JPEG = Signature("image", "image/jpeg", ".jpg")
WEBP = Signature("image", "image/webp", ".webp")
MP4 = Signature("video", "video/mp4", ".mp4")
MOV = Signature("video", "video/quicktime", ".mov")
WEBM = Signature("video", "video/webm", ".webm")

ALL = (PNG, JPEG, WEBP, MP4, MOV, WEBM)


def read_signature(head: bytes) -> Signature | None:
    """The kind of a file, from its first HEAD_BYTES bytes; None if it is none of ours."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[4:8] == b"ftyp":
        return read_brand(head[8:12])
    if head.startswith(b"\x1a\x45\xdf\xa3") and b"webm" in head:
        return WEBM
    return None


def read_brand(brand: bytes) -> Signature | None:
    """Films among the many kinds of file with MP4's boxes; HEIF pictures are others."""
    name = brand.decode("latin-1").strip()
    if name == "qt":
        return MOV
    return MP4 if name in FTYP_MOVIES else None
