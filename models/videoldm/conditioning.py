"""What the U-Net is told besides the noisy latents: one tensor for every given frame, and text.

A single masked-frame mechanism serves first and last frames, context and key frames; references
ride along as extra frames. Absent conditions are zeros kept in place, never removed, so that all
guidance branches have one layout. PixelDance (arXiv:2311.10982), section 3.2; the mask is ours.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

MAX_CONTEXT = 2  # frames carried over: one shows no direction, more than two were never trained
LAST_SIGMA = 0.32  # noise on a given last frame or sketch, which guides and does not bind


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

    def with_frame(self, slot: int, latent: Tensor, kind: Kind, sigma: float = 0.0) -> "Conditions":
        """The same with one more given frame in every clip.

        slot    0..t-1, or from the end if negative
        latent  (b, c, h, w), noised to sigma already
        """
        frames, mask = self.frames.clone(), self.mask.clone()
        kinds, sigmas = self.kind.clone(), self.frame_sigma.clone()
        frames[:, :, slot] = latent.to(frames)
        mask[:, :, slot] = 1
        kinds[:, slot] = int(kind)
        sigmas[:, slot] = sigma
        return replace(self, frames=frames, mask=mask, kind=kinds, frame_sigma=sigmas)

    def gives(self, kinds: Collection[Kind]) -> Tensor:
        """Where frames of these kinds are given: (b, t) bool."""
        return torch.isin(self.kind, self.kind.new_tensor([int(kind) for kind in kinds]))

    def bound(self) -> Tensor:
        """1 where a clip is what was given, (b, 1, t, 1, 1): clean first frames and context.

        Last frames guide and do not bind (PixelDance, section 3.4).
        """
        clean = self.gives((Kind.FIRST, Kind.CONTEXT)) & (self.frame_sigma == 0)
        return rearrange(clean, "b t -> b 1 t 1 1")

    def without_frames(self, kinds: Collection[Kind]) -> "Conditions":
        """The same with every given frame of these kinds as if it had never been given."""
        return self.dropping(self.gives(kinds))

    def dropping(self, dropped: Tensor) -> "Conditions":
        """The same without the frames given where dropped (b, t) is True."""
        everywhere = rearrange(dropped, "b t -> b 1 t 1 1")
        return replace(
            self,
            frames=self.frames.masked_fill(everywhere, 0.0),
            mask=self.mask.masked_fill(everywhere, 0.0),
            kind=self.kind.masked_fill(dropped, int(Kind.NONE)),
            frame_sigma=self.frame_sigma.masked_fill(dropped, 0.0),
        )

    def with_references(self, pictures: Tensor, used: Tensor | None = None) -> "Conditions":
        """The same with reference latents (b, c, r, h, w); used (b, r), None for all."""
        b, _, r = pictures.shape[:3]
        mask = torch.ones(b, r, dtype=torch.bool, device=pictures.device)
        return replace(self, references=pictures, reference_mask=mask if used is None else used)

    def without_images(self) -> "Conditions":
        """The null of guided images: no context, and references of zeros kept in their place.

        First and last frames stay, as they do in every branch of guidance.
        """
        told = self.without_frames((Kind.CONTEXT,))
        if self.references is None:
            return told
        return replace(told, references=torch.zeros_like(self.references))

    def to(self, dtype: torch.dtype) -> "Conditions":
        """The same with latents and text in the network's dtype."""
        text_s = self.text_s.to(dtype)
        return replace(
            self,
            frames=self.frames.to(dtype),
            mask=self.mask.to(dtype),
            text_s=text_s,
            text_t=text_s if self.text_t is self.text_s else self.text_t.to(dtype),
            references=None if self.references is None else self.references.to(dtype),
        )


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


TEXTS = ("text_s", "text_t", "text_mask")


def layout(told: Conditions) -> str:
    """What conditions must have in common to be `joined`: everything but the number of words."""
    same = told.text_t is told.text_s
    values = [(field.name, getattr(told, field.name)) for field in fields(told)]
    shapes = [
        (name, None if value is None else tuple(value.shape[1:]))
        for name, value in values
        if name not in TEXTS
    ]
    return f"{type(told).__name__} {same} {shapes}"


def joined(told: Sequence[Conditions]) -> Conditions:
    """Conditions of one `layout` as those of one batch. Shorter texts are padded, and masked."""
    length = max(len(one.text_mask[0]) for one in told)

    def column(name: str) -> Tensor | None:
        parts = [getattr(one, name) for one in told]
        if parts[0] is None:
            return None
        if name in TEXTS:
            parts = [_lengthened(part, length) for part in parts]
        return torch.cat(parts)

    whole: dict[str, Any] = {field.name: column(field.name) for field in fields(told[0])}
    if told[0].text_t is told[0].text_s:
        whole["text_t"] = whole["text_s"]
    return replace(told[0], **whole)


def _lengthened(text: Tensor, length: int) -> Tensor:
    """Text (b, l, d) or its mask (b, l) with silence up to `length` tokens."""
    missing = length - text.shape[1]
    beyond = (0, 0, 0, missing) if text.ndim == 3 else (0, missing)
    return functional.pad(text, beyond) if missing else text


def frame_times(frames: int, fps: float) -> Tensor:
    """Film times of evenly spaced frames from zero: (1, t) seconds."""
    return (torch.arange(frames, dtype=torch.float64) / fps).float()[None]


def last_frame_steps(strength: float, steps: int) -> int:
    """How many denoising steps, from the noisiest, see the last frame: floor(strength N + .5).

    The tau of PixelDance, section 3.4. Strength 1 is every step, 0 none.

    raises ValueError if strength is not within 0..1
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"last_frame_strength must lie within 0..1, not {strength}")
    return math.floor(strength * steps + 0.5)


def first_frame_sigma(strength: float) -> float:
    """Noise level of a given first frame: 0 at strength 1, where it binds; 1 leaves nothing of it.

    raises ValueError if strength is not within 0..1
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"first_frame_strength must lie within 0..1, not {strength}")
    return 1.0 - strength
