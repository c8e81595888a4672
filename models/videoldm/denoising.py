"""One clip from noise to clean latents: network, guidance and sampler put together.

It is told everything and decides nothing: what is given at which step is in `branches`, how
predictions are combined in `guidance`, how levels are walked in `samplers`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.videoldm.branches import Known, Told
from models.videoldm.conditioning import Conditions
from models.videoldm.diffusion import (
    addressed_noise,
    denoiser,
    dpmpp_grid,
    frame_noise,
    held,
    lambda_of,
    uniform_u_grid,
)
from models.videoldm.guidance import (
    FULL,
    Branch,
    Scale,
    at_level,
    frame_scale,
    guide,
    guide_to_frames,
    oscillating_scale,
)
from models.videoldm.samplers import (
    Denoise,
    SamplerState,
    sample_ancestral,
    sample_ddim,
    sample_dpmpp_2m,
)
from models.videoldm.unet import UNet

ANCESTRAL_GAMMA = 0.3  # VDM's setting for text (arXiv:2204.03458, table 5)

OnState = Callable[[SamplerState], None]


@dataclass(frozen=True)
class Course:
    """How a clip is denoised."""

    sampler: str
    steps: int
    seed: int
    text_scale: float  # 1 is unguided
    image_scale: float | None = None  # of context or references; None is the text's
    schedule: str = "constant"
    rescale: float = 0.0
    reconstruction: float = 0.0  # weight with which known frames pull
    stage: str = "base"  # part of every draw's address
    moving: bool = True  # False: every frame is a picture by itself

    def sigmas(self, top: float = 1.0) -> Tensor:
        """Noise levels, (n + 1,) float64; top as in `uniform_u_grid`."""
        if self.sampler == "dpmpp_2m" and top == 1:
            return dpmpp_grid(self.steps)
        return uniform_u_grid(self.steps, top)


@torch.no_grad()
def denoise_clip(
    unet: UNet,
    told: Told,
    course: Course,
    on_state: OnState,
    known: Known | None = None,
    state: SamplerState | None = None,
) -> Tensor:
    """Latents (1, c, t, h, w) float32 of one clip, begun from addressed noise.

    on_state  called after every step; what it raises passes through
    known     frames that pull by reconstruction guidance
    state     where an earlier run of the same clip stood
    """
    like = told.early[FULL]
    shape = (like.frames.shape[1], like.frames.shape[3], like.frames.shape[4])
    times = like.times[0].cpu()
    noise = frame_noise(shape, times, course.seed, stage=course.stage)
    x = noise[None].to(like.frames.device)
    sigmas = course.sigmas()
    denoise = denoise_function(unet, told, course, sigmas)
    if known is not None:
        denoise = _pulled(denoise, known, course, sigmas)
    return sample(denoise, x, sigmas, course, told.restarts(course.steps), on_state, state)


def denoise_function(unet: UNet, told: Told, course: Course, sigmas: Tensor) -> Denoise:
    """The guided network as (x, sigma) -> x0 on the levels `sigmas`, true to what binds."""
    step_at = at_level(sigmas, lambda step: step)
    dtype = next(unet.parameters()).dtype

    def predict_v(x: Tensor, sigma: float, branch: Branch) -> Tensor:
        log_snr = lambda_of(sigma).float().expand(len(x)).to(x.device)
        conditions = told.at(step_at(sigma), branch)
        return unet(x.to(dtype), log_snr, conditions, moving=course.moving).float()

    images = course.image_scale if told.guides_images else None
    velocity = guide(
        predict_v,
        _scheduled(course.text_scale, course, sigmas, told.early[FULL]),
        None if images is None else _scheduled(images, course, sigmas, told.early[FULL]),
        course.rescale,
    )
    given = told.early[FULL]
    return held(denoiser(velocity), given.frames, given.bound())


def sample(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    course: Course,
    restarts: tuple[int, ...],
    on_state: OnState,
    state: SamplerState | None = None,
) -> Tensor:
    """Walk from x at sigmas[0], or from where an earlier run stood, to clean latents."""
    if course.sampler == "dpmpp_2m":
        return sample_dpmpp_2m(denoise, x, sigmas, restarts, on_state, state)
    if course.sampler == "ddim":
        return sample_ddim(denoise, x, sigmas, on_step=on_state, state=state)

    def fresh(step: int) -> Tensor:
        drawn = addressed_noise(tuple(x.shape[1:]), course.seed, stage=course.stage, step=step)
        return drawn[None].to(x.device)

    return sample_ancestral(
        denoise, x, sigmas, fresh, gamma=ANCESTRAL_GAMMA, on_step=on_state, state=state
    )


def _scheduled(
    scale: float, course: Course, sigmas: Tensor, like: Conditions
) -> Scale | Callable[[float], Scale]:
    if course.schedule == "oscillating":
        return at_level(sigmas, lambda step: oscillating_scale(step, course.steps, high=scale))
    if course.schedule == "linear":
        return frame_scale(scale, like.times.shape[1])
    return scale


def _pulled(denoise: Denoise, known: Known, course: Course, sigmas: Tensor) -> Denoise:
    """Reconstruction guidance towards what is known at each step."""
    step_at = at_level(sigmas, lambda step: step)
    shape = tuple(known.frames.shape[1:])

    def noise(sigma: float) -> Tensor:
        stage = f"{course.stage}.known"
        return addressed_noise(shape, course.seed, stage=stage, step=step_at(sigma))[None]

    frames = known.frames.float()
    guided = {
        early: guide_to_frames(denoise, frames, mask, course.reconstruction, noise)
        for early, mask in ((True, known.early), (False, known.late))
    }
    return lambda x, sigma: guided[step_at(sigma) < known.last_steps](x, sigma)
