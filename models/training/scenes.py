"""Backgrounds with names: plain colours, painted scenes with a horizon, and photographed places.

Each is a texture wider and taller than a frame, so that a camera can pan over it. Photographed ones
are the CC0 panoramas of the training packages; all others are painted here from random numbers.
"""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.training.assets import PANORAMAS, unpack

HEIGHT, WIDTH = 96, 160  # pixels of a texture; a 64-pixel frame is a crop of it
VARIANTS = 24  # textures per name

Texture = NDArray[np.float32]  # (HEIGHT, WIDTH, 3), 0..1
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """A background: its name and how captions speak of it."""

    name: str
    phrase: str  # follows "a unicorn moving left"


SCENES = (
    Scene("red", "on a red background"),
    Scene("green", "on a green background"),
    Scene("blue", "on a blue background"),
    Scene("yellow", "on a yellow background"),
    Scene("white", "on a white background"),
    Scene("sky", "in the blue sky"),
    Scene("sunset", "over a sunset"),
    Scene("night", "in the night"),
    Scene("sea", "over the sea"),
    Scene("desert", "in the desert"),
    Scene("snow", "in the snow"),
    Scene("meadow", "over a meadow"),
    Scene("forest", "in a forest"),
    Scene("city", "in a city"),
    Scene("studio", "in a studio"),
)

_PLAIN: dict[str, Colour] = {
    "red": (0.82, 0.16, 0.16),
    "green": (0.18, 0.62, 0.26),
    "blue": (0.14, 0.30, 0.78),
    "yellow": (0.96, 0.84, 0.24),
    "white": (0.95, 0.95, 0.95),
}

# Colour stops from the top of the texture (0) to its bottom (1).
_GRADIENTS: dict[str, tuple[tuple[float, Colour], ...]] = {
    "sky": ((0.0, (0.28, 0.58, 0.92)), (1.0, (0.76, 0.90, 0.99))),
    "sunset": (
        (0.0, (0.25, 0.14, 0.42)),
        (0.45, (0.86, 0.34, 0.36)),
        (0.7, (0.99, 0.66, 0.30)),
        (1.0, (0.99, 0.86, 0.50)),
    ),
    "night": ((0.0, (0.02, 0.02, 0.10)), (1.0, (0.10, 0.10, 0.28))),
    "sea": (
        (0.0, (0.66, 0.86, 0.96)),
        (0.44, (0.86, 0.95, 0.98)),
        (0.46, (0.05, 0.42, 0.58)),
        (1.0, (0.02, 0.22, 0.40)),
    ),
    "desert": (
        (0.0, (0.52, 0.76, 0.92)),
        (0.44, (0.90, 0.90, 0.82)),
        (0.46, (0.90, 0.72, 0.42)),
        (1.0, (0.76, 0.52, 0.26)),
    ),
    "snow": (
        (0.0, (0.62, 0.68, 0.78)),
        (0.44, (0.80, 0.84, 0.90)),
        (0.48, (0.98, 0.98, 1.0)),
        (1.0, (0.88, 0.92, 0.98)),
    ),
    "meadow": (
        (0.0, (0.50, 0.78, 0.96)),
        (0.44, (0.84, 0.94, 0.98)),
        (0.46, (0.42, 0.72, 0.22)),
        (1.0, (0.20, 0.50, 0.12)),
    ),
}

_PANORAMAS = {"forest": ("forest", "park"), "city": ("city",), "studio": ("studio",)}


def paint_bank(seed: int = 0) -> torch.Tensor:
    """Every texture: (len(SCENES), VARIANTS, 3, HEIGHT, WIDTH) uint8."""
    rng = np.random.default_rng(seed)
    rows = []
    for scene in SCENES:
        painter = _painter(scene.name)
        rows.append(np.stack([painter(rng) for _ in range(VARIANTS)]))
    bank = np.stack(rows).clip(0, 1)
    return torch.from_numpy((bank * 255).round().astype(np.uint8)).permute(0, 1, 4, 2, 3)


