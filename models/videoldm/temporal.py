"""The temporal decoder: the image decoder with layers that look along the film.

Blattmann et al. 2023 (arXiv:2304.08818), section 3.1.1: latents come from the unchanged image
encoder, so every latent model stays valid; only the layers added here are trained. They are mixed
in as those of the U-Net are, and begin as identities: untrained, this is the image decoder.

The image decoder costs 0.35 GFLOP for a frame of 64x64 pixels, these layers 0.09 more.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import AutoencoderConfig, TemporalDecoderConfig
from models.videoldm.layers import FrameNorm, Mixer, zeroed


class TimeResidual(nn.Module):
    """Two convolutions of three frames at each location, silent at initialisation."""

    radius = 2  # frames to either side that it sees

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, (3, 1), padding=(1, 0))
        self.norm2 = FrameNorm(groups, width)
        self.conv2 = zeroed(nn.Conv2d(width, width, (3, 1), padding=(1, 0)))
        self.mix = Mixer()

    def forward(self, frames: Tensor, b: int) -> Tensor:
        """frames (b t, c, h, w) -> same"""
        h = frames.shape[-2]
        x = rearrange(frames, "(b t) c h w -> b c t (h w)", b=b)
        branch = self.conv1(functional.silu(self.norm1(x)))
        branch = self.conv2(functional.silu(self.norm2(branch)))
        return rearrange(self.mix(x, branch), "b c t (h w) -> (b t) c h w", h=h)


class TemporalDecoder(nn.Module):
    """What is added to an image decoder: a block after each of its own, and a last convolution."""

    def __init__(self, config: TemporalDecoderConfig, image: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        wide, deep = image.decoder_widths
        shallow_blocks, deep_blocks = image.decoder_blocks
        groups = config.norm_groups
        self.deep = nn.ModuleList(TimeResidual(deep, groups) for _ in range(deep_blocks))
        self.shallow = nn.ModuleList(TimeResidual(wide, groups) for _ in range(shallow_blocks))
        # Differs: the paper's last convolution replaces, this one adds to the frame it began with.
        self.last = zeroed(nn.Conv2d(3, 3, (3, 1), padding=(1, 0)))

    @property
    def radius(self) -> int:
        """Frames to either side that a frame depends on."""
        return TimeResidual.radius * (len(self.deep) + len(self.shallow)) + 1

    def forward(self, autoencoder: Autoencoder, latents: Tensor) -> Tensor:
        """Frames of standardised latents, all at once: (b, c, t, h, w) -> (b, 3, t, H, W)."""
        b, image = len(latents), autoencoder.decoder
        raw = rearrange(latents, "b c t h w -> (b t) c h w") * autoencoder.std + autoencoder.mean
        hidden = self._through(image.deep, self.deep, image.inlet(raw), b)
        hidden = self._through(image.shallow, self.shallow, image.up(hidden), b)
        patches = image.outlet(functional.silu(image.norm(hidden)))
        frames = functional.pixel_shuffle(patches, image.patch)
        clip = rearrange(frames, "(b t) c h w -> b c t (h w)", b=b)
        clip = rearrange(clip + self.last(clip), "b c t (h w) -> b c t h w", h=frames.shape[-2])
        return clip.clamp(-1, 1)

    @torch.no_grad()
    def pieces(self, autoencoder: Autoencoder, latents: Tensor) -> Iterator[Tensor]:
        """The same some frames at a time; chunks overlap by the radius, so nothing changes."""
        yield from self.flow(autoencoder, [latents])

    @torch.no_grad()
    def flow(self, autoencoder: Autoencoder, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same of latents that come piece by piece, (b, c, n, h, w) each, however they are cut.

        Holds no more of them than a chunk and what it sees, beside the piece that came last.
        """
        held: Tensor | None = None
        before, size = 0, self.config.chunk  # frames held that are decoded already
        for piece in chain(pieces, (None,)):
            if piece is not None:
                held = piece if held is None else torch.cat([held, piece], 2)
            enough = 1 if piece is None else size + self.radius
            while held is not None and held.shape[2] - before >= enough:
                seen = self.forward(autoencoder, held[:, :, : before + size + self.radius])
                made = seen[:, :, before : before + size]
                yield made
                done = before + made.shape[2]
                begin = max(0, done - self.radius)
                held, before = held[:, :, begin:], done - begin

    @staticmethod
    def _through(images: nn.Sequential, times: nn.ModuleList, hidden: Tensor, b: int) -> Tensor:
        for image, time in zip(images, times, strict=True):
            hidden = time(image(hidden), b)
        return hidden
