"""The world at four times the size: clips from the full cut-outs, and patches of them.

Cut-outs are packed at 96 pixels; a large frame shows them at 107 to 159, so their edges and
drawing are what an enlargement of the small frame lacks. Backgrounds have no more detail than in
small frames.
"""

import random

import torch
from einops import rearrange
from torch import Tensor

from models.training.sprites import FPS
from models.training.stages import sampled_states
from models.training.world import Actor, World

LARGE_SIDE = 256  # pixels
PATCH_SIDE = 128


class LargeWorld(World):
    """A world drawn from full cut-outs."""

    def _cutout(self, actor: Actor, clock: Tensor) -> Tensor:
        """The animation's frames at the given times: (t, 4, 96, 96), premultiplied, 0..1."""
        sprite = self.sheet.sprites[actor.sprite]
        index = ((clock + actor.phase) * FPS).round().long() % sprite.count + sprite.start
        frames = torch.from_numpy(self.sheet.frames[index.numpy()])
        return rearrange(frames, "t h w c -> t c h w").float() / 255


def patches(
    world: World,
    count: int,
    times: Tensor,
    draw: random.Random,
    side: int = LARGE_SIDE,
    patch: int = PATCH_SIDE,
    places: int = 1,
) -> Tensor:
    """Patches of random large clips, at some places of each, in steps of eight pixels.

    times    (count, t) seconds
    returns  (count * places, 3, t, patch, patch) in -1..1, those of a clip together
    """
    cut = []
    for state, clock in zip(sampled_states(world, count, draw), times, strict=True):
        frames = world.render([state], clock[None].float(), side)
        for _ in range(places):
            top, left = (8 * draw.randint(0, (side - patch) // 8) for _ in range(2))
            cut.append(frames[..., top : top + patch, left : left + patch])
    return torch.cat(cut)
