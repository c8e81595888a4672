"""Trains spatial upsampling: `python -m models.training.upsampler --steps N`.

First the regression that denoising begins with, then the autoencoder of what a bicubic enlargement
lacks, then the network in its latents; all on patches of large frames. Low-resolution patches are
noised to a level that the network is told, and half of the chunks are given their first frames, as
later chunks of a film are. Ends by measuring what it gains over bicubic enlargement of whole
frames, on subjects it has never seen.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from einops import rearrange
from torch import Tensor

from models.training.autoencoder import KL_WEIGHT, psnr, reconstruction
from models.training.concepts import HELD_OUT
from models.training.loop import Draws, Run, RunConfig, averaged, channels_last
from models.training.patches import LARGE_SIDE, LargeWorld, patches
from models.training.sprites import open_sheet
from models.training.stages import clip_times, levels, publish, write_rows, write_scores
from models.training.world import WorldConfig
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import UpsamplerConfig
from models.videoldm.diffusion import cosine_lambda, noised, sigma_of, v_of
from models.videoldm.enlarger import Enlarger, enlarged
from models.videoldm.layers import zeroed
from models.videoldm.upsampler import (
    LowConditions,
    Upsampler,
    reduced,
    with_context,
)

RATES = (8.0, 12.0, 24.0, 24.0)  # frames a second
LOW_SIGMA = 0.5  # most noise on a low-resolution patch
CONTEXT_SIGMA = 0.1  # most noise on a context frame
CONTEXT_SHARE = 0.5
TOP_SHARE = 0.25  # of samples begin at pure noise, where few-step sampling spends its calls
PLACES = 2  # of each clip: rendering it whole costs as much as learning from two patches
FPS = 24.0  # of the measurement


def lacking(frames: Tensor, factor: int) -> Tensor:
    """What large frames (b, 3, t, H, W) have over their enlarged reductions."""
    return frames - enlarged(reduced(frames, factor), factor)


def coding_loss(autoencoder: Autoencoder, detail: Tensor, draws: Draws) -> dict[str, Tensor]:
    """L1 in pixels and gradients of decoded detail (n, 3, H, W), and a small KL term.

    left  that L1 over what it is if nothing is drawn
    """
    mean, log_variance = autoencoder.encoder(detail)
    noise = torch.randn(mean.shape, generator=draws.torch)
    decoded = autoencoder.decoder(mean + noise * (0.5 * log_variance).exp())
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).float().mean()
    error = reconstruction(decoded, detail)
    none = reconstruction(torch.zeros_like(detail), detail)
    return {"loss": error + KL_WEIGHT * kl, "kl": kl, "left": error.detach() / none}


def upsampling_loss(upsampler: Upsampler, frames: Tensor, times: Tensor, draws: Draws) -> Tensor:
    """Mean of ||v_hat - v||^2 over the frames that are not given."""
    with torch.no_grad():
        latents = upsampler.encode(frames)
        told = noisy_conditions(upsampler, frames, latents, times, draws)
    log_snr = cosine_lambda(levels(len(latents), draws.torch, TOP_SHARE))
    sigma = sigma_of(log_snr)
    eps = torch.randn(latents.shape, generator=draws.torch)
    predicted = upsampler.unet(noised(latents, eps, sigma).float(), log_snr.float(), told)
    error = (predicted.float() - v_of(latents, eps, sigma).float()).square()
    free = 1 - told.mask
    return (error * free).mean() / free.mean()


def noisy_conditions(
    upsampler: Upsampler, frames: Tensor, latents: Tensor, times: Tensor, draws: Draws
) -> LowConditions:
    """Low-resolution patches at a random level, and in half of the batches context frames."""
    count, generator = len(frames), draws.torch
    # Squared: what is sampled has little.
    sigma = LOW_SIGMA * torch.rand(count, generator=generator, dtype=torch.float64).square()
    low = reduced(frames, upsampler.config.factor)
    low = noised(low, torch.randn(low.shape, generator=generator), sigma).float()
    fps = 1 / float(times[0, 1] - times[0, 0]) if times.shape[1] > 1 else FPS
    told = upsampler.conditions(low, sigma.float(), times.float(), fps)
    if draws.python.random() >= CONTEXT_SHARE:
        return told
    rough = CONTEXT_SIGMA * torch.rand(count, generator=generator, dtype=torch.float64)
    given = noised(latents, torch.randn(latents.shape, generator=generator), rough)
    return with_context(told, given, upsampler.config.overlap, rough)


def train_enlarger(
    world: LargeWorld, config: UpsamplerConfig, folder: Path, optimisation: RunConfig
) -> None:
    """Train, or continue, the regression: L1 of pixels."""
    torch.manual_seed(0)
    enlarger = channels_last(Enlarger(config.factor, config.enlarger_width, config.enlarger_blocks))

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        count = optimisation.batch // PLACES
        times = torch.tensor([[draws.python.uniform(0, 2)]] * count)
        frames = patches(world, count, times, draws.python, places=PLACES)
        low = reduced(frames, config.factor)
        error = (enlarger(low) - frames).abs().mean()
        return {"loss": error, "left": error.detach() / lacking(frames, config.factor).abs().mean()}

    Run(folder, enlarger, optimisation).train(loss)


def train_autoencoder(
    world: LargeWorld, config: UpsamplerConfig, folder: Path, optimisation: RunConfig
) -> UpsamplerConfig:
    """Train, or continue, the autoencoder; the config comes back with its latents' statistics."""
    torch.manual_seed(0)
    autoencoder = channels_last(Autoencoder(config.autoencoder))
    zeroed(autoencoder.decoder.outlet)  # most of a frame lacks nothing

    def detail(count: int, draw: random.Random) -> Tensor:
        frames = patches(world, count, torch.tensor([[draw.uniform(0, 2)]] * count), draw)
        return config.detail_gain * lacking(frames, config.factor)[:, :, 0]

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        return coding_loss(autoencoder, detail(optimisation.batch, draws.python), draws)

    Run(folder, autoencoder, optimisation).train(loss)
    autoencoder.load_state_dict(averaged(folder))
    with torch.no_grad():
        mean, _ = autoencoder.encoder(detail(128, random.Random("statistics")))
    channels = rearrange(mean, "n c h w -> c (n h w)")
    statistics = replace(
        config.autoencoder,
        latent_mean=tuple(round(value, 5) for value in channels.mean(1).tolist()),
        latent_std=tuple(round(max(value, 1e-3), 5) for value in channels.std(1).tolist()),
    )
    return replace(config, autoencoder=statistics)


