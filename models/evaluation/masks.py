"""Finds the subject in every frame of a clip: a small network taught on rendered clips.

It sees each frame and how that frame differs from the clip's mean, and learns from the world's
exact masks, on blurred and noisy renders too, so that soft pictures are read as well as sharp
ones. It knows "subject" against "background" only: no names, no directions.
"""

import random
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from models.training.world import CLIP_SECONDS, ClipState, World

PATCH = 4  # pixels folded into channels
_WIDE, _DEEP = 48, 64
_CLIPS, _FRAMES = 8, 8  # of one training batch
_LEARNING_RATE = 3e-3


class Residual(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w)"""
        return x + self.body(x)


class SubjectFinder(nn.Module):
    """Frames to coverage by the subject."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(6 * PATCH**2, _WIDE, 3, padding=1)
        self.fine = Residual(_WIDE)
        self.down = nn.Conv2d(_WIDE, _DEEP, 3, stride=2, padding=1)
        self.middle = nn.Sequential(Residual(_DEEP), Residual(_DEEP))
        self.deeper = nn.Conv2d(_DEEP, _DEEP, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(Residual(_DEEP), Residual(_DEEP))
        self.up = nn.Conv2d(_DEEP, _WIDE, 1)
        self.refine = nn.Sequential(Residual(_WIDE), Residual(_WIDE))
        self.outlet = nn.Conv2d(_WIDE, PATCH**2, 3, padding=1)

    def forward(self, clips: Tensor) -> Tensor:
        """clips (b, 3, T, 64, 64) in 0..1 -> logits of coverage (b, T, 64, 64)"""
        change = clips - clips.mean(2, keepdim=True)
        frames = rearrange(torch.cat([clips - 0.5, change], 1), "b c t h w -> (b t) c h w")
        fine = self.fine(self.inlet(functional.pixel_unshuffle(frames, PATCH) * 4))
        middle = self.middle(self.down(fine))
        coarse = self.coarse(self.deeper(middle))
        middle = middle + functional.interpolate(coarse, scale_factor=2.0)
        fine = self.refine(fine + functional.interpolate(self.up(middle), scale_factor=2.0))
        logits = functional.pixel_shuffle(self.outlet(fine), PATCH)
        return rearrange(logits, "(b t) 1 h w -> b t h w", b=len(clips))


def rendered(
    world: World, states: Sequence[ClipState], times: Tensor, draw: random.Random
) -> tuple[Tensor, Tensor]:
    """Clips as a generator might blur them, with true masks.

    times    (b, T) seconds
    returns  clips (b, 3, T, 64, 64) in 0..1 and coverage (b, T, 64, 64) in 0..1
    """
    clips = world.render(states, times) * 0.5 + 0.5
    return softened(clips, draw), world.masks(states, times)


def softened(clips: Tensor, draw: random.Random) -> Tensor:
    """Each clip blurred by 0 to 1 pixels with noise up to 0.04: (b, 3, T, H, W) in 0..1."""
    noise = torch.Generator().manual_seed(draw.getrandbits(60))
    softer = []
    for clip in clips:
        sigma = max(0.0, draw.uniform(-0.5, 1.0))
        frames = rearrange(clip, "c t h w -> (c t) 1 h w")
        if sigma > 0.2:
            frames = _blurred(frames, sigma)
        grain = torch.randn(frames.shape, generator=noise) * draw.uniform(0, 0.04)
        softer.append(rearrange(frames + grain, "(c t) 1 h w -> c t h w", c=3))
    return torch.stack(softer).clamp(0, 1)


def _blurred(frames: Tensor, sigma: float) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    taps = taps / taps.sum()
    across = functional.conv2d(
        functional.pad(frames, (3, 3, 0, 0), mode="replicate"), taps.view(1, 1, 1, 7)
    )
    return functional.conv2d(
        functional.pad(across, (0, 0, 3, 3), mode="replicate"), taps.view(1, 1, 7, 1)
    )


@torch.enable_grad()
def train_finder(world: World, steps: int, seed: str) -> SubjectFinder:
    """A finder taught on fresh random clips; the same for the same world, steps and seed."""
    draw = random.Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        finder = SubjectFinder()
    optimiser = torch.optim.Adam(finder.parameters(), lr=_LEARNING_RATE)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * min(1.0, (step + 1) / 20, (steps - step) / steps * 2)
        states = [world.sample(draw) for _ in range(_CLIPS)]
        times = torch.tensor(
            [sorted(draw.uniform(0, CLIP_SECONDS) for _ in range(_FRAMES)) for _ in states]
        )
        clips, truth = rendered(world, states, times, draw)
        loss = functional.binary_cross_entropy_with_logits(finder(clips), truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return finder.eval().requires_grad_(False)
