"""Pictures and clips for tests, made on the spot, and files that are none."""

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image


def picture(
    size: tuple[int, int] = (64, 64),
    colour: tuple[int, ...] = (200, 40, 40),
    kind: str = "PNG",
    **options: Any,
) -> bytes:
    """A picture of one colour."""
    mode = "RGBA" if len(colour) == 4 else "RGB"
    return encoded(Image.new(mode, size, colour), kind, **options)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    sink = BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def halves(size: tuple[int, int], left: tuple[int, ...], right: tuple[int, ...]) -> Image.Image:
    """A picture whose halves differ."""
    image = Image.new("RGB", size, left)
    image.paste(Image.new("RGB", (size[0] // 2, size[1]), right), (size[0] // 2, 0))
    return image


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """The bytes as a data-URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def film(
    path: Path,
    frames: int = 16,
    fps: int = 8,
    size: tuple[int, int] = (64, 64),
    codec: str = "libx264",
) -> Path:
    """A clip that grows brighter: frame i is grey 8 * i, as far as the codec keeps it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            grey = np.full((size[1], size[0], 3), min(255, 8 * index), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims any number of pixels in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(min(height, 100))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
