"""Rendered clips whose truth is known, sharp or as a model's decoder would show them."""

import random
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor

from models.evaluation.prompts import Prompt
from models.protocol import Frames
from models.training.world import ClipState, Script, World
from models.videoldm.autoencoder import Autoencoder


def truths(world: World, prompts: Sequence[Prompt], frames: int, fps: int) -> Iterator[Frames]:
    """One clip per prompt, (frames, 64, 64, 3) uint8, drawn from the prompt's seed."""
    clock = torch.arange(frames)[None] / fps
    for prompt in prompts:
        clip = world.render([state_of(world, prompt)], clock)[0]
        pixels = ((clip + 1) * 127.5).round().clamp(0, 255).byte()
        yield rearrange(pixels, "c t h w -> t h w c").contiguous().numpy()


def state_of(world: World, prompt: Prompt) -> ClipState:
    """A random clip that shows exactly what the prompt says."""
    script = Script(prompt.concept, prompt.motion, prompt.fast, prompt.scene)
    return world.sample(random.Random(f"truth:{prompt.seed}"), script)


@torch.no_grad()
def decoded(autoencoder: Autoencoder, clips: Tensor) -> Tensor:
    """Clips through encoder and decoder: (b, 3, T, H, W) float32 in 0..1 both ways."""
    weight = next(autoencoder.parameters())
    again = autoencoder.decode(autoencoder.encode((clips * 2 - 1).to(weight)))
    return (again.float().cpu() * 0.5 + 0.5).clamp(0, 1)


def round_trip(autoencoder: Autoencoder, frames: Frames) -> Frames:
    """A clip through encoder and decoder: (T, H, W, 3) uint8 both ways."""
    clip = rearrange(torch.from_numpy(frames).float() / 255, "t h w c -> 1 c t h w")
    pixels = (decoded(autoencoder, clip) * 255).round().byte()
    return rearrange(pixels, "1 c t h w -> t h w c").contiguous().numpy()
