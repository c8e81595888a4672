"""Rendered clips of the evaluation's own prompts: what a perfect model would show."""

import random
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange

from models.evaluation.prompts import Prompt
from models.protocol import Frames
from models.training.world import ClipState, Script, World


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
