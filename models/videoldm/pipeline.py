"""A preset of the family behind the common protocol: prompt and seed in, frames out.

The only file that knows all the others. One task at a time; everything that varies with the request
is local to the call, so a cancelled task leaves nothing behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from models.catalog import ModelCard, read_card
from models.protocol import Frames, OnStep, Step, Task
from models.videoldm.conditioning import Conditions, frame_times, text_only
from models.videoldm.diffusion import (
    addressed_noise,
    denoiser,
    dpmpp_grid,
    frame_noise,
    lambda_of,
    uniform_u_grid,
)
from models.videoldm.guidance import Branch, guide
from models.videoldm.samplers import (
    Denoise,
    SamplerState,
    sample_ancestral,
    sample_ddim,
    sample_dpmpp_2m,
)
from models.videoldm.weights import Preset, load_preset

ANCESTRAL_GAMMA = 0.3  # VDM's setting for text (arXiv:2204.03458, table 5)
DECODE_CHUNK = 8  # frames decoded at once


@dataclass(frozen=True)
class VideoLDM:
    """A loaded preset that serves tasks."""

    card: ModelCard
    preset: Preset
    device: str

    @property
    def weights_sha256(self) -> str:
        """Hex digest over config and weights."""
        return self.preset.sha256

    @torch.no_grad()
    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        check(task, self.card)
        on_step(Step("encoding", 0, 1))
        conditions, null = self._conditions(task)
        on_step(Step("denoising", 0, task.num_inference_steps))
        latents = self._denoised(task, conditions, null, on_step)
        return self._decoded(latents, on_step)

    def _conditions(self, task: Task) -> tuple[Conditions, Conditions]:
        """What the prompt gives, and the same under the negative or null prompt."""
        vectors, mask = self.preset.text([task.prompt])
        negative, negative_mask = self.preset.text([task.negative_prompt])
        times = frame_times(task.num_frames, task.fps).to(self.device)
        told = text_only(vectors, mask, times, float(task.fps), self._latent_shape(task))
        return told, told.with_text(negative, negative_mask)

    def _latent_shape(self, task: Task) -> tuple[int, int, int]:
        config = self.preset.config.autoencoder
        return (config.latent_channels, task.height // config.factor, task.width // config.factor)

    def _denoised(
        self, task: Task, conditions: Conditions, null: Conditions, on_step: OnStep
    ) -> Tensor:
        unet = self.preset.unet
        dtype = next(unet.parameters()).dtype
        full, empty = _cast(conditions, dtype), _cast(null, dtype)

        def predict_v(x: Tensor, sigma: float, branch: Branch) -> Tensor:
            log_snr = lambda_of(sigma).float().expand(len(x)).to(x.device)
            told = full if branch.text else empty
            return unet(x.to(dtype), log_snr, told).float()

        def report(state: SamplerState) -> None:
            on_step(Step("denoising", state.step, task.num_inference_steps))

        denoise = denoiser(guide(predict_v, task.guidance_scale))
        shape = self._latent_shape(task)
        noise = frame_noise(shape, conditions.times[0].cpu(), task.seed)[None].to(self.device)
        return self._sampled(task, denoise, noise, report)

    def _sampled(
        self,
        task: Task,
        denoise: Denoise,
        x: Tensor,
        report: Callable[[SamplerState], None],
    ) -> Tensor:
        steps = task.num_inference_steps
        if task.sampler == "dpmpp_2m":
            return sample_dpmpp_2m(denoise, x, dpmpp_grid(steps), on_step=report)
        if task.sampler == "ddim":
            return sample_ddim(denoise, x, uniform_u_grid(steps), on_step=report)

        def fresh(step: int) -> Tensor:
            drawn = addressed_noise(tuple(x.shape[1:]), task.seed, step=step)
            return drawn[None].to(x.device)

        return sample_ancestral(
            denoise, x, uniform_u_grid(steps), fresh, gamma=ANCESTRAL_GAMMA, on_step=report
        )

    def _decoded(self, latents: Tensor, on_step: OnStep) -> Frames:
        """Latents (1, c, t, h, w) to frames (T, H, W, 3) uint8, some frames at a time."""
        autoencoder = self.preset.autoencoder
        dtype = next(autoencoder.parameters()).dtype
        chunks = latents.to(dtype).split(DECODE_CHUNK, dim=2)
        on_step(Step("decoding", 0, len(chunks)))
        frames = []
        for index, chunk in enumerate(chunks, start=1):
            pixels = rearrange(autoencoder.decode(chunk).float(), "1 c t h w -> t h w c")
            frames.append(((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu().numpy())
            on_step(Step("decoding", index, len(chunks)))
        return np.concatenate(frames)


def load_videoldm(folder: Path, device: str, dtype: torch.dtype) -> VideoLDM:
    """Load the preset in a folder with its card.

    raises WeightsError if a file is missing, damaged or misfitting; ValueError for a bad card
    """
    card = read_card(folder / "card.json")
    return VideoLDM(card, load_preset(folder, device, dtype), device)


def check(task: Task, card: ModelCard) -> None:
    """Refuse what the card does not allow; the web side has done so long before.

    raises ValueError with the value and the limit
    """
    size = f"{task.width}x{task.height}"
    refusals = (
        (task.task_type in card.tasks, f"task {task.task_type!r}: {sorted(card.tasks)}"),
        (size in card.sizes, f"size {size}: {list(card.sizes)}"),
        (card.frames.allows(task.num_frames), f"{task.num_frames} frames: {card.frames}"),
        (task.fps in card.fps, f"{task.fps} frames per second: {list(card.fps)}"),
        (card.steps.allows(task.num_inference_steps), f"{task.num_inference_steps} steps"),
        (card.guidance.allows(task.guidance_scale), f"guidance scale {task.guidance_scale}"),
        (task.sampler in card.samplers, f"sampler {task.sampler!r}: {list(card.samplers)}"),
    )
    for allowed, what in refusals:
        if not allowed:
            raise ValueError(f"{card.id} cannot make {what}")


def _cast(conditions: Conditions, dtype: torch.dtype) -> Conditions:
    """The same with latents and text in the network's dtype."""
    return replace(
        conditions,
        frames=conditions.frames.to(dtype),
        mask=conditions.mask.to(dtype),
        text_s=conditions.text_s.to(dtype),
        text_t=conditions.text_t.to(dtype),
    )