def _painter(name: str) -> Callable[[np.random.Generator], Texture]:
    if name in _PLAIN:
        return lambda rng: _plain(_PLAIN[name], rng)
    if name in _GRADIENTS:
        return lambda rng: _gradient(name, rng)
    photographs = [_panorama(photograph) for photograph in _PANORAMAS[name]]
    return lambda rng: _crop(photographs[rng.integers(len(photographs))], rng)


def _plain(colour: Colour, rng: np.random.Generator) -> Texture:
    shade = np.asarray(colour) + rng.normal(0, 0.025, 3)
    return np.broadcast_to(shade, (HEIGHT, WIDTH, 3)).astype(np.float32)


def _gradient(name: str, rng: np.random.Generator) -> Texture:
    stops = _GRADIENTS[name]
    shift = rng.uniform(-0.05, 0.05) if len(stops) > 2 else 0.0
    places = [stop if stop in (0.0, 1.0) else stop + shift for stop, _ in stops]
    rows = np.linspace(0, 1, HEIGHT)
    tint = rng.normal(0, 0.02, 3)
    bands = [np.interp(rows, places, [colour[band] for _, colour in stops]) for band in range(3)]
    column = np.stack(bands, -1)
    texture = np.broadcast_to((column + tint)[:, None], (HEIGHT, WIDTH, 3)).copy()
    if name == "night":
        _add_stars(texture, rng)
    if name == "sky":
        _add_clouds(texture, rng)
    return texture.astype(np.float32)


def _add_stars(texture: NDArray[np.float64], rng: np.random.Generator) -> None:
    count = int(rng.integers(30, 60))
    rows, columns = rng.integers(0, HEIGHT - 1, count), rng.integers(0, WIDTH - 1, count)
    light = rng.uniform(0.5, 0.95, (count, 1))
    for down in (0, 1):
        for across in (0, 1):
            spot = texture[rows + down, columns + across]
            texture[rows + down, columns + across] = np.maximum(spot, light * 0.8)


def _add_clouds(texture: NDArray[np.float64], rng: np.random.Generator) -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for _ in range(int(rng.integers(2, 5))):
        cy, cx = rng.uniform(8, HEIGHT * 0.8), rng.uniform(0, WIDTH)
        wide, high = rng.uniform(12, 26), rng.uniform(4, 8)
        cloud = np.exp(-(((x - cx) / wide) ** 2) - ((y - cy) / high) ** 2)[..., None]
        texture += (1 - texture) * np.minimum(cloud, 0.75)


def _panorama(name: str) -> NDArray[np.float32]:
    """A photograph of the whole surroundings: (256, 512, 3) in 0..1, tone-mapped to sRGB."""
    script = unpack(PANORAMAS) / "package" / "hdri" / f"{name}.exr.js"
    encoded = re.search(r"base64,([A-Za-z0-9+/=]+)", script.read_text(encoding="ascii"))
    if encoded is None:
        raise ValueError(f"{script}: holds no base64 picture")
    with av.open(io.BytesIO(base64.b64decode(encoded[1])), "r") as file:
        linear = next(file.decode(video=0)).to_ndarray(format="gbrpf32le")
    exposed = linear * (0.35 / np.exp(np.log(linear.mean(-1) + 1e-4).mean()))
    bounded = np.nan_to_num(exposed / (1 + exposed), nan=1.0)  # the sun itself is infinite
    return (bounded ** (1 / 2.2)).astype(np.float32)


def _crop(panorama: NDArray[np.float32], rng: np.random.Generator) -> Texture:
    rolled = np.roll(panorama, int(rng.integers(panorama.shape[1])), axis=1)
    high, wide = HEIGHT * 3 // 2, WIDTH * 3 // 2
    top = (panorama.shape[0] - high) // 2 + int(rng.integers(-8, 9))
    piece = (rolled[top : top + high, :wide] * 255).clip(0, 255).astype(np.uint8)
    small = Image.fromarray(piece).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / 255).astype(np.float32)
