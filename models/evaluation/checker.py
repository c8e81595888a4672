"""Reads a clip: where its subject goes, over what background, what it looks like, what flickers.

It measures what stands in the pictures and knows nothing of prompts. Valid for one subject before a
standing camera, 64 x 64 pixels.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional

from models.evaluation.masks import SubjectFinder
from models.training.captions import DIRECTIONS

SIDE = 64  # pixels of the clips that can be read
CROP_SIDE = 96  # pixels of a subject's crop
CROPS = 4  # frames from which the subject is recognised
BANDS = 8  # horizontal stripes by which a background is described
STILL_BELOW = 0.07  # frame sides a second; the slow ones of the world move at 0.14 and more
TOLERANCE = math.radians(30)

_SPREAD = 2.1  # half side of a crop, in standard deviations of the mask


@dataclass(frozen=True)
class Views:
    """What a clip is cut into before anything is recognised."""

    masks: Tensor  # (T, 64, 64) coverage by the subject, 0..1
    crops: Tensor  # (CROPS, 4, CROP_SIDE, CROP_SIDE) subject's colours and coverage, 0..1
    backdrop: Tensor  # (BANDS * 3 + 6,) statistics of the background
    velocity: tuple[float, float]  # (right, down) of the subject, frame sides a second
    flicker: float  # mean change of background pixels from frame to frame, 0..1


@torch.no_grad()
def look(finder: SubjectFinder, clip: Tensor, fps: float) -> Views:
    """Cut a clip into what is recognised.

    clip    (3, T, 64, 64) in 0..1, at least CROPS frames
    raises  ValueError for any other shape
    """
    if clip.shape[0] != 3 or clip.shape[1] < CROPS or clip.shape[2:] != (SIDE, SIDE):
        raise ValueError(f"clip is {tuple(clip.shape)}, must be (3, {CROPS} or more, 64, 64)")
    masks = finder(clip[None])[0].sigmoid()
    return Views(
        masks=masks,
        crops=subject_crops(clip, masks),
        backdrop=backdrop(clip, masks),
        velocity=velocity(masks, fps),
        flicker=flicker(clip, masks),
    )


def velocity(masks: Tensor, fps: float) -> tuple[float, float]:
    """Slope of the mask's centre over time, frames weighed by how much of the subject they show.

    masks    (T, H, W) in 0..1
    returns  (right, down) in frame sides a second
    """
    places, weight = centres(masks)
    clock = torch.arange(len(masks), dtype=torch.float32) / fps
    clock = clock - (weight * clock).sum() / weight.sum()
    slope = (weight * clock) @ places / (weight * clock.square()).sum().clamp_min(1e-6)
    return float(slope[0]), float(slope[1])


def centres(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame's mask centre in frame sides (T, 2) as (x, y), and its area in pixels (T,)."""
    high, wide = masks.shape[-2:]
    solid = masks.clamp_min(0.3) - 0.3  # faint doubt far away must not pull the centre
    area = reduce(solid, "t h w -> t", "sum") + 1e-3
    x = (torch.arange(wide) + 0.5) / wide
    y = (torch.arange(high) + 0.5) / high
    across = (reduce(solid, "t h w -> t w", "sum") * x).sum(1) + 0.5e-3
    down = (reduce(solid, "t h w -> t h", "sum") * y).sum(1) + 0.5e-3
    return torch.stack([across / area, down / area], -1), area


def heading(velocity: tuple[float, float]) -> str:
    """The nearest of the eight directions, or "still"."""
    if math.hypot(*velocity) < STILL_BELOW:
        return "still"
    return min(DIRECTIONS, key=lambda name: turned(velocity, name))


def shows_motion(velocity: tuple[float, float], motion: str) -> bool:
    """Whether a subject of this velocity does what the prompt said: within 30 degrees."""
    moving = math.hypot(*velocity) >= STILL_BELOW
    if motion == "still":
        return not moving
    return moving and turned(velocity, motion) <= TOLERANCE


def turned(velocity: tuple[float, float], direction: str) -> float:
    """Angle between a velocity and a named direction, radians in 0..pi."""
    across, down = DIRECTIONS[direction]
    gap = math.atan2(velocity[1], velocity[0]) - math.atan2(down, across)
    return abs((gap + math.pi) % (2 * math.pi) - math.pi)


