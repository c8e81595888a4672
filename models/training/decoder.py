"""Trains the temporal decoder: `python -m models.training.decoder --steps N`.

Encoder and image decoder stay frozen. Clips are decoded from latents roughened frame by frame, as
generated ones are, towards the true frames and towards their changes in time. Ends by measuring
flicker against the image decoder. No discriminator: with so few layers a regression suffices.

Differs: Video LDM (arXiv:2304.08818, section 3.1.1) trains with a video discriminator besides.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from einops import rearrange
from torch import Tensor

from models.training.autoencoder import psnr, reconstruction
from models.training.concepts import HELD_OUT
from models.training.flow import Flow, known_flow
from models.training.loop import Draws, Run, RunConfig, averaged
from models.training.sprites import open_sheet
from models.training.stages import (
    clip_times,
    open_autoencoder,
    publish,
    sampled_states,
    write_rows,
    write_scores,
)
from models.training.world import World, WorldConfig
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import TemporalDecoderConfig
from models.videoldm.temporal import TemporalDecoder

FRAMES = 10  # of a training clip; more than a frame's neighbourhood within the first layers
RATES = (8.0, 12.0, 24.0, 24.0)  # frames a second
ROUGHNESS = 0.12  # most noise on a training latent, in standard deviations
MEASURED_ROUGHNESS = 0.08
CHANGE_WEIGHT = 3.0  # of the error of changes in time: steadiness is what this decoder is for


def decoding_loss(
    decoder: TemporalDecoder, autoencoder: Autoencoder, frames: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """L1 of pixels, of their gradients, and of their changes from frame to frame."""
    with torch.no_grad():
        latents = autoencoder.encode(frames)
    rough = ROUGHNESS * torch.rand((len(latents), 1, 1, 1, 1), generator=generator)
    latents = latents + rough * torch.randn(latents.shape, generator=generator)
    error = decoder(autoencoder, latents).float() - frames
    change = error.diff(dim=2).abs().mean()
    pixels = reconstruction(error, torch.zeros_like(error))
    return {"loss": pixels + CHANGE_WEIGHT * change, "change": change}


@torch.no_grad()
def measured(
    decoder: TemporalDecoder, autoencoder: Autoencoder, world: World, clips: int
) -> dict[str, float]:
    """Flicker of both decoders on roughened latents of clips at 24 frames a second.

    Flicker is the warp error, along the true motion, of what decoding did to the frames: what
    changes in time and is neither motion nor in the truth. What coding loses of a subject moves
    with it; that is softness, and counts in PSNR.

    flicker_ratio     temporal over image decoder, at noise .08; below 1 is steadier
    warp_error_ratio  the same of the decoded frames themselves, as the literature has it
    change_ratio      the same of the error's change at each pixel, moving or not
    gain_db           PSNR of the temporal over the image decoder, on clean latents
    """
    made: list[dict[str, float]] = []
    image: list[dict[str, float]] = []
    gains = []
    draw = random.Random("flicker")
    generator = torch.Generator().manual_seed(5)
    for _ in range(clips):
        state, times = world.sample(draw), clip_times(1, 24, 24.0, draw)
        frames, flow = world.render([state], times.float()), known_flow(world, state, times[0])
        latents = autoencoder.encode(frames)
        rough = latents + MEASURED_ROUGHNESS * torch.randn(latents.shape, generator=generator)
        made.append(_unsteadiness(decoder(autoencoder, rough), frames, flow))
        image.append(_unsteadiness(autoencoder.decode(rough), frames, flow))
        pair = (decoder(autoencoder, latents), autoencoder.decode(latents))
        gains.append(psnr(_flat(pair[0]), _flat(frames)) - psnr(_flat(pair[1]), _flat(frames)))
    ratios = {
        name: sum(row[name] for row in made) / sum(row[name] for row in image) for name in made[0]
    }
    return ratios | {"gain_db": float(torch.stack(gains).mean())}


def _unsteadiness(decoded: Tensor, frames: Tensor, flow: Flow) -> dict[str, float]:
    error = decoded - frames
    return {
        "flicker_ratio": flow.warp_error(error[0]),
        "warp_error_ratio": flow.warp_error(decoded[0]),
        "change_ratio": float(error.diff(dim=2).square().mean()),
    }


def _flat(clip: Tensor) -> Tensor:
    return rearrange(clip, "b c t h w -> (b t) c h w")


def train(
    world: World,
    autoencoder: Autoencoder,
    config: TemporalDecoderConfig,
    folder: Path,
    optimisation: RunConfig,
) -> TemporalDecoder:
    """Train, or continue, the stage in its folder."""
    torch.manual_seed(0)
    decoder = TemporalDecoder(config, autoencoder.config)

    def clips(count: int, draw: random.Random) -> Tensor:
        times = clip_times(count, FRAMES, draw.choice(RATES), draw)
        return world.render(sampled_states(world, count, draw), times.float())

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        frames = clips(optimisation.batch, draws.python)
        return decoding_loss(decoder, autoencoder, frames, draws.torch)

    def preview(path: Path) -> None:
        frames = clips(4, random.Random("preview"))
        latents = autoencoder.encode(frames)
        rough = latents + MEASURED_ROUGHNESS * torch.randn_like(latents)
        made, image = decoder(autoencoder, rough), autoencoder.decode(rough)
        write_rows(path, [row for rows in zip(frames, image, made, strict=True) for row in rows])

    Run(folder, decoder, optimisation).train(loss, preview)
    decoder.load_state_dict(averaged(folder))
    return decoder.eval()


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 1500,
    folder: Annotated[Path, typer.Option(help="Where the run lives.")] = Path("runs/decoder"),
    preset: Annotated[Path, typer.Option(help="Preset folder to write.")] = Path("models/pocket"),
    batch: int = 4,
    learning_rate: float = 1e-3,
    clips: Annotated[int, typer.Option(help="Held-out clips to measure on.")] = 40,
) -> None:
    """Train, or continue, the temporal decoder."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing
    sheet, autoencoder = open_sheet(), open_autoencoder(preset)
    world = World(sheet, WorldConfig(pan_share=0.15, two_subjects_share=0.15))
    optimisation = RunConfig(steps, batch, learning_rate, warmup=50, ema_decay=0.995)
    decoder = train(world, autoencoder, TemporalDecoderConfig(), folder, optimisation)
    held_out = World(sheet, replace(world.config, concepts=tuple(sorted(HELD_OUT))))
    write_scores(folder, measured(decoder, autoencoder, held_out, clips))
    publish(preset, "decoder", decoder, decoder.config)


if __name__ == "__main__":
    typer.run(main)
