"""Rendered clips of the evaluation's own prompts: what a perfect model would show."""

import random
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import torch
from einops import rearrange

from models.evaluation.prompts import Prompt
from models.protocol import Frames
from models.training.world import FAST, SLOW, ClipState, World, WorldConfig


def truths(world: World, prompts: Sequence[Prompt], frames: int, fps: int) -> Iterator[Frames]:
    """One clip per prompt, (frames, 64, 64, 3) uint8, drawn from the prompt's seed."""
    clock = torch.arange(frames)[None] / fps
    for prompt in prompts:
        clip = world.render([state_of(world, prompt)], clock)[0]
        pixels = ((clip + 1) * 127.5).round().clamp(0, 255).byte()
        yield rearrange(pixels, "c t h w -> t h w c").contiguous().numpy()


def state_of(world: World, prompt: Prompt) -> ClipState:
    """A random clip that shows exactly what the prompt says."""
    draw = random.Random(f"truth:{prompt.seed}")
    still = prompt.motion == "still"
    config = WorldConfig(
        (prompt.concept,), direction_share=0.0 if still else 1.0, still_share=float(still)
    )
    chosen = _with(world, config).sample(draw)
    speed = 0.0 if still else (FAST if prompt.fast else SLOW) * draw.uniform(0.9, 1.1)
    actor = replace(chosen.subject, motion=prompt.motion, speed=speed)
    return replace(chosen, actors=(actor,), scene=prompt.scene)


def _with(world: World, config: WorldConfig) -> World:
    """The same cut-outs and textures under another config."""
    other = copy(world)
    other.config = config
    return other
