"""Cut-outs of every subject, decoded once into one memory-mapped file.

`python -m models.training.sprites` fetches the packages and writes, outside the repository,
`frames.bin` (n, 96, 96, 4) and `halves.bin` (n, 48, 48, 4), uint8 with premultiplied alpha, and
`index.json`. Not for run time.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import typer
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from models.training.assets import EMOJI_NAMES, FLUENT_3D, FLUENT_ANIMATED, cache_dir, unpack
from models.training.concepts import CONCEPTS

SIDE = 96  # pixels
HALF = SIDE // 2
FPS = 1000 / 42  # frame rate of the animations

ANIMATED_ROWS = Path(__file__).parent / "animated.json"


@dataclass(frozen=True)
class Source:
    """One animation or drawing of a concept inside an unpacked package."""

    concept: str
    style: str  # "animated" or "3d"
    file: str


@dataclass(frozen=True)
class Sprite:
    """Where a source's frames lie in the file."""

    concept: str
    style: str
    start: int
    count: int  # 1 for a still drawing


class SpriteSheet:
    """All cut-outs, premultiplied RGBA: `frames` (n, 96, 96, 4) and `halves` (n, 48, 48, 4)."""

    def __init__(self, folder: Path) -> None:
        rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.sprites = tuple(Sprite(**row) for row in rows)
        total = sum(sprite.count for sprite in self.sprites)
        self.frames: NDArray[np.uint8] = np.memmap(
            folder / "frames.bin", np.uint8, "r", shape=(total, SIDE, SIDE, 4)
        )
        self.halves: NDArray[np.uint8] = np.memmap(
            folder / "halves.bin", np.uint8, "r", shape=(total, HALF, HALF, 4)
        )
        self.by_concept: dict[str, list[int]] = {}
        for index, sprite in enumerate(self.sprites):
            self.by_concept.setdefault(sprite.concept, []).append(index)


def sheet_dir() -> Path:
    """The folder that holds the packed cut-outs."""
    return cache_dir() / "sprites"


def open_sheet() -> SpriteSheet:
    """The packed cut-outs, made first if they are missing."""
    if not (sheet_dir() / "index.json").exists():
        pack(sheet_dir(), list(sources()))
    return SpriteSheet(sheet_dir())


def sources() -> Iterator[Source]:
    """Every drawing of every concept, animated ones first."""
    rows = json.loads(ANIMATED_ROWS.read_text(encoding="utf-8"))
    packages = {package.name: unpack(package) for package in FLUENT_ANIMATED}
    for row in rows:
        yield Source(
            row["label"], "animated", str(packages[row["package"]] / "package" / row["file"])
        )
    stills = unpack(FLUENT_3D) / "package" / "assets"
    names = unpack(EMOJI_NAMES) / "package" / "en" / "data.json"
    codes = {
        entry["label"]: entry["hexcode"].lower()
        for entry in json.loads(names.read_text(encoding="utf-8"))
    }
    for concept in CONCEPTS:
        code = codes[concept]
        for name in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
            if (stills / f"{name}.webp").exists():
                yield Source(concept, "3d", str(stills / f"{name}.webp"))
                break


def decode(source: Source) -> NDArray[np.uint8]:
    """The source's frames, (count, 96, 96, 4) uint8, premultiplied by alpha."""
    with Image.open(source.file) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(_premultiplied(image.convert("RGBA")))
    return np.stack(frames)


def _premultiplied(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image, np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    high, wide = pixels.shape[:2]
    side = max(high, wide)
    top, left = (side - high) // 2, (side - wide) // 2
    square = np.pad(pixels, ((top, side - high - top), (left, side - wide - left), (0, 0)))
    bands = [
        np.asarray(Image.fromarray(square[..., band]).resize((SIDE, SIDE), Image.Resampling.BOX))
        for band in range(4)
    ]
    return np.stack(bands, -1).round().clip(0, 255).astype(np.uint8)


def _halved(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blocks = rearrange(frames.astype(np.float32), "n (h p) (w q) c -> n h w c (p q)", p=2, q=2)
    return blocks.mean(-1).round().astype(np.uint8)


def pack(folder: Path, todo: Sequence[Source]) -> None:
    """Decode every source and write the sheet. Each file is renamed into place, the index last, so
    that a partial sheet is not used and who reads the one before goes on reading it."""
    folder.mkdir(parents=True, exist_ok=True)
    wholes, halves, index = (folder / name for name in ("frames.bin", "halves.bin", "index.json"))
    rows, start = [], 0
    with (
        _partial(wholes).open("wb") as file,
        _partial(halves).open("wb") as half_file,
        ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool,
    ):
        for source, frames in zip(todo, pool.map(decode, todo, chunksize=4), strict=True):
            file.write(frames.tobytes())
            half_file.write(_halved(frames).tobytes())
            rows.append(asdict(Sprite(source.concept, source.style, start, len(frames))))
            start += len(frames)
    _partial(index).write_text(json.dumps(rows), encoding="utf-8")
    for path in (wholes, halves, index):
        os.replace(_partial(path), path)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def main() -> None:
    """Pack the cut-outs of every subject."""
    pack(sheet_dir(), list(sources()))


if __name__ == "__main__":
    typer.run(main)
