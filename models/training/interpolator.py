"""Trains temporal interpolation: `python -m models.training.interpolator --steps N`.

Windows of two keys and what lies between, rendered at exact times: gaps of the base's rates, of
uploaded clips and of a second pass, filled at their quarters or anywhere. Ends by measuring what it
gains over a linear blend of the same keys, on subjects it has never seen.
"""

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from einops import rearrange
from torch import Tensor

from models.training.autoencoder import psnr
from models.training.concepts import HELD_OUT
from models.training.loop import Draws, Run, RunConfig, averaged, channels_last
from models.training.sprites import open_sheet
from models.training.stages import (
    levels,
    open_autoencoder,
    publish,
    sampled_states,
    write_rows,
    write_scores,
)
from models.training.world import CLIP_SECONDS, World, WorldConfig
from models.videoldm.anchoring import anchored
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import InterpolatorConfig
from models.videoldm.diffusion import cosine_lambda, noised, sigma_of, v_of
from models.videoldm.interpolation import (
    Interpolator,
    dense_times,
    interpolated,
    residual,
    window_conditions,
)
from models.videoldm.unet import UNet

KEY_GAPS_S, KEY_SHARE = (1 / 6, 1 / 8), 0.7  # of the base, and of how many windows
GAPS_S = (1 / 60, 1 / 2)  # any other gap
QUARTERS_SHARE = 0.8  # of batches are filled at the quarters of their gaps
TOP_SHARE = 0.15  # of samples begin at pure noise, where few-step sampling spends its calls
KEY_FPS = 6  # of the measurement
KEYS = 7


@dataclass(frozen=True)
class WindowMaker:
    """Makes batches of windows."""

    world: World
    autoencoder: Autoencoder
    infill: int

    def batch(self, count: int, draw: random.Random) -> tuple[Tensor, Tensor]:
        """Latents (count, c, t, h, w) and times (count, t) of windows, keys first and last."""
        states = sampled_states(self.world, count, draw)
        times = self._times(count, draw)
        with torch.no_grad():
            return self.autoencoder.encode(self.world.render(states, times.float())), times

    def _times(self, count: int, draw: random.Random) -> Tensor:
        quarters = draw.random() < QUARTERS_SHARE
        inner = self.infill if quarters else draw.randint(1, self.infill)
        rows = []
        for _ in range(count):
            gap = self._gap(draw)
            start = draw.uniform(0, CLIP_SECONDS - gap)
            places = [part / (inner + 1) for part in range(inner + 2)]
            if not quarters:
                # Drawn within even shares of the gap, so that no two lie at one time.
                places[1:-1] = [(part + draw.uniform(0.05, 0.95)) / inner for part in range(inner)]
            rows.append([start + gap * place for place in places])
        return torch.tensor(rows, dtype=torch.float64)

    @staticmethod
    def _gap(draw: random.Random) -> float:
        if draw.random() < KEY_SHARE:
            return draw.choice(KEY_GAPS_S)
        low, high = (math.log(gap) for gap in GAPS_S)
        return math.exp(draw.uniform(low, high))


def window_loss(
    unet: UNet, config: InterpolatorConfig, latents: Tensor, times: Tensor, draws: Draws
) -> Tensor:
    """Mean of ||v_hat - v||^2 over the frames between the keys."""
    log_snr = cosine_lambda(levels(len(latents), draws.torch, TOP_SHARE))
    sigma = sigma_of(log_snr)
    eps = torch.randn(latents.shape, generator=draws.torch)
    told, clean = window_conditions(times, latents, config), residual(times, latents, config)
    predicted = unet(noised(clean, eps, sigma).float(), log_snr.float(), told)
    error = (predicted.float() - v_of(clean, eps, sigma).float()).square()
    return error[:, :, 1:-1].mean()


