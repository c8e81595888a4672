"""Samplers of the variance-preserving process: from noise to a clean latent, level by level.

DDIM (arXiv:2010.02502), ancestral sampling and Langevin correction (VDM, arXiv:2204.03458),
DPM-Solver++ 2M (arXiv:2211.01095), the stochastic few-step sampler of Imagen Video
(arXiv:2210.02303). A sampler sees a function (x, sigma) -> x0 and nothing else of the model:
networks, guidance and schedules are the caller's.

Shared by all of them:
sigmas   (n + 1,) float64, strictly falling within [0, 1], last 0; the step to 0 returns x0
x        any shape, batch first, at sigmas[0]; the state is float32 whatever denoise answers in
noise    draw -> standard normal shaped as x; a draw is asked for by number, never streamed
on_step  called after every step with the state reached; what it raises passes through
state    where an earlier run stood: replaces x, continues bit for bit
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> x0, shaped as x
Noise = Callable[[int], Tensor]  # draw number -> standard normal shaped as x


@dataclass(frozen=True)
class SamplerState:
    """Where a run stands, and all that is needed to go on from there."""

    step: int  # steps done, 0..n
    x: Tensor  # float32, at sigmas[step]
    x0: Tensor | None = None  # 2M only: the last clean estimate, float32
    sigma: float | None = None  # 2M only: the level it was made at

    def on(self, device: torch.device | str) -> "SamplerState":
        """The same on a device."""
        x0 = None if self.x0 is None else self.x0.to(device)
        return replace(self, x=self.x.to(device), x0=x0)


OnStep = Callable[[SamplerState], None]
Step = Callable[[SamplerState], SamplerState]


def ignore(state: SamplerState) -> None:
    """The `on_step` that does nothing."""


# ---------------------------------------------------------------------------- coefficients
# A step is x_s = c_x x + c_0 x0 + c_n n: float64 numbers from level sigma to next level sigma_s.


@dataclass(frozen=True)
class Coefficients:
    """One linear step x_s = x * `x` + x0 * `x0` + n * `noise`."""

    x: float
    x0: float
    noise: float = 0.0


def alpha_at(sigma: float) -> float:
    """alpha = sqrt(1 - sigma^2), without the cancellation near sigma = 1."""
    return math.sqrt((1 - sigma) * (1 + sigma))


def half_log_snr(sigma: float) -> float:
    """lambda / 2 = log(alpha / sigma): +inf at sigma 0, -inf at sigma 1."""
    if sigma in (0.0, 1.0):
        return math.inf if sigma == 0 else -math.inf
    return math.log(alpha_at(sigma)) - math.log(sigma)


def decay(sigma: float, sigma_s: float) -> float:
    """sqrt(q) = exp((lambda - lambda_s) / 2): 1 for no step at all, 0 from sigma 1."""
    return alpha_at(sigma) * sigma_s / (alpha_at(sigma_s) * sigma)


def one_minus_q(sigma: float, sigma_s: float) -> float:
    """1 - q = 1 - exp(lambda - lambda_s), exact for small steps too."""
    return (sigma - sigma_s) * (sigma + sigma_s) / (sigma * alpha_at(sigma_s)) ** 2


def ddim_coefficients(sigma: float, sigma_s: float, eta: float) -> Coefficients:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - g^2) eps + g n. DDIM, eq. 12 and 16.

    With q = exp(lambda - lambda_s), g = eta (sigma_s/sigma) sqrt(1 - alpha^2/alpha_s^2) is
    eta sigma_s sqrt(1 - q), which spares both differences their cancellation near sigma = 1.
    """
    kept = sigma_s * math.hypot(math.sqrt((1 - eta) * (1 + eta)), eta * decay(sigma, sigma_s))
    return Coefficients(
        x=kept / sigma,
        x0=alpha_at(sigma_s) - kept * alpha_at(sigma) / sigma,
        noise=eta * sigma_s * math.sqrt(one_minus_q(sigma, sigma_s)),
    )


def ancestral_coefficients(sigma: float, sigma_s: float, gamma: float) -> Coefficients:
    """One step of the reverse chain, with no division by alpha. VDM, section 2.

    gamma interpolates the log-variance from its lower bound (0) to its upper (1).
    """
    alpha, alpha_s = alpha_at(sigma), alpha_at(sigma_s)
    fresh = one_minus_q(sigma, sigma_s)
    return Coefficients(
        x=alpha * sigma_s**2 / (alpha_s * sigma**2),
        x0=fresh * alpha_s,
        noise=math.sqrt(fresh) * sigma_s ** (1 - gamma) * sigma**gamma,
    )


