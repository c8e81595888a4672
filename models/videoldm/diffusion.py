"""The variance-preserving diffusion process: noise levels, conversions, grids, addressed noise.

x = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1; the network predicts v = alpha eps - sigma x0.
VDM (arXiv:2204.03458), progressive distillation (arXiv:2202.00512), zero terminal SNR
(arXiv:2305.08891). Steps through the levels live in `samplers`, not here.

Levels are float64 throughout: a float32 sigma rounds to 1 from lambda = -17 down, alpha to 0.
"""

import math
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

LAMBDA_MAX = 20.0  # log-SNR at u = 0; its negative at u = 1
DPMPP_LAMBDA_MAX = 7.0  # the inner levels of `dpmpp_grid` stay within plus and minus this
TICKS_PER_S = 4800  # a whole number of ticks lies between frames at every usual rate

Level = float | Tensor  # a noise level: one number, or (b,) float64, one for each sample

_B = math.atan(math.exp(-LAMBDA_MAX / 2))
_A = math.atan(math.exp(LAMBDA_MAX / 2)) - _B


# ---------------------------------------------------------------------------- levels


def cosine_lambda(u: Level) -> Tensor:
    """Log-SNR of the cosine schedule, lambda(u) = -2 log tan(A u + B), as in VDM.

    u        schedule coordinate in [0, 1], 0 clean
    returns  float64, shaped as u, from +20 at u = 0 to -20 at u = 1
    """
    return -2 * torch.log(torch.tan(_A * _float64(u) + _B))


def cosine_u(log_snr: Level) -> Tensor:
    """Inverse of `cosine_lambda`: the schedule coordinate in [0, 1], float64."""
    return (torch.atan(torch.exp(-_float64(log_snr) / 2)) - _B) / _A


def sigma_of(log_snr: Level) -> Tensor:
    """sigma = sqrt(sigmoid(-lambda)), float64."""
    return torch.sqrt(torch.sigmoid(-_float64(log_snr)))


def lambda_of(sigma: Level) -> Tensor:
    """Log-SNR log(alpha^2 / sigma^2), float64: +inf at sigma 0, -inf at sigma 1."""
    return 2 * (torch.log(alpha_of(sigma)) - torch.log(_float64(sigma)))


def alpha_of(sigma: Level) -> Tensor:
    """alpha = sqrt(1 - sigma^2), float64, without the cancellation near sigma = 1.

    raises ValueError if sigma is a tensor of lower precision, which has lost alpha already.
    """
    level = _float64(sigma)
    return torch.sqrt((1 - level) * (1 + level))


def _float64(level: Level) -> Tensor:
    if isinstance(level, Tensor) and level.dtype != torch.float64:
        raise ValueError(f"noise levels must be float64, not {level.dtype}")
    return torch.as_tensor(level, dtype=torch.float64)


