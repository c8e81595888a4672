"""Trains the per-frame autoencoder: `python -m models.training.autoencoder --steps N`.

L1 in pixels and in their gradients, plus a small KL term, on frames of the world and on cut-outs
alone. Ends by measuring the latents' statistics and the error on held-out concepts.

`--latent-noise 0.3` then goes on with the decoder alone, on latents disturbed by up to so many
deviations: a sampler's latents are never quite the encoder's, and a decoder that has seen no others
turns small errors into dots. The encoder, and with it every latent, stays as it is.
"""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.training.concepts import HELD_OUT
from models.training.loop import Ahead, Draws, Run, RunConfig, averaged, channels_last
from models.training.sprites import open_sheet
from models.training.world import World, WorldConfig
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import AutoencoderConfig, VideoLDMConfig, read_config, write_config

KL_WEIGHT = 1e-5
WORLD = WorldConfig(two_subjects_share=0.3, direction_share=0.5, still_share=0.3)


def frames_of(world: World, count: int, draw: random.Random) -> Tensor:
    """Single frames of random clips: (count, 3, 64, 64) in -1..1."""
    states = [world.sample(draw) for _ in range(count)]
    times = torch.tensor([[draw.uniform(0, 2)] for _ in states])
    return world.render(states, times)[:, :, 0]


def reconstruction(decoded: Tensor, frames: Tensor) -> Tensor:
    """L1 of pixels plus L1 of their differences to the right and lower neighbour."""
    error = decoded - frames
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + 0.5 * (across.abs().mean() + down.abs().mean())


def loss_of(
    autoencoder: Autoencoder, world: World, batch: int, latent_noise: float = 0
) -> Callable[..., dict[str, Tensor]]:
    """The stage's loss as the loop wants it."""

    ahead = Ahead(lambda draws: frames_of(world, batch, draws.python))

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        frames = ahead.take(step).to(memory_format=torch.channels_last)
        mean, log_variance = autoencoder.encoder(frames)
        deviation = (0.5 * log_variance).exp()
        if latent_noise:
            level = latent_noise * torch.rand(len(frames), 1, 1, 1, generator=draws.torch)
            deviation = torch.hypot(deviation, level * autoencoder.std)
        noise = torch.randn(mean.shape, generator=draws.torch)
        decoded = autoencoder.decoder(mean + noise * deviation)
        pixels = reconstruction(decoded, frames)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).float().mean()
        return {
            "loss": pixels + KL_WEIGHT * kl,
            "kl": kl,
            "psnr": psnr(decoded.detach().float().clamp(-1, 1), frames),
        }

    return loss


def psnr(decoded: Tensor, frames: Tensor) -> Tensor:
    """Mean over frames of the peak signal-to-noise ratio in dB; both in -1..1."""
    error = (decoded - frames).square().flatten(1).mean(1)
    return (10 * torch.log10(4 / error.clamp_min(1e-10))).mean()


def measured(autoencoder: Autoencoder, world: World) -> AutoencoderConfig:
    """The config with the latents' mean and deviation per channel over 1,024 frames."""
    with torch.no_grad():
        mean, _ = autoencoder.encoder(frames_of(world, 1024, random.Random("statistics")))
    per_channel = mean.transpose(0, 1).flatten(1)
    return replace(
        autoencoder.config,
        latent_mean=tuple(round(value, 5) for value in per_channel.mean(1).tolist()),
        latent_std=tuple(round(value, 5) for value in per_channel.std(1).tolist()),
    )


def opened(preset: Path, latent_noise: float) -> Autoencoder:
    """A fresh autoencoder; the preset's own, with its encoder frozen, if the decoder goes on."""
    if not latent_noise:
        torch.manual_seed(0)
        return channels_last(Autoencoder(AutoencoderConfig()))
    autoencoder = Autoencoder(read_config(preset / "config.json").autoencoder)
    autoencoder.load_state_dict(load_file(preset / "autoencoder.safetensors"))
    autoencoder.encoder.requires_grad_(False)
    return channels_last(autoencoder)


def drawing(autoencoder: Autoencoder, frames: Tensor) -> Callable[[Path], None]:
    """Draws sixteen frames above their reconstructions, in two rows of eight each."""

    def draw(path: Path) -> None:
        decoded = autoencoder.decoder(autoencoder.encoder(frames[:16])[0]).clamp(-1, 1)
        pairs = torch.cat([frames[:16], decoded]).unflatten(0, (4, 8))
        sheet_of = pairs.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
        pixels = ((sheet_of + 1) * 127.5).round().byte().numpy()
        Image.fromarray(pixels).resize((1024, 512), Image.Resampling.NEAREST).save(path)

    return draw


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 4000,
    folder: Annotated[Path, typer.Option(help="Where the run lives.")] = Path("runs/autoencoder"),
    preset: Annotated[Path, typer.Option(help="Preset folder to write.")] = Path("models/pocket"),
    batch: int = 32,
    learning_rate: float = 2e-3,
    latent_noise: Annotated[
        float, typer.Option(help="Train the decoder alone, on latents with noise up to this.")
    ] = 0,
) -> None:
    """Train, or continue, the autoencoder stage."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing
    sheet = open_sheet()
    world = World(sheet, WORLD)
    held_out = World(sheet, replace(WORLD, concepts=tuple(sorted(HELD_OUT))))
    autoencoder = opened(preset, latent_noise)
    run = Run(folder, autoencoder, RunConfig(steps, batch, learning_rate))
    frames = frames_of(held_out, 64, random.Random("held out"))
    run.train(loss_of(autoencoder, world, batch, latent_noise), drawing(autoencoder, frames))
    autoencoder.load_state_dict(averaged(folder))
    if not latent_noise:
        statistics = measured(autoencoder, world)
        write_config(VideoLDMConfig(autoencoder=statistics), preset / "config.json")
    publish(autoencoder, preset)
    with torch.no_grad():
        decoded = autoencoder.decoder(autoencoder.encoder(frames)[0]).clamp(-1, 1)
    scores = {
        "held_out_psnr_db": round(float(psnr(decoded, frames)), 2),
        "seconds": round(run.seconds),
    }
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def publish(autoencoder: Autoencoder, preset: Path) -> None:
    """Write the weights into the preset."""
    weights = {name: value.contiguous() for name, value in autoencoder.state_dict().items()}
    save_file(weights, preset / "autoencoder.safetensors")


if __name__ == "__main__":
    typer.run(main)
