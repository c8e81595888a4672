"""What the U-Net is told besides the noisy latents: one tensor for every given frame, and text.

A single masked-frame mechanism serves first and last frames, context and key frames; references
ride along as extra frames. Absent conditions are zeros kept in place, never removed, so that all
guidance branches have one layout. PixelDance (arXiv:2311.10982), section 3.2; the mask is ours.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor


class Kind(IntEnum):
    """What a frame's slot holds."""

    NONE = 0
    FIRST = 1
    LAST = 2
    CONTEXT = 3
    KEY = 4
    SKETCH = 5
    REFERENCE = 6


class Rate(IntEnum):
    """Which pass of temporal interpolation the network runs, if any."""

    NONE = 0
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Conditions:
    """Everything given. b clips, t frames, r references, l text tokens, d text width."""

    frames: Tensor  # (b, c, t, h, w) latents of given frames, zero elsewhere
    mask: Tensor  # (b, 1, t, h, w) 1 in given slots
    kind: Tensor  # (b, t) Kind
    frame_sigma: Tensor  # (b, t) noise level of the given frames, 0..1
    times: Tensor  # (b, t) seconds of film time
    log2_fps: Tensor  # (b,)
    rate: Tensor  # (b,) Rate
    text_s: Tensor  # (b, l, d) for spatial layers
    text_t: Tensor  # (b, l, d) for temporal layers; the same unless personalised
    text_mask: Tensor  # (b, l) True for real tokens; all False stands for the null prompt
    references: Tensor | None = None  # (b, c, r, h, w) latents
    reference_mask: Tensor | None = None  # (b, r) True for references in use

    def without_text(self) -> "Conditions":
        """The same with the null prompt in every clip."""
        return replace(self, text_mask=torch.zeros_like(self.text_mask))

    def with_text(self, text: Tensor, mask: Tensor) -> "Conditions":
        """The same under another prompt, as for a negative prompt."""
        return replace(self, text_s=text, text_t=text, text_mask=mask)


def text_only(
    text: Tensor, text_mask: Tensor, times: Tensor, fps: float, latent_shape: tuple[int, int, int]
) -> Conditions:
    """Conditions of a clip made from words alone.

    text          (b, l, d), text_mask (b, l)
    times         (b, t) seconds
    fps           frames per second told to the network
    latent_shape  (c, h, w)
    """
    b, t = times.shape
    c, h, w = latent_shape
    device = times.device
    return Conditions(
        frames=torch.zeros(b, c, t, h, w, device=device),
        mask=torch.zeros(b, 1, t, h, w, device=device),
        kind=torch.full((b, t), int(Kind.NONE), device=device),
        frame_sigma=torch.zeros(b, t, device=device),
        times=times,
        log2_fps=torch.full((b,), fps, device=device).log2(),
        rate=torch.full((b,), int(Rate.NONE), device=device),
        text_s=text,
        text_t=text,
        text_mask=text_mask,
    )


def frame_times(frames: int, fps: float) -> Tensor:
    """Film times of evenly spaced frames from zero: (1, t) seconds."""
    return (torch.arange(frames, dtype=torch.float64) / fps).float()[None]
