"""Pictures from strangers to plain pixels: upright, sRGB, cropped, nothing else kept.

Runs in the decoding process only. It never asks what a picture is for.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageCms, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
PAPER = (255, 255, 255)  # shows through where a frame is transparent


class Unusable(Exception):
    """A file cannot be used; the sentence is safe to show."""


@dataclass(frozen=True)
class Box:
    """Left, top, right and bottom of a crop, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def measure(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height of a picture as it is meant to be seen, without decoding it.

    raises Unusable if it is no picture, or has more pixels than allowed
    """
    with open_picture(path, max_pixels) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def open_picture(path: Path, max_pixels: int) -> Image.Image:
    # Our own check, on the declared size and before a single pixel is decoded.
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(path, formats=FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise Unusable(f"has {width}x{height} pixels; the limit is {max_pixels}")
    return image


def develop(path: Path, max_pixels: int) -> Image.Image:
    """A picture decoded, turned upright and brought to sRGB: mode RGB, or RGBA with alpha.

    raises Unusable, or whatever the decoder raises
    """
    with open_picture(path, max_pixels) as opened:
        profile = opened.info.get("icc_profile")
        image = flatten(ImageOps.exif_transpose(opened))
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    image = to_srgb(image.convert("RGB") if alpha is not None else image, profile)
    if alpha is not None and alpha.getextrema() != (255, 255):
        image.putalpha(alpha)
    image.info.clear()
    return image


def flatten(image: Image.Image) -> Image.Image:
    """To eight bits a channel: palettes opened, deep greys scaled instead of cut off."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image if image.mode in ("RGB", "RGBA", "L", "CMYK") else image.convert("RGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """By the embedded profile, where there is one that fits; a broken one counts as none."""
    if profile and image.mode in ("RGB", "L", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def centre_crop(size: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """The largest centred box within `size` that has the aspect of `wanted`."""
    width, height = size
    if width * wanted[1] > height * wanted[0]:
        kept = max(1, round(height * wanted[0] / wanted[1]))
        left = (width - kept) // 2
        return Box(left, 0, left + kept, height)
    kept = max(1, round(width * wanted[1] / wanted[0]))
    top = (height - kept) // 2
    return Box(0, top, width, top + kept)


def fit(image: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """Exactly `wanted` pixels: centre crop to its aspect, then scaled."""
    box = centre_crop(image.size, wanted)
    # Not `resize(box=…)`: its filter reaches over the edges of the box.
    cropped = image.crop((box.left, box.top, box.right, box.bottom))
    return cropped.resize(wanted, Image.Resampling.LANCZOS)


def as_frame(image: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """A given frame: the film's size, without alpha."""
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, PAPER)
        image = Image.alpha_composite(ground, image).convert("RGB")
    return fit(image, wanted)


def as_reference(image: Image.Image, longest: int) -> Image.Image:
    """A reference: its own aspect, no side longer than `longest` pixels, alpha kept."""
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def save(image: Image.Image, path: Path) -> None:
    """As PNG without metadata."""
    image.save(path, "PNG", compress_level=3)