def _linear(weights: Coefficients, x: Tensor, x0: Tensor) -> Tensor:
    return weights.x * x + weights.x0 * x0


# ---------------------------------------------------------------------------- samplers


@torch.no_grad()
def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise | None = None,
    eta: float = 0.0,
    on_step: OnStep = ignore,
    state: SamplerState | None = None,
) -> Tensor:
    """First-order sampler, deterministic at eta 0; eta 1 is ancestral sampling with gamma 0.

    Song et al. 2021 (arXiv:2010.02502), eq. 12. Arguments as in the module docstring.

    eta      0..1, share of the ancestral noise; above 0 step i takes draw i of `noise`
    returns  clean latents, float32
    raises   ValueError if sigmas do not fall to 0, or noise is missing where eta asks for it

    Calls denoise n times.
    """
    _check_within("eta", eta, 0.0, 1.0)
    draw = _required(noise, "eta above 0") if eta > 0 else None
    levels = _levels(sigmas)

    def step(now: SamplerState) -> SamplerState:
        sigma, sigma_s = levels[now.step : now.step + 2]
        x0 = _estimate(denoise, now.x, sigma)
        if sigma_s == 0:
            return SamplerState(now.step + 1, x0)
        weights = ddim_coefficients(sigma, sigma_s, eta)
        moved = _linear(weights, now.x, x0)
        if draw is not None:
            moved = moved + weights.noise * _drawn(draw, now.step, moved)
        return SamplerState(now.step + 1, moved)

    return _run(step, levels, x, on_step, state)


@torch.no_grad()
def sample_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    gamma: float = 0.3,
    corrector: float = 0.0,
    on_step: OnStep = ignore,
    state: SamplerState | None = None,
) -> Tensor:
    """Stochastic sampler of the reverse chain, with an optional Langevin corrector.

    VDM (arXiv:2204.03458), section 2. Arguments as in the module docstring. The published
    settings are gamma .1 and .3, or corrector .1 with gamma 0.

    noise      step i of n takes draw i; its correction takes draw n + i
    gamma      0..1, from the lower to the upper bound of the log-variance
    corrector  delta, the size of a Langevin step before every step; 0 is none
    returns    clean latents, float32
    raises     ValueError if sigmas do not fall to 0, or gamma or corrector is out of range

    Calls denoise n times, 2 n with a corrector.
    """
    _check_within("gamma", gamma, 0.0, 1.0)
    _check_within("corrector", corrector, 0.0, 1.0)
    levels = _levels(sigmas)
    steps = len(levels) - 1

    def step(now: SamplerState) -> SamplerState:
        sigma, sigma_s = levels[now.step : now.step + 2]
        state_x = now.x
        if corrector > 0:
            fresh = _drawn(noise, steps + now.step, state_x)
            state_x = _corrected(denoise, state_x, sigma, corrector, fresh)
        x0 = _estimate(denoise, state_x, sigma)
        if sigma_s == 0:
            return SamplerState(now.step + 1, x0)
        weights = ancestral_coefficients(sigma, sigma_s, gamma)
        moved = _linear(weights, state_x, x0)
        return SamplerState(now.step + 1, moved + weights.noise * _drawn(noise, now.step, moved))

    return _run(step, levels, x, on_step, state)


def _corrected(denoise: Denoise, x: Tensor, sigma: float, delta: float, fresh: Tensor) -> Tensor:
    """x - (delta/2) sigma eps(x) + sqrt(delta) sigma n: one Langevin step at this level.

    Differs: VDM corrects after a step, here before it, so that the last correction is made at the
    last noisy level and no call is spent at sigma 0.
    """
    eps_sigma = x - alpha_at(sigma) * _estimate(denoise, x, sigma)
    return x - (delta / 2) * eps_sigma + math.sqrt(delta) * sigma * fresh