@torch.no_grad()
def measured(
    stage: Interpolator, world: World, autoencoder: Autoencoder, clips: int
) -> dict[str, float]:
    """What it gains over blending the keys, in dB on frames between them.

    gain_db         as the service interpolates clips: own keys, their detail carried over
    latent_gain_db  decoded latents against the autoencoder's round trip of the true frames
    """
    scores: dict[str, list[float]] = {"gain_db": [], "blend_db": [], "latent_gain_db": []}
    draw = random.Random("interpolation")
    key_times = [index / KEY_FPS for index in range(KEYS)]
    times = dense_times(key_times)
    inner = [index for index in range(len(times)) if index % 4]
    share = torch.tensor([index % 4 / 4 for index in inner]).view(-1, 1, 1, 1)
    for _ in range(clips):
        truth = world.render([world.sample(draw)], torch.tensor([times]))
        latents = autoencoder.encode(truth)
        made = interpolated(stage, latents[:, :, ::4], key_times, times, seed=draw.getrandbits(32))
        drawn, round_trip = autoencoder.decode(made), autoencoder.decode(latents)
        frames = {time: truth[:, :, index * 4, None] for index, time in enumerate(times[::4])}
        served = torch.cat(
            [
                frame
                for _, frame in anchored(zip(times, drawn.split(1, 2), strict=True), frames.get)
            ],
            2,
        )
        result = {
            name: psnr(_inner(clip, inner), _inner(true, inner)).item()
            for name, clip, true in (("served", served, truth), ("drawn", drawn, round_trip))
        }
        blends = {
            name: psnr(_blend(clip[:, :, ::4], share), _inner(clip, inner)).item()
            for name, clip in (("true", truth), ("decoded", round_trip))
        }
        scores["gain_db"].append(result["served"] - blends["true"])
        scores["blend_db"].append(blends["true"])
        scores["latent_gain_db"].append(result["drawn"] - blends["decoded"])
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _inner(clip: Tensor, places: list[int]) -> Tensor:
    return rearrange(clip[:, :, places], "1 c t h w -> t c h w")


def _blend(keys: Tensor, share: Tensor) -> Tensor:
    """Frames between keys (1, 3, k, H, W) by linear blending: (3 (k - 1), 3, H, W)."""
    frames = rearrange(keys, "1 c k h w -> k c h w")
    left, right = (part.repeat_interleave(3, 0) for part in (frames[:-1], frames[1:]))
    return torch.lerp(left, right, share)


def train(
    world: World,
    autoencoder: Autoencoder,
    config: InterpolatorConfig,
    folder: Path,
    optimisation: RunConfig,
    begin: Path | None = None,
) -> Interpolator:
    """Train, or continue, the stage in its folder; a new one may begin with another's weights."""
    torch.manual_seed(0)
    unet = channels_last(UNet(config.unet))
    if begin is not None:
        unet.load_state_dict(averaged(begin))
    maker = WindowMaker(world, autoencoder, config.infill)

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        latents, times = maker.batch(optimisation.batch, draws.python)
        return {"loss": window_loss(unet, config, latents, times, draws)}

    def preview(path: Path) -> None:
        truth, made = _shown(Interpolator(config, unet), world, autoencoder)
        write_rows(path, [row for pair in zip(truth, made, strict=True) for row in pair])

    Run(folder, unet, optimisation).train(loss, preview)
    unet.load_state_dict(averaged(folder))
    return Interpolator(config, unet.eval())


def _shown(stage: Interpolator, world: World, autoencoder: Autoencoder) -> tuple[Tensor, Tensor]:
    """True and made frames of four clips, two gaps each: (4, 3, 9, H, W)."""
    draw = random.Random("preview")
    key_times = [index / KEY_FPS for index in range(3)]
    times = dense_times(key_times)
    truth = world.render(sampled_states(world, 4, draw), torch.tensor([times] * 4))
    latents = autoencoder.encode(truth)[:, :, ::4]
    made = [interpolated(stage, row[None], key_times, times) for row in latents]
    return truth, autoencoder.decode(torch.cat(made))


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    folder: Annotated[Path, typer.Option(help="Where the run lives.")] = Path("runs/interpolator"),
    preset: Annotated[Path, typer.Option(help="Preset folder to write.")] = Path("models/pocket"),
    batch: int = 24,
    learning_rate: float = 2e-3,
    clips: Annotated[int, typer.Option(help="Held-out clips to measure on.")] = 40,
    begin: Annotated[Path | None, typer.Option(help="A run whose weights to begin with.")] = None,
) -> None:
    """Train, or continue, temporal interpolation."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing
    sheet, autoencoder = open_sheet(), open_autoencoder(preset)
    world = World(sheet, WorldConfig(pan_share=0.15, two_subjects_share=0.15))
    optimisation = RunConfig(steps, batch, learning_rate, warmup=50, ema_decay=0.998)
    stage = train(world, autoencoder, InterpolatorConfig(), folder, optimisation, begin)
    # Where nothing moves a blend is exact, and there is nothing to gain.
    moving = replace(world.config, concepts=tuple(sorted(HELD_OUT)), direction_share=1.0)
    held_out = World(sheet, moving)
    write_scores(folder, measured(stage, held_out, autoencoder, clips))
    publish(preset, "interpolator", stage.unet, stage.config)


if __name__ == "__main__":
    typer.run(main)