def subject_crops(clip: Tensor, masks: Tensor, count: int = CROPS) -> Tensor:
    """Squares around the subject in the frames that show most of it.

    clip     (3, T, H, W) in 0..1; masks (T, H, W)
    returns  (count, 4, CROP_SIDE, CROP_SIDE): colours, then the mask
    """
    _, area = centres(masks)
    chosen = _spread_frames(area, count)
    frames = rearrange(torch.cat([clip, masks[None]])[:, chosen], "c t h w -> t c h w")
    shape = [count, 4, CROP_SIDE, CROP_SIDE]
    grid = functional.affine_grid(_boxes(masks[chosen]), shape, align_corners=False)
    return functional.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def _spread_frames(area: Tensor, count: int) -> Tensor:
    """The fullest frame of each of `count` equal stretches of the clip."""
    stretches = torch.arange(len(area)).tensor_split(count)
    return torch.stack([part[area[part].argmax()] for part in stretches])


def _boxes(masks: Tensor) -> Tensor:
    """Maps from a crop to the square around each mask: (n, 2, 3), for `affine_grid`."""
    places, area = centres(masks)
    high, wide = masks.shape[-2:]
    solid = masks.clamp_min(0.3) - 0.3
    x = (torch.arange(wide) + 0.5) / wide
    y = (torch.arange(high) + 0.5) / high
    off_x = (x - places[:, :1]).square()
    off_y = (y - places[:, 1:]).square()
    spread_x = (reduce(solid, "t h w -> t w", "sum") * off_x).sum(1) / area
    spread_y = (reduce(solid, "t h w -> t h", "sum") * off_y).sum(1) / area
    half = (_SPREAD * torch.maximum(spread_x, spread_y).sqrt()).clamp(0.1, 0.5)
    zero = torch.zeros_like(half)
    first = torch.stack([2 * half, zero, places[:, 0] * 2 - 1], -1)
    second = torch.stack([zero, 2 * half, places[:, 1] * 2 - 1], -1)
    return torch.stack([first, second], 1)


def backdrop(clip: Tensor, masks: Tensor) -> Tensor:
    """Statistics of the background: mean colour of each stripe, then overall spread and texture.

    Pixels count by how surely they are background. A stripe that the subject hides throughout
    takes the colour of all.
    """
    open_ = _outside(masks)
    seen = (clip * open_).sum(1) / open_.sum(0).clamp_min(1e-3)  # (3, H, W) over time
    weight = open_.mean(0).clamp_min(1e-4)
    stripes = rearrange(weight, "(k p) w -> k (p w)", k=BANDS)
    colours = rearrange(seen, "c (k p) w -> c k (p w)", k=BANDS)
    overall = (seen * weight).sum((1, 2)) / weight.sum()
    trust = stripes.sum(1) / (stripes.sum(1) + 0.1)
    means = (colours * stripes).sum(2) / stripes.sum(1)
    means = overall[:, None] + (means - overall[:, None]) * trust
    spread = (((seen - overall[:, None, None]).square() * weight).sum((1, 2)) / weight.sum()).sqrt()
    return torch.cat([means.flatten(), spread, _texture(seen, weight)])


def _texture(seen: Tensor, weight: Tensor) -> Tensor:
    """Mean change to the right, downward, and the strongest change: (3,)."""
    inside = weight > 0.5
    grey = seen.mean(0)
    across = grey.diff(dim=1).abs()[inside[:, 1:] & inside[:, :-1]]
    down = grey.diff(dim=0).abs()[inside[1:] & inside[:-1]]
    if not len(across) or not len(down):
        return torch.zeros(3)
    peak = torch.quantile(across, 0.98)
    return torch.stack([across.mean(), down.mean(), peak])


def flicker(clip: Tensor, masks: Tensor) -> float:
    """Mean absolute change between neighbouring frames where both show background, 0..1."""
    open_ = _outside(masks)
    both = open_[1:] * open_[:-1]
    change = clip.diff(dim=1).abs().mean(0)
    return float((change * both).sum() / both.sum().clamp_min(1e-3))


def _outside(masks: Tensor) -> Tensor:
    """Background certainty (T, H, W): 1 well outside the mask, 0 in and near it."""
    near = functional.max_pool2d(masks[:, None], 5, stride=1, padding=2)[:, 0]
    return (near < 0.2).float()
