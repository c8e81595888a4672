"""Per-frame KL autoencoder: pixels to standardised latents and back.

Rombach et al. 2022 (arXiv:2112.10752), section 3.1, scaled down; every frame is encoded by itself,
so one frame's latent never depends on the clip. It does not decode over time.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.config import AutoencoderConfig
from models.videoldm.layers import Downsample, SpatialResidual, Upsample

_GROUPS = 8
_LOG_VARIANCE_RANGE = (-20.0, 2.0)


class Encoder(nn.Module):
    """Frames to the mean and log-variance of their latents."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        wide, deep = config.encoder_widths
        shallow_blocks, deep_blocks = config.encoder_blocks
        self.patch = config.patch
        self.inlet = nn.Conv2d(3 * config.patch**2, wide, 3, padding=1)
        self.shallow = nn.Sequential(
            *(SpatialResidual(wide, wide, _GROUPS) for _ in range(shallow_blocks))
        )
        self.down = Downsample(wide, deep)
        self.deep = nn.Sequential(
            *(SpatialResidual(deep, deep, _GROUPS) for _ in range(deep_blocks))
        )
        self.norm = nn.GroupNorm(_GROUPS, deep)
        self.outlet = nn.Conv2d(deep, 2 * config.latent_channels, 3, padding=1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames (n, 3, H, W) in -1..1 -> mean and log-variance, each (n, c, h, w)"""
        hidden = self.inlet(functional.pixel_unshuffle(frames, self.patch))
        hidden = self.deep(self.down(self.shallow(hidden)))
        mean, log_variance = self.outlet(functional.silu(self.norm(hidden))).chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        wide, deep = config.decoder_widths
        shallow_blocks, deep_blocks = config.decoder_blocks
        self.patch = config.patch
        self.inlet = nn.Conv2d(config.latent_channels, deep, 3, padding=1)
        self.deep = nn.Sequential(
            *(SpatialResidual(deep, deep, _GROUPS) for _ in range(deep_blocks))
        )
        self.up = Upsample(deep, wide)
        self.shallow = nn.Sequential(
            *(SpatialResidual(wide, wide, _GROUPS) for _ in range(shallow_blocks))
        )
        self.norm = nn.GroupNorm(_GROUPS, wide)
        self.outlet = nn.Conv2d(wide, 3 * config.patch**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """latents (n, c, h, w), not standardised -> (n, 3, H, W), about -1..1"""
        hidden = self.shallow(self.up(self.deep(self.inlet(latents))))
        patches = self.outlet(functional.silu(self.norm(hidden)))
        return functional.pixel_shuffle(patches, self.patch)


class Autoencoder(nn.Module):
    """Encoder, decoder and the statistics that standardise latents per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        mean = rearrange(torch.tensor(config.latent_mean), "c -> c 1 1")
        std = rearrange(torch.tensor(config.latent_std), "c -> c 1 1")
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def encode(self, clip: Tensor) -> Tensor:
        """Standardised posterior modes.

        clip     (b, 3, T, H, W) in -1..1; H and W multiples of the factor
        returns  (b, c, T, H/f, W/f)
        raises   ValueError if a side is no multiple of the factor
        """
        factor = self.config.factor
        if clip.shape[-1] % factor or clip.shape[-2] % factor:
            high, wide = clip.shape[-2:]
            raise ValueError(f"frame of {wide}x{high}: sides must be multiples of {factor}")
        mean, _ = self.encoder(rearrange(clip, "b c t h w -> (b t) c h w"))
        return rearrange((mean - self.mean) / self.std, "(b t) c h w -> b c t h w", b=len(clip))

    def decode(self, latents: Tensor) -> Tensor:
        """Frames of standardised latents: (b, c, t, h, w) -> (b, 3, t, H, W) in -1..1."""
        return self.drawn(latents).clamp(-1, 1)

    def drawn(self, latents: Tensor) -> Tensor:
        """What the decoder makes of standardised latents, in no bounds: (b, 3, t, H, W)."""
        raw = rearrange(latents, "b c t h w -> (b t) c h w") * self.std + self.mean
        return rearrange(self.decoder(raw), "(b t) c h w -> b c t h w", b=len(latents))
