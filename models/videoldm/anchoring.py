"""Made frames between given ones, brought to these in detail.

An autoencoder loses detail, so made frames would look softer than the given ones between them. What
the decoded given frames lack is therefore carried to the made frames, along the motion: for every
place in a made frame the like place in the decoded neighbour is sought, as video codecs do that
compensate for motion. Carried without, details would stand where things were before.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

SEARCH_SIDE = 64  # pixels of the shorter side of frames in which motion is sought
REACH = 3  # pixels of such frames that things may move, in each direction
NEIGHBOURHOOD = 3  # pixels around a place that must be alike
FARNESS = 1e-4  # error that a pixel of motion counts as: what is alike anywhere rests

Given = Callable[[float], Tensor | None]


def anchored(
    frames: Iterable[tuple[float, Tensor]], given: Given
) -> Iterator[tuple[float, Tensor]]:
    """Made frames brought to those that are given: what these differ by, blended over the gap.

    frames  rising times and (1, 3, 1, H, W), the first and last at times of given frames
    given   time -> the given frame there, if there is one; it is what comes out
    """
    waiting: list[tuple[float, Tensor]] = []
    begun, before = 0.0, torch.zeros(())
    detail = torch.zeros(())
    for time, frame in frames:
        own = given(time)
        if own is None:
            waiting.append((time, frame))
            continue
        lacking = own - frame
        for inner, made in waiting:
            share = (inner - begun) / (time - begun)
            pair = (carried(detail, before, made), carried(lacking, frame, made))
            yield inner, (made + torch.lerp(*pair, share)).clamp(-1, 1)
        yield time, own
        waiting, begun, before, detail = [], time, frame, lacking


def carried(detail: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Detail of a source frame where things are in a target frame.

    detail, source, target  (1, 3, 1, H, W); so is the result
    """
    down, across = displacements(source[:, :, 0], target[:, :, 0])
    high, wide = detail.shape[-2:]
    rows = torch.arange(high, device=detail.device)[:, None] + down
    columns = torch.arange(wide, device=detail.device) + across
    return detail[..., rows.clamp(0, high - 1), columns.clamp(0, wide - 1)]


def displacements(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where each place of a target frame is found in a source frame: rows down, columns across.

    Block matching on frames reduced to SEARCH_SIDE: the least mean square over a neighbourhood.

    source, target  (1, 3, H, W)
    returns         (H, W) whole pixels each, at most REACH pixels of the reduced frames
    """
    high, wide = source.shape[-2:]
    step = max(1, min(high, wide) // SEARCH_SIDE)
    side = (-(-high // step), -(-wide // step))
    small, wanted = (functional.interpolate(x, side, mode="area") for x in (source, target))
    padded = functional.pad(small, (REACH,) * 4, mode="replicate")
    moves = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    moved = torch.cat(
        [
            padded[..., REACH + y : REACH + y + side[0], REACH + x : REACH + x + side[1]]
            for y, x in moves
        ]
    )
    farness = FARNESS * torch.tensor(moves, device=source.device).float().norm(dim=1)
    error = _smoothed((moved - wanted).square().mean(1, keepdim=True))[:, 0]
    best = (error + rearrange(farness, "n -> n 1 1")).argmin(0)
    found = torch.tensor(moves, device=source.device)[best] * step
    whole = found.repeat_interleave(step, 0).repeat_interleave(step, 1)[:high, :wide]
    return whole[..., 0], whole[..., 1]


def _smoothed(error: Tensor) -> Tensor:
    """The mean over each place's neighbourhood: (n, 1, h, w)."""
    padded = functional.pad(error, (NEIGHBOURHOOD,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * NEIGHBOURHOOD + 1, 1)
