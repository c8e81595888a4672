"""A contact sheet for the eye: for every prompt some frames, what was asked and what was seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.protocol import Frames

COLUMNS = 3
_SHOWN = 8  # frames of a clip
_SIDE = 64  # pixels of a shown frame
_LINE = 13  # pixels of a line of text
_GAP = 8
_CELL = (_SHOWN * _SIDE + _GAP, _SIDE + 2 * _LINE + _GAP)
_RIGHT, _WRONG, _INK = (0, 110, 40), (180, 20, 20), (20, 20, 20)


@dataclass(frozen=True)
class Strip:
    """One clip on the sheet."""

    frames: Frames  # (T, H, W, 3) uint8
    asked: str
    seen: str
    right: bool


def draw_sheet(strips: Sequence[Strip], path: Path) -> None:
    """Write the strips to a PNG, in columns, first prompt top left."""
    columns = min(COLUMNS, max(1, len(strips)))
    rows = -(-len(strips) // columns)
    canvas = Image.new("RGB", (columns * _CELL[0] + _GAP, rows * _CELL[1] + _GAP), "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for index, strip in enumerate(strips):
        left = _GAP + index // rows * _CELL[0]
        top = _GAP + index % rows * _CELL[1]
        canvas.paste(_filmstrip(strip.frames), (left, top))
        pen.text((left, top + _SIDE), strip.asked, _INK, font)
        pen.text((left, top + _SIDE + _LINE), strip.seen, _RIGHT if strip.right else _WRONG, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _filmstrip(frames: Frames) -> Image.Image:
    """Frames spread over the clip, side by side."""
    chosen = np.linspace(0, len(frames) - 1, _SHOWN).round().astype(int)
    strip = Image.new("RGB", (_SHOWN * _SIDE, _SIDE))
    for place, index in enumerate(chosen):
        frame = Image.fromarray(frames[index]).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        strip.paste(frame, (place * _SIDE, 0))
    return strip
