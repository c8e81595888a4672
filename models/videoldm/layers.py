"""Building blocks shared by autoencoder and U-Net: residual blocks, embeddings, mixing.

Spatial layers see frames as a batch, (n, c, h, w); temporal layers see (b, c, t, h w). No
normalisation pools over time, so a frame's result never depends on how many others there are.
"""

import math
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

Module = TypeVar("Module", bound=nn.Module)


def sinusoid(values: Tensor, width: int, longest: float = 1e4) -> Tensor:
    """Sine and cosine features of real numbers: (...,) -> (..., width).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, with periods up to 2 pi * longest.
    """
    half = width // 2
    ladder = torch.linspace(0, 1, half, device=values.device)
    phase = values.float()[..., None] * torch.exp(-math.log(longest) * ladder)
    return torch.cat([phase.cos(), phase.sin()], -1)


def zeroed(module: Module) -> Module:
    """The module with all its parameters set to zero, so that its branch starts silent."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class SpatialResidual(nn.Module):
    """Two 3x3 convolutions on each frame, modulated by an embedding of width `embed` (0: none)."""

    def __init__(self, width_in: int, width: int, groups: int, embed: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.modulation = nn.Linear(embed, 2 * width) if embed else None
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Conv2d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """x (n, width_in, h, w), embedding (n, embed) -> (n, width, h, w)"""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.norm2(hidden)
        if self.modulation is not None and embedding is not None:
            scale, shift = self.modulation(functional.silu(embedding))[..., None, None].chunk(2, 1)
            hidden = hidden * (1 + scale) + shift
        hidden = self.conv2(functional.silu(hidden))
        return self.skip(x) + hidden


class FrameNorm(nn.Module):
    """Group normalisation of each frame by itself: no statistics over time."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, t, s) -> same"""
        frames = self.norm(rearrange(x, "b c t s -> (b t) c s"))
        return rearrange(frames, "(b t) c s -> b c t s", b=x.shape[0])


class TemporalResidual(nn.Module):
    """Two convolutions of three frames at each location, silent at initialisation."""

    def __init__(self, width: int, groups: int, embed: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.modulation = nn.Linear(embed, 2 * width)
        self.norm2 = FrameNorm(groups, width)
        self.conv2 = zeroed(nn.Conv2d(width, width, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The branch to add. x (b, c, t, s), embedding (b, t, embed) -> (b, c, t, s)"""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        film = rearrange(self.modulation(functional.silu(embedding)), "b t c -> b c t 1")
        scale, shift = film.chunk(2, 1)
        hidden = self.norm2(hidden) * (1 + scale) + shift
        return self.conv2(functional.silu(hidden))


class Mixer(nn.Module):
    """out = a z_space + (1 - a) z_time with a = sigmoid(m), one learned scalar, m = 0 at start.

    Video LDM (arXiv:2304.08818), equation 3 and section 3.1; a always weighs the spatial branch.
    z_time = z_space + branch, so the mix adds (1 - a) of the branch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(()))

    def forward(self, z_space: Tensor, branch: Tensor) -> Tensor:
        """Both of one shape; branch is z_time - z_space."""
        return z_space + torch.sigmoid(-self.m) * branch


class Downsample(nn.Module):
    """Halves a frame's sides by a strided convolution."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width_in, h, w) -> (n, width, h/2, w/2)"""
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles a frame's sides: nearest neighbour, then a convolution."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width_in, h, w) -> (n, width, 2h, 2w)"""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
