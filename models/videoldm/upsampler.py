"""Spatial upsampling: a clip made four times as large by a latent model at the target size.

Blattmann et al. 2023 (arXiv:2304.08818), section 3.4, and Ho et al. 2022 (arXiv:2106.15282): the
low-resolution clip joins the network's input, noised to a level that the network is told, which
keeps its errors from being magnified. Long clips are made in chunks, each after the first given
the last frames of the one before. It is told no words.

Differs: denoising begins not with pure noise but with a regression's estimate, noised in part, as
Chung et al. 2022 (arXiv:2112.05146, algorithm 1) do: fewer steps go farther. Latents code what a
bicubic enlargement lacks, not the whole picture; and what denoising changes in them is added to the
estimate, so that the autoencoder is no ceiling over what is known without it.

With pocket's sizes, 64x64 to 256x256: 0.53 GFLOP a frame and step, 1.0 GFLOP to estimate a frame
and 1.5 GFLOP to decode it; 48 frames in chunks of eight, 34 GFLOP a step, 64 GFLOP to estimate and
70 GFLOP to decode.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.autoencoder import Autoencoder
from models.videoldm.checkpoints import NO_MEMORY, FilmMemory, remembered
from models.videoldm.conditioning import Conditions, Kind, text_only
from models.videoldm.config import UNetConfig, UpsamplerConfig
from models.videoldm.diffusion import (
    denoiser,
    frame_noise,
    held,
    lambda_of,
    noised,
    uniform_u_grid,
)
from models.videoldm.enlarger import Enlarger, enlarged
from models.videoldm.interpolation import Report, ignore
from models.videoldm.layers import sinusoid, zeroed
from models.videoldm.samplers import OnStep, SamplerState, sample_ddim
from models.videoldm.unet import Embedder, UNet


@dataclass(frozen=True)
class LowConditions(Conditions):
    """Conditions with a low-resolution clip, folded onto the latent grid."""

    low: Tensor = field(kw_only=True)  # (b, 3 g^2, t, h, w), noised to low_sigma
    low_sigma: Tensor = field(kw_only=True)  # (b,)


class LowEmbedder(Embedder):
    """Says besides how noisy the low-resolution clip is."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        embed = config.embed_width
        self.low_sigma = nn.Sequential(
            nn.Linear(embed, embed), nn.SiLU(), zeroed(nn.Linear(embed, embed))
        )

    def forward(
        self, noise_lambda: Tensor, conditions: Conditions, text: Tensor, mask: Tensor
    ) -> Tensor:
        """noise_lambda (b, f), text (b, l, d), mask (b, l) -> (b, f, embed)"""
        assert isinstance(conditions, LowConditions)
        said = self.low_sigma(sinusoid(conditions.low_sigma * 1000, self.embed))
        return super().forward(noise_lambda, conditions, text, mask) + said[:, None]


