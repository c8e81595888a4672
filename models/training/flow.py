"""Where everything in a clip of the world was a frame before: flow without estimate.

What a frame shows is carried back by the maps that drew it, so a change that is no motion can be
told from one that is.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from models.training.world import Actor, ClipState, World, placement

SURE = 0.95  # of coverage; a cut-out's soft rim belongs to two layers and moves as neither


@dataclass(frozen=True)
class Flow:
    """From each frame of a clip but the first to the one before it."""

    places: Tensor  # (t - 1, side, side, 2) in -1..1, x first, as `grid_sample` takes them
    known: Tensor  # (t - 1, side, side) bool: the same layer alone is seen at both ends

    def carried(self, clip: Tensor) -> Tensor:
        """Frames as they would look a frame later: (c, t, h, w) -> (t - 1, c, h, w), bilinear.

        Holds only where `known`.
        """
        frames = rearrange(clip[:, :-1], "c t h w -> t c h w")
        return functional.grid_sample(
            frames, self.places, padding_mode="border", align_corners=False
        )

    def warp_error(self, clip: Tensor) -> float:
        """Mean square of what changes along the motion, over known places. clip (c, t, h, w)

        Lai et al. 2018 (arXiv:1808.00449), equation 10, with the true flow.
        """
        later = rearrange(clip[:, 1:], "c t h w -> t c h w")
        change = (later - self.carried(clip)).square().mean(1)
        return float(change[self.known].mean())


def known_flow(world: World, state: ClipState, times: Tensor, side: int = 64) -> Flow:
    """The flow of a clip. times (t,) seconds"""
    layers, sure = _layers(world, state, times, side)
    places = _still(side).repeat(len(times) - 1, 1, 1, 1)
    shift = 2 * state.pan[0] * times.diff().float()
    places[..., 0] += rearrange(shift, "t -> t 1 1")
    for index, actor in enumerate(state.actors, start=1):
        own = layers[1:] == index
        places[own] = _moved(actor, times, side)[own]
    return Flow(places, _known(layers, sure, places))


def _layers(world: World, state: ClipState, times: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The uppermost layer at each pixel, 0 for the scene, and whether it alone is seen there."""
    layers = torch.zeros(len(times), side, side, dtype=torch.long)
    sure = torch.ones(len(times), side, side, dtype=torch.bool)
    for index, actor in enumerate(state.actors, start=1):
        cover = world.coverage(actor, times.float(), side)
        layers[cover > 0.5] = index
        sure = (sure & (cover < 1 - SURE)) | (cover > SURE)
    return layers, sure


def _known(layers: Tensor, sure: Tensor, places: Tensor) -> Tensor:
    before = torch.stack([layers[:-1].float(), (~sure[:-1]).float()], 1)
    nearest = functional.grid_sample(before, places, mode="nearest", align_corners=False)
    doubt = functional.grid_sample(before[:, 1:], places, align_corners=False)[:, 0]
    inside = (places.abs() <= 1 - 1 / layers.shape[-1]).all(-1)
    return inside & sure[1:] & (doubt == 0) & (nearest[:, 0] == layers[1:])


def _still(side: int) -> Tensor:
    """(1, side, side, 2)"""
    return functional.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)


def _moved(actor: Actor, times: Tensor, side: int) -> Tensor:
    """Where the actor's pixels were: (t - 1, side, side, 2)."""
    to_cutout = placement(actor, times.float())
    at_cutout = functional.affine_grid(
        to_cutout[1:], [len(times) - 1, 1, side, side], align_corners=False
    )
    before = to_cutout[:-1]
    apart = at_cutout - rearrange(before[:, :, 2], "t x -> t 1 1 x")
    return torch.einsum("txy,thwy->thwx", torch.linalg.inv(before[:, :, :2]), apart)