def _alpha_sigma(sigma: Level, like: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) in the dtype of `like`, a (b,) level shaped to scale its first axis."""
    level = _float64(sigma)
    if level.ndim == 1:
        level = rearrange(level, "b -> b" + " 1" * (like.ndim - 1))
    return alpha_of(level).to(like), level.to(like)


# ---------------------------------------------------------------------------- conversions
# sigma is a float or (b,) float64; every tensor is shaped as the others, b first.


def noised(x0: Tensor, eps: Tensor, sigma: Level) -> Tensor:
    """x = alpha x0 + sigma eps, the forward process."""
    alpha, scale = _alpha_sigma(sigma, x0)
    return alpha * x0 + scale * eps


def v_of(x0: Tensor, eps: Tensor, sigma: Level) -> Tensor:
    """v = alpha eps - sigma x0, what the network predicts."""
    alpha, scale = _alpha_sigma(sigma, x0)
    return alpha * eps - scale * x0


def x0_from_v(x: Tensor, v: Tensor, sigma: Level) -> Tensor:
    """x0 = alpha x - sigma v."""
    alpha, scale = _alpha_sigma(sigma, x)
    return alpha * x - scale * v


def eps_from_v(x: Tensor, v: Tensor, sigma: Level) -> Tensor:
    """eps = sigma x + alpha v."""
    alpha, scale = _alpha_sigma(sigma, x)
    return scale * x + alpha * v


def v_from_x0(x: Tensor, x0: Tensor, sigma: Level) -> Tensor:
    """v = (alpha x - x0) / sigma; infinite or undefined at sigma 0."""
    alpha, scale = _alpha_sigma(sigma, x)
    return (alpha * x - x0) / scale


def eps_from_x0(x: Tensor, x0: Tensor, sigma: Level) -> Tensor:
    """eps = (x - alpha x0) / sigma; infinite or undefined at sigma 0."""
    alpha, scale = _alpha_sigma(sigma, x)
    return (x - alpha * x0) / scale


def denoiser(velocity: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Make what a sampler asks for, (x, sigma) -> x0, from a function (x, sigma) -> v.

    The state stays in the precision of x whatever dtype `velocity` answers in.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return x0_from_v(x, velocity(x, sigma).to(x.dtype), sigma)

    return denoise


def held(
    denoise: Callable[[Tensor, float], Tensor], known: Tensor, mask: Tensor
) -> Callable[[Tensor, float], Tensor]:
    """A denoiser that knows some frames: there its estimate is what was given.

    known  shaped as x, read where mask is 1
    mask   broadcasts to known
    """

    def kept(x: Tensor, sigma: float) -> Tensor:
        return torch.where(mask.bool(), known.to(x), denoise(x, sigma))

    return kept


def distillation_target(x: Tensor, x_end: Tensor, sigma: Level, sigma_end: Level) -> Tensor:
    """The x0 with which one DDIM step from (x, sigma) lands on x_end at sigma_end.

    Progressive distillation: x0* = (x_end - rho x) / (alpha_end - rho alpha) with
    rho = sigma_end / sigma. The student's loss is on v* = `v_from_x0(x, x0*, sigma)`.

    x_end    where two steps of the teacher end; at sigma_end 0 it is the teacher's second x0
    """
    alpha, scale = _alpha_sigma(sigma, x)
    alpha_end, scale_end = _alpha_sigma(sigma_end, x)
    rho = scale_end / scale
    return (x_end - rho * x) / (alpha_end - rho * alpha)


# ---------------------------------------------------------------------------- grids


def uniform_u_grid(steps: int, top: float = 1.0) -> Tensor:
    """Levels uniform in u from `top` to 0, for DDIM and ancestral sampling.

    top      u of the first level, in (0, 1]; below 1 for what starts from noised data
    returns  (steps + 1,) float64 sigmas, strictly falling, the last exactly 0
    raises   ValueError if steps < 1
    """
    _check_steps(steps)
    inner = top * torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return _ending_clean(sigma_of(cosine_lambda(inner)))


def dpmpp_grid(steps: int) -> Tensor:
    """Levels for DPM-Solver++ 2M: uniform in lambda from -7 to +7.

    One step leads in from the top level (lambda = -20) and one out to sigma 0; two steps meet in
    the middle, at lambda = 0.

    returns  (steps + 1,) float64 sigmas, strictly falling, the last exactly 0
    raises   ValueError if steps < 1
    """
    _check_steps(steps)
    edge = DPMPP_LAMBDA_MAX if steps > 2 else 0.0
    inner = torch.linspace(-edge, edge, steps - 1, dtype=torch.float64)
    top = torch.tensor([-LAMBDA_MAX], dtype=torch.float64)
    return _ending_clean(sigma_of(torch.cat([top, inner])))


def zero_snr_levels() -> Tensor:
    """Stable Diffusion's 1000 training levels, rescaled to end in pure noise.

    Zero terminal SNR, algorithm 1: sqrt(abar) is shifted to 0 at the last index and scaled to
    keep the first.

    returns  (1000,) float64 sigmas, strictly rising, the last exactly 1
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.sqrt(torch.cumprod(1 - betas, dim=0))
    shifted = alphas - alphas[-1]
    rescaled = shifted * (alphas[0] / shifted[0])
    return torch.sqrt((1 - rescaled) * (1 + rescaled))


def trailing_grid(steps: int) -> Tensor:
    """Every 1000/steps-th level of `zero_snr_levels` counted from its last, then 0.

    returns  (steps + 1,) float64 sigmas, strictly falling, the first exactly 1, the last 0
    raises   ValueError if steps is not within 1..1000
    """
    levels = zero_snr_levels()
    _check_steps(steps, most=len(levels))
    index = torch.arange(steps, 0, -1, dtype=torch.float64) * (len(levels) / steps)
    return _ending_clean(levels[index.round().long() - 1])


def _check_steps(steps: int, most: int | None = None) -> None:
    if steps < 1 or (most is not None and steps > most):
        raise ValueError(f"steps must be {f'1..{most}' if most else '1 or more'}, not {steps}")


def _ending_clean(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])


# ---------------------------------------------------------------------------- addressed noise


def addressed_noise(
    shape: tuple[int, ...],
    seed: int,
    *,
    sample: int = 0,
    segment: int = 0,
    stage: str = "base",
    step: int | None = None,
    frame: int | None = None,
) -> Tensor:
    """Standard normal noise found by its address alone.

    No stream stands behind it, so neither batch size, nor order, nor a resume can change a draw.

    shape    of one sample, without the batch axis
    sample   place of the clip in its request, not in the batch that happens to run it
    step     the sampler's draw; None is the initial noise
    frame    time stamp in ticks, where every frame has a draw of its own
    returns  float32 on the CPU
    """
    address = f"{seed}/{sample}/{segment}/{stage}/{step}/{frame}"
    key = int.from_bytes(sha256(address.encode()).digest()[:16], "little")
    # Not torch.Generator: on the CPU it keeps 32 bits of its seed, so addresses would collide.
    generator = np.random.Generator(np.random.Philox(key=key))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def frame_noise(
    shape: tuple[int, int, int],
    times: Tensor,
    seed: int,
    *,
    sample: int = 0,
    segment: int = 0,
    stage: str = "base",
) -> Tensor:
    """Initial noise of a clip, every frame's draw addressed by its rounded time stamp.

    A time that two frame rates share has the same noise in both.

    shape    (c, h, w) of one frame
    times    (t,) film time in seconds
    returns  (c, t, h, w) float32 on the CPU
    raises   ValueError if two frames round to the same tick
    """
    ticks = [round(time * TICKS_PER_S) for time in times.tolist()]
    if len(set(ticks)) < len(ticks):
        raise ValueError(f"times must lie at least 1/{TICKS_PER_S} s apart, not {times.tolist()}")
    frames = [
        addressed_noise(shape, seed, sample=sample, segment=segment, stage=stage, frame=tick)
        for tick in ticks
    ]
    return rearrange(frames, "t c h w -> c t h w")
