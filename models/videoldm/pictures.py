"""Pictures and clips as the autoencoder takes them, and back: scale, alpha, padding, frame rate.

Pixels are (c, h, w) float32 in -1..1. References keep their aspect and are padded with white; given
frames have the film's aspect already. Nothing here reads a file.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from models.protocol import Frames, Picture


def read_picture(picture: Picture, width: int, height: int) -> Tensor:
    """A given frame, scaled to the size: (3, height, width). Alpha is laid on white."""
    return _scaled(_opaque(picture), width, height)


def read_reference(picture: Picture, width: int, height: int) -> Tensor:
    """A reference, scaled to fit and padded with white: (3, height, width)."""
    pixels = _opaque(picture)
    high, wide = pixels.shape[-2:]
    scale = min(width / wide, height / high)
    inner_wide, inner_high = (max(1, round(side * scale)) for side in (wide, high))
    pixels = _scaled(pixels, inner_wide, inner_high)
    left, top = (width - inner_wide) // 2, (height - inner_high) // 2
    margins = (left, width - inner_wide - left, top, height - inner_high - top)
    return functional.pad(pixels, margins, value=1.0)


def read_clip(frames: Frames, width: int, height: int) -> Tensor:
    """Frames (T, H, W, 3) as (1, 3, T, height, width)."""
    pixels = torch.stack([read_picture(frame, width, height) for frame in frames], 1)
    return pixels[None]


def write_frames(pixels: Tensor) -> Frames:
    """Pixels (1, 3, T, H, W) as frames (T, H, W, 3) uint8."""
    levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return rearrange(levels, "1 c t h w -> t h w c").cpu().numpy()


def resized(frames: Frames, width: int, height: int) -> Frames:
    """Frames at another size; the very same if it is theirs."""
    if frames.shape[1:3] == (height, width):
        return frames
    return write_frames(read_clip(frames, width, height))


def retimed(frames: Frames, fps: float | None, target_fps: float) -> Frames:
    """Frames at another rate, the nearest in time for each; the very same if it is theirs.

    fps  of the frames; None takes them to have the target's
    """
    if fps is None or fps == target_fps:
        return frames
    count = retimed_count(len(frames), fps, target_fps)
    nearest = np.round(np.arange(count) * (fps / target_fps)).astype(int)
    return frames[nearest.clip(0, len(frames) - 1)]


def retimed_count(count: int, fps: float | None, target_fps: float) -> int:
    """How many frames a clip of `count` has at another rate, 1 at least."""
    return count if fps is None else max(1, round(count * target_fps / fps))


def _opaque(picture: Picture) -> Tensor:
    """Pixels (3, H, W) in -1..1, straight alpha laid on white."""
    pixels = rearrange(torch.from_numpy(np.ascontiguousarray(picture)), "h w c -> c h w")
    levels = pixels.float() / 127.5 - 1
    if len(levels) == 3:
        return levels
    alpha = (levels[3:] + 1) / 2
    return levels[:3] * alpha + (1 - alpha)


def _scaled(pixels: Tensor, width: int, height: int) -> Tensor:
    if pixels.shape[-2:] == (height, width):
        return pixels
    size = (height, width)
    scaled = functional.interpolate(pixels[None], size, mode="bicubic", antialias=True)
    return scaled[0].clamp(-1, 1)
