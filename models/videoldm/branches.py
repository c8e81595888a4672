"""What the network is told at each denoising step and in each branch of guidance.

First and last frames stay in every branch, the last one for its share of the steps only
(PixelDance, arXiv:2311.10982, section 3.4); context and references are the guided images. No
prediction is made here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.videoldm.conditioning import Conditions, Kind
from models.videoldm.guidance import FULL, IMAGES, NULL, Branch

LAST = (Kind.LAST, Kind.SKETCH)


@dataclass(frozen=True)
class Told:
    """Conditions by step and branch."""

    early: dict[Branch, Conditions]  # while the last frame is seen
    late: dict[Branch, Conditions]
    last_steps: int  # steps that see it

    def at(self, step: int, branch: Branch) -> Conditions:
        """What the network is told at this step in this branch."""
        return (self.early if step < self.last_steps else self.late)[branch]

    def restarts(self, steps: int) -> tuple[int, ...]:
        """The step where the conditions change, if any does."""
        changes = self.early is not self.late and 0 < self.last_steps < steps
        return (self.last_steps,) if changes else ()

    @property
    def guides_images(self) -> bool:
        """Whether there are images to guide by: context, or references in use."""
        full = self.early[FULL]
        used = full.reference_mask is not None and bool(full.reference_mask.any())
        return used or bool(full.gives((Kind.CONTEXT,)).any())


def tell(
    conditions: Conditions, negative: tuple[Tensor, Tensor], last_steps: int, dtype: torch.dtype
) -> Told:
    """Every branch of what a clip is made from.

    negative    text (1, l, d) and mask (1, l) that stand in for no text
    last_steps  denoising steps that see the last frame
    """
    early = _branches(conditions.to(dtype), negative)
    if not conditions.gives(LAST).any():
        return Told(early, early, 0)
    late = _branches(conditions.without_frames(LAST).to(dtype), negative)
    return Told(early, late, last_steps)


@dataclass(frozen=True)
class Known:
    """Given frames that pull by reconstruction guidance, the network being told none of them."""

    frames: Tensor  # (1, c, t, h, w) clean latents
    early: Tensor  # (1, 1, t, h, w) 1 at given frames, while the last frame is seen
    late: Tensor
    last_steps: int

    def mask(self, step: int) -> Tensor:
        """1 at the frames that are given at this step."""
        return self.early if step < self.last_steps else self.late


def untold(conditions: Conditions, last_steps: int) -> tuple[Conditions, Known]:
    """Move the given frames out of the conditions, for networks not trained on them.

    conditions  with clean given frames
    """
    later = conditions.without_frames(LAST)
    known = Known(conditions.frames, conditions.mask, later.mask, last_steps)
    return conditions.without_frames(tuple(Kind)), known


def _branches(told: Conditions, negative: tuple[Tensor, Tensor]) -> dict[Branch, Conditions]:
    text, mask = negative
    text = text.to(told.text_s)
    imageless = told.without_images()
    return {
        FULL: told,
        IMAGES: told.with_text(text, mask),
        NULL: imageless.with_text(text, mask),
    }