class UpsamplerUNet(UNet):
    """The base's U-Net with a low-resolution clip as further input channels."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__(config.unet)
        self.embedder = LowEmbedder(config.unet)
        cell = 2 * config.unet.latent_channels + 1 + 3 * config.fold**2
        self.inlet = nn.Conv2d(cell * config.unet.patch**2, config.unet.widths[0], 3, padding=1)

    def _with_references(
        self, x: Tensor, noise_lambda: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(conditions, LowConditions)
        joined, lambdas = super()._with_references(x, noise_lambda, conditions)
        return torch.cat([joined, conditions.low.to(joined)], 1), lambdas


@dataclass(frozen=True)
class Estimate:
    """What a regression makes of small frames, and the latents of what it adds to them."""

    frames: Tensor  # (b, 3, t, factor H, factor W)
    latents: Tensor  # (b, c, t, h, w)

    def after(self, given: int) -> "Estimate":
        """The same without its first frames."""
        return Estimate(self.frames[:, :, given:], self.latents[:, :, given:])


class Upsampler(nn.Module):
    """A loaded upsampling stage: estimate, U-Net and the autoencoder of what is lacking."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        if config.autoencoder.factor % config.factor:
            raise ValueError(
                f"factor {config.factor} must divide {config.autoencoder.factor}, the "
                "autoencoder's pixels a cell"
            )
        self.config = config
        self.autoencoder = Autoencoder(config.autoencoder)
        self.unet = UpsamplerUNet(config)
        self.enlarger = Enlarger(config.factor, config.enlarger_width, config.enlarger_blocks)

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of what large frames (b, 3, T, H, W) have over their enlarged reductions."""
        return self._coded(frames, reduced(frames, self.config.factor))

    def decode(self, latents: Tensor, low: Tensor) -> Tensor:
        """Large frames of latents (b, c, t, h, w) and the small frames (b, 3, t, H, W)."""
        return self._drawn(latents, self.first(low))

    def first(self, low: Tensor) -> Estimate:
        """What the regression makes of small frames (b, 3, t, H, W)."""
        frames = self.enlarger(low)
        return Estimate(frames, self._coded(frames, low))

    def _coded(self, frames: Tensor, low: Tensor) -> Tensor:
        detail = (frames - enlarged(low, self.config.factor)) * self.config.detail_gain
        weight = next(self.autoencoder.parameters())
        return self.autoencoder.encode(detail.to(weight)).float()

    def _drawn(self, latents: Tensor, first: Estimate) -> Tensor:
        """The estimate with what its latents and those that were made differ by."""
        weight = next(self.autoencoder.parameters())
        made, known = (
            self.autoencoder.drawn(part.to(weight)).float() for part in (latents, first.latents)
        )
        return (first.frames + (made - known) / self.config.detail_gain).clamp(-1, 1)

    def conditions(self, low: Tensor, sigma: Tensor, times: Tensor, fps: float) -> LowConditions:
        """What the network is told of a chunk without context.

        low    (b, 3, t, H, W) small frames, noised to sigma
        sigma  (b,)
        times  (b, t) seconds
        """
        folded = fold(low, self.config.fold)
        b, _, _, h, w = folded.shape
        silence = torch.zeros(b, 1, self.config.unet.text_width, device=low.device)
        cells = (self.config.unet.latent_channels, h, w)
        told = text_only(silence, silence[..., 0] > 0, times, fps, cells)
        return LowConditions(**vars(told), low=folded, low_sigma=sigma)

    @torch.no_grad()
    def enlarge(
        self,
        pieces: Iterable[Tensor],
        fps: float,
        steps: int,
        seed: int,
        report: Report = ignore,
        memory: FilmMemory = NO_MEMORY,
    ) -> Iterator[Tensor]:
        """The film at the target size, chunk by chunk, so that memory does not grow with it.

        pieces  (1, 3, n, H, W) in -1..1, in film order; sides multiples of `side_step`
        steps   denoising steps of each chunk, from the estimate on
        yields  (1, 3, n, factor H, factor W) in -1..1, as many frames as came in
        raises  ValueError for sides that the latent grid does not fit
        """
        context: Tensor | None = None
        chunks = chunked(pieces, self.config.chunk, self.config.overlap)
        for index, chunk in enumerate(chunks):
            check_sides(chunk.low, side_step(self.config))
            last = chunk.start + chunk.low.shape[2]
            times = torch.arange(chunk.start, last, dtype=torch.float64) / fps
            run = remembered(memory, f"upsampler/{index}", report)
            first = self.first(chunk.low)
            latents = self._sampled(chunk.low, first, times, fps, context, steps, seed, *run)
            yield self._drawn(latents[:, :, chunk.given :], first.after(chunk.given))
            context = latents[:, :, -self.config.overlap :]

    def _sampled(
        self,
        low: Tensor,
        first: Estimate,
        times: Tensor,
        fps: float,
        context: Tensor | None,
        steps: int,
        seed: int,
        on_step: OnStep,
        state: SamplerState | None,
    ) -> Tensor:
        """Latents of a chunk, (1, c, t, h, w) float32."""
        level = torch.tensor([self.config.low_sigma], dtype=torch.float64)
        blur = frame_noise(_frame_shape(low), times, seed, stage="upsampler.low")[None]
        noisy = noised(low.float(), blur.to(low.device), level)
        told: Conditions = self.conditions(
            noisy, level.float().to(low.device), times[None].float().to(low.device), fps
        )
        if context is not None:
            for slot in range(context.shape[2]):
                told = told.with_frame(slot, context[:, :, slot], Kind.CONTEXT)
        dtype = next(self.unet.parameters()).dtype
        told = told.to(dtype)

        def velocity(x: Tensor, sigma: float) -> Tensor:
            log_snr = lambda_of(sigma).float().expand(len(x)).to(x.device)
            return self.unet(x.to(dtype), log_snr, told).float()

        noise = frame_noise(_frame_shape(told.frames), times, seed, stage="upsampler")[None]
        denoise = held(denoiser(velocity), told.frames.float(), told.mask)
        grid = uniform_u_grid(steps, self.config.start)
        begun = noised(first.latents, noise.to(low.device), grid[:1]).float()
        return sample_ddim(denoise, begun, grid, on_step=on_step, state=state)


def reduced(frames: Tensor, factor: int) -> Tensor:
    """Frames (b, 3, t, H, W) reduced by averaging squares."""
    flat = rearrange(frames.float(), "b c t h w -> (b t) c h w")
    return rearrange(functional.avg_pool2d(flat, factor), "(b t) c h w -> b c t h w", b=len(frames))


def fold(low: Tensor, side: int) -> Tensor:
    """Squares of pixels folded into channels: (b, 3, t, h g, w g) -> (b, 3 g^2, t, h, w)."""
    return rearrange(low, "b c t (h p) (w q) -> b (c p q) t h w", p=side, q=side)


@dataclass(frozen=True)
class Chunk:
    """Small frames that are enlarged at once."""

    low: Tensor  # (1, 3, t, H, W)
    start: int  # place of its first frame in the film
    given: int  # frames at its beginning that the chunk before has made


def chunked(pieces: Iterable[Tensor], size: int, overlap: int) -> Iterator[Chunk]:
    """Pieces of a film, however it was cut, as chunks of `size` frames that overlap.

    Every chunk but the first begins with the last `overlap` frames of the one before.
    """
    held: list[Tensor] = []
    start = given = 0

    def frames() -> int:
        return sum(piece.shape[2] for piece in held)

    for piece in pieces:
        held.append(piece)
        while frames() >= size:
            low = torch.cat(held, 2)
            yield Chunk(low[:, :, :size], start, given)
            held = [low[:, :, size - overlap :]]
            start, given = start + size - overlap, overlap
    if frames() > given:
        yield Chunk(torch.cat(held, 2), start, given)


def count_chunks(frames: int, size: int, overlap: int) -> int:
    """How many chunks `chunked` makes of so many frames."""
    return max(1, -(-(frames - overlap) // (size - overlap)))


def side_step(config: UpsamplerConfig) -> int:
    """What the sides of a low-resolution frame must be multiples of, in pixels."""
    return config.fold * config.unet.patch * 2 ** (len(config.unet.widths) - 1)


def check_sides(low: Tensor, step: int) -> None:
    """Raise ValueError unless both sides of the frames are multiples of `step`."""
    high, wide = low.shape[-2:]
    if high % step or wide % step:
        raise ValueError(f"frames of {wide}x{high}: sides must be multiples of {step} to upscale")


def with_context(told: LowConditions, latents: Tensor, frames: int, sigma: Tensor) -> LowConditions:
    """The same with the first `frames` frames given as the chunk before would give them.

    latents  (b, c, t, h, w), of which the first frames are noised to sigma
    sigma    (b,) level of that noise
    """
    mask = torch.zeros_like(told.mask)
    mask[:, :, :frames] = 1
    kind, levels = told.kind.clone(), told.frame_sigma.clone()
    kind[:, :frames] = int(Kind.CONTEXT)
    levels[:, :frames] = rearrange(sigma, "b -> b 1").to(levels)
    return replace(
        told, frames=latents.to(told.frames) * mask, mask=mask, kind=kind, frame_sigma=levels
    )


def _frame_shape(clip: Tensor) -> tuple[int, int, int]:
    return (clip.shape[1], clip.shape[3], clip.shape[4])
