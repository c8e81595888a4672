"""What a clip is given, from pictures and words to conditions: the first half of the pipeline.

Given frames are noised to the level that their strength asks for, with a draw of their own; context
is handed over as latents, since decoding and encoding again would lose a little in every segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.protocol import Picture, Reference, Task
from models.videoldm.conditioning import (
    LAST_SIGMA,
    Conditions,
    Kind,
    first_frame_sigma,
    frame_times,
    text_only,
)
from models.videoldm.diffusion import addressed_noise, noised
from models.videoldm.pictures import read_picture, read_reference
from models.videoldm.references import plain_prompt, used_references
from models.videoldm.segments import Segment
from models.videoldm.weights import Preset


@dataclass(frozen=True)
class Given:
    """Latents of the frames that a clip must show."""

    context: Tensor | None = None  # (1, c, s, h, w) of the film next to it, s above 0
    first: Tensor | None = None  # (1, c, h, w)
    last: Tensor | None = None  # (1, c, h, w)


def context_of(segment: Segment, beside: Tensor | None) -> Tensor | None:
    """What the segment sees of the film next to it, latents (1, c, t, h, w), if anything."""
    if beside is None or segment.carried == 0:
        return None
    if segment.backwards:
        return beside[:, :, : segment.carried]
    return beside[:, :, -segment.carried :]


@torch.no_grad()
def encode_pixels(preset: Preset, pixels: Tensor) -> Tensor:
    """Pixels (1, 3, T, H, W) in -1..1 to latents (1, c, T, h, w) float32."""
    weight = next(preset.autoencoder.parameters())
    return preset.autoencoder.encode(pixels.to(weight.device, weight.dtype)).float()


@torch.no_grad()
def decode_latents(preset: Preset, latents: Tensor) -> Tensor:
    """Latents (1, c, t, h, w) to pixels (1, 3, T, H, W) in -1..1."""
    dtype = next(preset.autoencoder.parameters()).dtype
    return preset.autoencoder.decode(latents.to(dtype))


def encode_picture(preset: Preset, picture: Picture | None, task: Task) -> Tensor | None:
    """A given frame's latent (1, c, h, w), or None if there is none."""
    if picture is None:
        return None
    pixels = read_picture(picture, task.width, task.height)
    return encode_pixels(preset, pixels[None, :, None])[:, :, 0]


def conditions_of(preset: Preset, task: Task, segment: Segment, given: Given) -> Conditions:
    """Everything that the network is told of a segment's clip, in the fullest branch."""
    told = words_only(preset, task, plain_prompt(segment), segment.frames)
    if given.context is not None:
        told = _with_context(told, given.context, segment.backwards)
    told = _with_first(told, task, segment, given.first)
    told = _with_last(told, task, segment, given.last)
    references = used_references(task, segment)
    if not references:
        return told
    return told.with_references(_encode_references(preset, task, references))


def words_only(preset: Preset, task: Task, prompt: str, frames: int) -> Conditions:
    """Conditions of a clip of so many frames, made from the prompt alone."""
    config = preset.config.autoencoder
    shape = (config.latent_channels, task.height // config.factor, task.width // config.factor)
    adapter = preset.adapters.get(task.adapter or "")
    if adapter is not None and task.adapter_scale > 0:
        return _personal(preset, task, adapter.prompts(prompt), frames, shape)
    vectors, mask = preset.text([prompt])
    times = frame_times(frames, task.fps).to(vectors.device)
    return text_only(vectors, mask, times, float(task.fps), shape)


def _personal(
    preset: Preset,
    task: Task,
    prompts: tuple[str, str],
    frames: int,
    shape: tuple[int, int, int],
) -> Conditions:
    """Conditions whose spatial and temporal layers read different words.

    prompts  for spatial and for temporal layers, the latter no longer than the former
    """
    vectors, masks = preset.text(list(prompts))
    times = frame_times(frames, task.fps).to(vectors.device)
    told = text_only(vectors[:1], masks[:1], times, float(task.fps), shape)
    # One mask serves both: what the shorter prompt lacks is its last token again.
    last = vectors[1:, masks[1].sum() - 1, None]
    return replace(told, text_t=torch.where(masks[1:, :, None], vectors[1:], last))


def _with_context(told: Conditions, context: Tensor, at_the_end: bool) -> Conditions:
    count = context.shape[2]
    for index in range(count):
        slot = index - count if at_the_end else index
        told = told.with_frame(slot, context[:, :, index], Kind.CONTEXT)
    return told


def _with_first(
    told: Conditions, task: Task, segment: Segment, latent: Tensor | None
) -> Conditions:
    if latent is None or task.first_frame_strength == 0:
        return told
    sigma = first_frame_sigma(task.first_frame_strength)
    return _with_noised(told, 0, latent, Kind.FIRST, _level(task, sigma), segment.seed)


def _with_last(told: Conditions, task: Task, segment: Segment, latent: Tensor | None) -> Conditions:
    if latent is None:
        return told
    kind = Kind.SKETCH if task.last_frame_is_sketch else Kind.LAST
    return _with_noised(told, -1, latent, kind, _level(task, LAST_SIGMA), segment.seed)


def _level(task: Task, sigma: float) -> float:
    """Frames that pull by reconstruction guidance are noised by it, at every step anew."""
    return sigma if task.reconstruction_weight is None else 0.0


def _with_noised(
    told: Conditions, slot: int, latent: Tensor, kind: Kind, sigma: float, seed: int
) -> Conditions:
    eps = addressed_noise(tuple(latent.shape[1:]), seed, stage=f"given.{kind.name.lower()}")
    rough = noised(latent, eps[None].to(latent), sigma) if sigma > 0 else latent
    return told.with_frame(slot, rough, kind, sigma)


def _encode_references(preset: Preset, task: Task, references: Sequence[Reference]) -> Tensor:
    """Latents (1, c, r, h, w)."""
    pictures = [read_reference(ref.picture, task.width, task.height) for ref in references]
    return encode_pixels(preset, torch.stack(pictures, 1)[None])