@torch.no_grad()
def sample_dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    restarts: Collection[int] = (),
    on_step: OnStep = ignore,
    state: SamplerState | None = None,
) -> Tensor:
    """Deterministic second-order multistep sampler.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2. Arguments as in the module docstring.

    restarts  steps where the conditions change, so that the last estimate is another function's
    returns   clean latents, float32
    raises    ValueError if sigmas do not fall to 0, or the state does not belong to them

    Calls denoise n times. First order in the first two steps, in the step to sigma 0, and at
    restarts.
    """
    levels = _levels(sigmas)

    def step(now: SamplerState) -> SamplerState:
        sigma, sigma_s = levels[now.step : now.step + 2]
        x0 = _estimate(denoise, now.x, sigma)
        if sigma_s == 0:
            return SamplerState(now.step + 1, x0)
        # Differs: the second step too, for the first one on our grid is no match for it.
        single = now.step < 2 or now.step in restarts
        slope = x0 if single else _extrapolated(x0, now, levels)
        growth = alpha_at(sigma_s) * (1 - decay(sigma, sigma_s))  # -alpha_s (exp(-e) - 1)
        weights = Coefficients(x=sigma_s / sigma, x0=growth)
        return SamplerState(now.step + 1, _linear(weights, now.x, slope), x0, sigma)

    return _run(step, levels, x, on_step, state)


def _extrapolated(x0: Tensor, now: SamplerState, levels: list[float]) -> Tensor:
    """D = (1 + 1/(2 ratio)) x0 - x0_prev/(2 ratio), ratio = e_prev / e."""
    last, sigma, sigma_s = levels[now.step - 1 : now.step + 2]
    if now.x0 is None or now.sigma != last:
        raise ValueError(f"state must hold the estimate made at {last}, not at {now.sigma}")
    e = half_log_snr(sigma_s) - half_log_snr(sigma)
    e_prev = half_log_snr(sigma) - half_log_snr(last)
    share = e / (2 * e_prev)
    return (1 + share) * x0 - share * now.x0


@torch.no_grad()
def sample_few_step(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise,
    on_step: OnStep = ignore,
    state: SamplerState | None = None,
) -> Tensor:
    """Stochastic sampler for distilled weights: two levels down by DDIM, one level back up.

    Imagen Video (arXiv:2210.02303), section 2.7. Arguments as in the module docstring. Only for
    the step count that the weights were distilled to.

    noise    step i takes draw i
    returns  clean latents, float32
    raises   ValueError if sigmas do not fall to 0

    Calls denoise n times.
    """
    levels = _levels(sigmas)

    def step(now: SamplerState) -> SamplerState:
        sigma, sigma_s = levels[now.step : now.step + 2]
        x0 = _estimate(denoise, now.x, sigma)
        if sigma_s == 0:
            return SamplerState(now.step + 1, x0)
        sigma_e = levels[now.step + 2]
        below = _linear(ddim_coefficients(sigma, sigma_e, 0.0), now.x, x0)
        rho = alpha_at(sigma_s) / alpha_at(sigma_e)
        added = math.sqrt(sigma_s**2 - (rho * sigma_e) ** 2)
        return SamplerState(now.step + 1, rho * below + added * _drawn(noise, now.step, below))

    return _run(step, levels, x, on_step, state)


# ---------------------------------------------------------------------------- shared


def _run(
    step: Step, levels: list[float], x: Tensor, on_step: OnStep, state: SamplerState | None
) -> Tensor:
    now = SamplerState(0, x.float()) if state is None else state.on(x.device)
    _check_within("state.step", now.step, 0, len(levels) - 1)
    while now.step < len(levels) - 1:
        now = step(now)
        on_step(now)
    return now.x


def _estimate(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    x0 = denoise(x, sigma)
    if x0.shape != x.shape:
        raise ValueError(f"denoise must keep the shape {tuple(x.shape)}, not {tuple(x0.shape)}")
    return x0.float()


def _drawn(noise: Noise, draw: int, like: Tensor) -> Tensor:
    fresh = noise(draw)
    if fresh.shape != like.shape:
        raise ValueError(f"noise must be shaped {tuple(like.shape)}, not {tuple(fresh.shape)}")
    return fresh.to(like)


def _levels(sigmas: Tensor) -> list[float]:
    if sigmas.dtype != torch.float64:
        raise ValueError(f"sigmas must be float64, not {sigmas.dtype}")
    levels: list[float] = sigmas.tolist()
    falling = all(high > low for high, low in pairwise(levels))
    if len(levels) < 2 or not falling or levels[0] > 1 or levels[-1] != 0:
        raise ValueError(f"sigmas must fall strictly within [0, 1] to 0, not {levels}")
    return levels


def _check_within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must lie within {least:g}..{most:g}, not {value}")


def _required(noise: Noise | None, reason: str) -> Noise:
    if noise is None:
        raise ValueError(f"noise must be given with {reason}")
    return noise