def train_network(
    world: LargeWorld,
    config: UpsamplerConfig,
    parts: Path,
    folder: Path,
    optimisation: RunConfig,
) -> Upsampler:
    """Train, or continue, the network in the latents of a trained autoencoder.

    parts  where the runs `enlarger` and `autoencoder` lie
    """
    torch.manual_seed(0)
    upsampler = Upsampler(config)
    for name in ("enlarger", "autoencoder"):
        part = upsampler.get_submodule(name)
        part.load_state_dict(averaged(parts / name))
        part.requires_grad_(False)
    channels_last(upsampler.unet)

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        draw = draws.python
        clips = optimisation.batch // PLACES
        times = clip_times(clips, config.chunk, draw.choice(RATES), draw)
        frames = patches(world, clips, times, draw, places=PLACES)
        times = times.repeat_interleave(PLACES, 0)
        return {"loss": upsampling_loss(upsampler, frames, times, draws)}

    def preview(path: Path) -> None:
        draw = random.Random("preview")
        frames = world.render([world.sample(draw)], clip_times(1, 4, FPS, draw).float(), LARGE_SIDE)
        made = grown(upsampler, frames, 3, 0)
        coarse = enlarged(reduced(frames, config.factor), config.factor)
        write_rows(path, [frames[0], coarse[0], made[0]])

    Run(folder, upsampler.unet, optimisation).train(loss, preview)
    upsampler.unet.load_state_dict(averaged(folder))
    return upsampler.eval()


def grown(upsampler: Upsampler, frames: Tensor, steps: int, seed: int) -> Tensor:
    """Large frames (1, 3, t, H, W) made again from their reductions."""
    low = reduced(frames, upsampler.config.factor)
    return torch.cat(list(upsampler.enlarge([low], FPS, steps, seed)), 2)


@torch.no_grad()
def measured(upsampler: Upsampler, world: LargeWorld, clips: int, side: int) -> dict[str, float]:
    """PSNR over bicubic enlargement in dB, in one step and in three, and of the autoencoder alone.

    flicker_ratio  how much less the error changes from frame to frame than that of bicubic
    """
    factor, draw = upsampler.config.factor, random.Random("upsampling")
    sums = {"bicubic_db": 0.0, "one_step_gain_db": 0.0, "gain_db": 0.0, "ceiling_gain_db": 0.0}
    flicker = {"made": 0.0, "bicubic": 0.0}
    for _ in range(clips):
        times = clip_times(1, upsampler.config.chunk, FPS, draw).float()
        frames = world.render([world.sample(draw)], times, side)
        coarse = enlarged(reduced(frames, factor), factor)
        ceiling = upsampler.decode(upsampler.encode(frames), reduced(frames, factor))
        made = {steps: grown(upsampler, frames, steps, draw.getrandbits(32)) for steps in (1, 3)}
        bicubic = _psnr(coarse, frames)
        sums["bicubic_db"] += bicubic / clips
        sums["one_step_gain_db"] += (_psnr(made[1], frames) - bicubic) / clips
        sums["gain_db"] += (_psnr(made[3], frames) - bicubic) / clips
        sums["ceiling_gain_db"] += (_psnr(ceiling, frames) - bicubic) / clips
        flicker["made"] += float((made[3] - frames).diff(dim=2).square().mean())
        flicker["bicubic"] += float((coarse - frames).diff(dim=2).square().mean())
    return sums | {"flicker_ratio": flicker["made"] / max(flicker["bicubic"], 1e-12)}


def _psnr(clip: Tensor, frames: Tensor) -> float:
    flat = (rearrange(part, "b c t h w -> (b t) c h w") for part in (clip, frames))
    return float(psnr(*flat))


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps of the network.")] = 3000,
    autoencoder_steps: Annotated[int, typer.Option(help="Of the autoencoder before it.")] = 1500,
    enlarger_steps: Annotated[int, typer.Option(help="Of the regression before both.")] = 2000,
    folder: Annotated[Path, typer.Option(help="Where the runs live.")] = Path("runs/upsampler"),
    preset: Annotated[Path, typer.Option(help="Preset folder to write.")] = Path("models/pocket"),
    batch: Annotated[int, typer.Option(min=PLACES, help="Patches a step.")] = 8,
    learning_rate: float = 2e-3,
    clips: Annotated[int, typer.Option(help="Held-out clips to measure on.")] = 20,
) -> None:
    """Train, or continue, spatial upsampling."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing
    sheet = open_sheet()
    world = LargeWorld(sheet, WorldConfig(two_subjects_share=0.3))
    estimating = RunConfig(enlarger_steps, 2 * batch, learning_rate, warmup=50, ema_decay=0.995)
    train_enlarger(world, UpsamplerConfig(), folder / "enlarger", estimating)
    coding = RunConfig(autoencoder_steps, 3 * batch, learning_rate, warmup=50, ema_decay=0.995)
    config = train_autoencoder(world, UpsamplerConfig(), folder / "autoencoder", coding)
    optimisation = RunConfig(steps, batch, learning_rate, warmup=50, ema_decay=0.998)
    upsampler = train_network(world, config, folder, folder / "network", optimisation)
    held_out = LargeWorld(sheet, WorldConfig(concepts=tuple(sorted(HELD_OUT))))
    write_scores(folder, measured(upsampler, held_out, clips, LARGE_SIDE))
    publish(preset, "upsampler", upsampler, upsampler.config)


if __name__ == "__main__":
    typer.run(main)
