"""Laws of the samplers: order on a Gaussian, exact noise, resume bit for bit, clean refusals."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from models.videoldm.diffusion import (
    addressed_noise,
    dpmpp_grid,
    sigma_of,
    trailing_grid,
    uniform_u_grid,
)
from models.videoldm.samplers import (
    Denoise,
    Noise,
    SamplerState,
    alpha_at,
    ancestral_coefficients,
    ddim_coefficients,
    half_log_snr,
    sample_ancestral,
    sample_ddim,
    sample_dpmpp_2m,
    sample_few_step,
)

MEAN, STD = 0.7, 0.4  # of the Gaussian data
SHAPE = (2, 3, 4)

Sampler = Callable[..., Tensor]


def draws(step: int) -> Tensor:
    return addressed_noise(SHAPE, 11, step=step)


SAMPLERS: dict[str, tuple[Sampler, dict[str, Any]]] = {
    "ddim": (sample_ddim, {}),
    "ddim eta .5": (sample_ddim, {"eta": 0.5, "noise": draws}),
    "ddim eta 1": (sample_ddim, {"eta": 1.0, "noise": draws}),
    "ancestral": (sample_ancestral, {"noise": draws, "gamma": 0.3}),
    "langevin": (sample_ancestral, {"noise": draws, "gamma": 0.0, "corrector": 0.1}),
    "2m": (sample_dpmpp_2m, {}),
    "2m restarted": (sample_dpmpp_2m, {"restarts": (4,)}),
    "few-step": (sample_few_step, {"noise": draws}),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def run(name: str, denoise: Denoise, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
    sampler, settings = SAMPLERS[name]
    return sampler(denoise, x, sigmas, **(settings | options))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The exact denoiser of data N(MEAN, STD)."""
    return MEAN + gain(sigma) * (x - alpha_at(sigma) * MEAN)


def gain(sigma: float) -> float:
    alpha = alpha_at(sigma)
    return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)


def spread(sigma: float) -> float:
    """True standard deviation of the noised data."""
    return math.hypot(alpha_at(sigma) * STD, sigma)


def crooked(x: Tensor, sigma: float) -> Tensor:
    """A denoiser that is linear in nothing."""
    return torch.tanh(1.5 * x + sigma) + 0.3 * torch.sin(3 * x)


def levels(*sigmas: float) -> Tensor:
    return torch.tensor(sigmas, dtype=torch.float64)


def quantiles() -> Tensor:
    """Evenly spaced quantiles of N(0, 1)."""
    return torch.special.ndtri((torch.arange(20001, dtype=torch.float64) + 0.5) / 20001)


def states_of(name: str, denoise: Denoise, x: Tensor, sigmas: Tensor) -> list[SamplerState]:
    states = [SamplerState(0, x)]
    run(name, denoise, x, sigmas, on_step=states.append)
    return states


# ---------------------------------------------------------------------------- order


SPAN = (math.sin(math.pi * 0.98 / 2), math.sin(math.pi * 0.02 / 2))  # u .98 -> .02, alpha = cos


def cosine_span(steps: int) -> Tensor:
    """Uniform in u over SPAN, then the step to 0."""
    u = torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)
    return torch.cat([torch.sin(math.pi * u / 2), torch.zeros(1, dtype=torch.float64)])


def lambda_span(steps: int) -> Tensor:
    """Uniform in log-SNR over SPAN, then the step to 0."""
    ends = [2 * half_log_snr(sigma) for sigma in SPAN]
    inner = sigma_of(torch.linspace(ends[0], ends[1], steps + 1, dtype=torch.float64))
    return torch.cat([inner, torch.zeros(1, dtype=torch.float64)])


def ode_error(name: str, sigmas: Tensor) -> float:
    """RMSE one step before the end against the exact solution, which keeps the quantile."""
    z = quantiles()
    first, last = float(sigmas[0]), float(sigmas[-2])
    start = (alpha_at(first) * MEAN + spread(first) * z).float()
    reached = states_of(name, gaussian, start, sigmas)[-2].x
    return float((reached - (alpha_at(last) * MEAN + spread(last) * z)).square().mean().sqrt())


def test_ddim_is_of_first_order() -> None:
    errors = [ode_error("ddim", cosine_span(steps)) for steps in (8, 16, 32, 64, 128)]
    assert errors == pytest.approx([7.2e-2, 3.8e-2, 1.9e-2, 9.7e-3, 4.9e-3], rel=0.015)
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.1)


def test_dpmpp_2m_is_of_second_order() -> None:
    errors = [ode_error("2m", lambda_span(steps)) for steps in (8, 16, 32, 64, 128)]
    # With one step of first order at the start, not two, the first would be 7.5e-3.
    assert errors == pytest.approx([7.3e-3, 4.0e-3, 1.1e-3, 2.8e-4, 7.1e-5], rel=0.015)
    for coarse, fine in pairwise(errors[1:]):
        assert coarse / fine >= 3.5


def test_a_step_of_2m_is_that_of_the_paper_on_uneven_levels() -> None:
    sigmas = levels(0.95, 0.9, 0.7, 0.2, 0.0)
    states = states_of("2m", crooked, draws(99).double(), sigmas)
    last, sigma, sigma_s = sigmas.tolist()[1:4]
    x0, x0_last = crooked(states[2].x, sigma), crooked(states[1].x, last)
    e = half_log_snr(sigma_s) - half_log_snr(sigma)
    ratio = (half_log_snr(sigma) - half_log_snr(last)) / e
    slope = (1 + 1 / (2 * ratio)) * x0 - x0_last / (2 * ratio)
    expected = sigma_s / sigma * states[2].x - alpha_at(sigma_s) * (math.exp(-e) - 1) * slope
    torch.testing.assert_close(states[3].x, expected, rtol=0, atol=1e-6)


def test_the_grid_of_2m_beats_its_rivals() -> None:
    def error(name: str, sigmas: Tensor) -> float:
        z = quantiles()
        clean = run(name, gaussian, z.float(), sigmas)
        return float((clean - (MEAN + STD * z)).square().mean().sqrt())

    everywhere = torch.linspace(-20, 20, 25, dtype=torch.float64)
    full = torch.cat([sigma_of(everywhere), torch.zeros(1, dtype=torch.float64)])
    assert error("2m", dpmpp_grid(25)) == pytest.approx(9e-4, rel=0.06)
    assert error("2m", full) == pytest.approx(1.3e-2, rel=0.03)
    assert error("ddim", uniform_u_grid(25)) == pytest.approx(2.8e-2, rel=0.03)


# ---------------------------------------------------------------------------- noise


def basis(steps: int, draws_a_step: int = 1) -> tuple[Tensor, Noise]:
    """Start and draws along axes of their own: the end then holds its share of every draw."""
    axes = torch.eye(1 + draws_a_step * steps)
    return axes[0], lambda draw: axes[1 + draw]


def centred(x: Tensor, sigma: float) -> Tensor:
    """The exact denoiser of data N(0, STD)."""
    return gain(sigma) * x


def ancestral_std(steps: int, gamma: float) -> float:
    """Exact standard deviation at the end of SPAN, from the share of every draw."""
    start, noise = basis(steps)
    states: list[SamplerState] = []
    sample_ancestral(
        centred,
        spread(SPAN[0]) * start,
        cosine_span(steps),
        noise,
        gamma=gamma,
        on_step=states.append,
    )
    return float(states[-2].x.norm())


ANCESTRAL_STD = {0.0: (0.331, 0.380, 0.396, 0.400), 1.0: (0.434, 0.409, 0.403, 0.403)}


def test_ancestral_spread_converges_from_below_and_from_above() -> None:
    found = {
        gamma: [ancestral_std(steps, gamma) for steps in (16, 64, 256, 1024)]
        for gamma in (0.0, 0.3, 1.0)
    }
    for gamma, table in ANCESTRAL_STD.items():
        assert found[gamma] == pytest.approx(table, abs=2e-3)
    truth = spread(SPAN[1])
    assert truth == pytest.approx(0.401, abs=5e-4)
    for low, between, high in zip(*found.values(), strict=True):
        assert low < between < high
        assert low < truth < high
    for errors in ([truth - low for low in found[0.0]], [high - truth for high in found[1.0]]):
        assert all(coarse / fine > 2.5 for coarse, fine in pairwise(errors))


LEVEL_PAIRS = [
    (float(sigmas[i]), float(sigmas[i + 1]))
    for sigmas in (uniform_u_grid(40), dpmpp_grid(25), trailing_grid(30))
    for i in range(len(sigmas) - 2)
]


def test_full_eta_is_ancestral_with_the_lower_variance() -> None:
    for sigma, sigma_s in LEVEL_PAIRS:
        ddim = ddim_coefficients(sigma, sigma_s, 1.0)
        ancestral = ancestral_coefficients(sigma, sigma_s, 0.0)
        assert ddim.x == pytest.approx(ancestral.x, abs=1e-12)
        assert ddim.x0 == pytest.approx(ancestral.x0, abs=1e-12)
        assert ddim.noise == pytest.approx(ancestral.noise, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_coefficients_are_those_of_the_paper(eta: float) -> None:
    for sigma, sigma_s in LEVEL_PAIRS:
        alpha, alpha_s = alpha_at(sigma), alpha_at(sigma_s)
        g = eta * (sigma_s / sigma) * math.sqrt(1 - alpha**2 / alpha_s**2)
        kept = math.sqrt(max(sigma_s**2 - g**2, 0.0))
        found = ddim_coefficients(sigma, sigma_s, eta)
        assert found.noise == pytest.approx(g, abs=1e-7)
        assert found.x == pytest.approx(kept / sigma, abs=1e-7)
        assert found.x0 == pytest.approx(alpha_s - alpha * kept / sigma, abs=1e-7)


def test_ancestral_variance_runs_between_its_bounds() -> None:
    for sigma, sigma_s in LEVEL_PAIRS:
        q = math.exp(2 * (half_log_snr(sigma) - half_log_snr(sigma_s)))
        for gamma in (0.0, 0.1, 1.0):
            low, high = (1 - q) * sigma_s**2, (1 - q) * sigma**2
            found = ancestral_coefficients(sigma, sigma_s, gamma).noise ** 2
            assert found == pytest.approx(low ** (1 - gamma) * high**gamma, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["ddim", "ddim eta .5", "ddim eta 1", "langevin off", "2m", "few-step"]
)
def test_known_data_meets_exactly_the_noise_of_every_level(name: str) -> None:
    steps, clean = 12, 0.3
    sigmas = uniform_u_grid(steps)
    start, noise = basis(steps)
    sampler, settings = SAMPLERS.get(name, (sample_ancestral, {"gamma": 0.0}))
    settings = settings | ({} if name in ("ddim", "2m") else {"noise": noise})
    states: list[SamplerState] = []
    x = alpha_at(float(sigmas[0])) * clean + float(sigmas[0]) * start
    sampler(lambda x, _: torch.full_like(x, clean), x, sigmas, on_step=states.append, **settings)
    for state in states:
        sigma = float(sigmas[state.step])
        noise_part = state.x - alpha_at(sigma) * clean
        assert float(noise_part.norm()) == pytest.approx(sigma, abs=2e-6)


def test_a_langevin_correction_is_the_published_one() -> None:
    delta, sigmas = 0.1, torch.tensor([0.6, 0.0], dtype=torch.float64)
    start, noise = basis(1, draws_a_step=2)
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x)
        return gaussian(x, sigma)

    sample_ancestral(denoise, start, sigmas, noise, gamma=0.0, corrector=delta)
    eps = (start - alpha_at(0.6) * gaussian(start, 0.6)) / 0.6
    corrected = start - delta / 2 * 0.6 * eps + math.sqrt(delta) * 0.6 * noise(1)
    torch.testing.assert_close(seen[1], corrected, rtol=0, atol=1e-6)


def test_the_corrector_brings_the_spread_nearer_to_the_truth() -> None:
    steps = 64
    sigmas = uniform_u_grid(steps)
    start, noise = basis(steps, draws_a_step=2)
    plain, corrected = (
        float(sample_ancestral(centred, start, sigmas, noise, 0.0, corrector=delta).norm())
        for delta in (0.0, 0.1)
    )
    assert plain < corrected < STD


# ---------------------------------------------------------------------------- calls and dtypes


@every_sampler
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_every_step_is_one_call_and_a_corrector_one_more(name: str, steps: int) -> None:
    seen: list[float] = []
    reported: list[int] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(sigma)
        return crooked(x, sigma)

    def on_step(state: SamplerState) -> None:
        reported.append(state.step)

    sigmas = dpmpp_grid(steps)
    run(name, denoise, draws(99), sigmas, on_step=on_step)
    calls_a_step = 2 if name == "langevin" else 1
    assert seen == [sigma for sigma in sigmas.tolist()[:-1] for _ in range(calls_a_step)]
    assert reported == list(range(1, steps + 1))


@every_sampler
def test_the_last_step_returns_the_estimate_itself(name: str) -> None:
    estimates: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        estimates.append(crooked(x, sigma))
        return estimates[-1]

    assert torch.equal(run(name, denoise, draws(99), dpmpp_grid(6)), estimates[-1])


@every_sampler
def test_the_state_is_float32_whatever_the_model_answers_in(name: str) -> None:
    def half(x: Tensor, sigma: float) -> Tensor:
        assert x.dtype == torch.float32
        return crooked(x, sigma).bfloat16()

    states: list[SamplerState] = []
    clean = run(name, half, draws(99).bfloat16(), dpmpp_grid(6), on_step=states.append)
    assert {state.x.dtype for state in states} == {clean.dtype} == {torch.float32}


@every_sampler
@pytest.mark.parametrize("grid", [uniform_u_grid, dpmpp_grid, trailing_grid])
def test_pure_noise_at_the_top_is_no_obstacle(name: str, grid: Callable[[int], Tensor]) -> None:
    clean = run(name, gaussian, draws(99), grid(30))
    assert bool(clean.isfinite().all())
    assert bool(((clean - MEAN).abs() < 6 * STD).all())


# ---------------------------------------------------------------------------- resume, cancel


def stored(state: SamplerState) -> SamplerState:
    """The state after a way through a file."""
    tensors = {"x": state.x} | ({} if state.x0 is None else {"x0": state.x0})
    back = load(save(tensors))
    return SamplerState(state.step, back["x"], back.get("x0"), state.sigma)


@every_sampler
@pytest.mark.parametrize("steps", [8, 20])
def test_resumed_at_any_step_equals_uninterrupted(name: str, steps: int) -> None:
    sigmas = dpmpp_grid(steps)
    states = states_of(name, crooked, draws(99), sigmas)
    for state in states:
        ignored = torch.full(SHAPE, math.nan)
        resumed = run(name, crooked, ignored, sigmas, state=stored(state))
        assert torch.equal(resumed, states[-1].x)


@every_sampler
def test_a_raising_callback_stops_the_run_and_leaves_nothing_dirty(name: str) -> None:
    sigmas, x = dpmpp_grid(8), draws(99)
    clean = run(name, crooked, x, sigmas)

    def stop(state: SamplerState) -> None:
        if state.step == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(name, crooked, x, sigmas, on_step=stop)
    assert torch.equal(x, draws(99))
    assert torch.equal(run(name, crooked, x, sigmas), clean)


@pytest.mark.parametrize("restarts", [(), (5,)])
def test_2m_forgets_its_last_estimate_at_a_restart(restarts: tuple[int, ...]) -> None:
    sigmas = dpmpp_grid(20)
    states: list[SamplerState] = []
    clean = sample_dpmpp_2m(crooked, draws(99), sigmas, restarts, states.append)
    at_restart = states[4]
    foreign = SamplerState(at_restart.step, at_restart.x, draws(7), at_restart.sigma)
    resumed = sample_dpmpp_2m(crooked, draws(99), sigmas, restarts, state=foreign)
    assert torch.equal(resumed, clean) == (5 in restarts)


# ---------------------------------------------------------------------------- refusals


@every_sampler
@pytest.mark.parametrize(
    "sigmas",
    [
        levels(0.9, 0.5, 0.5, 0.0),
        levels(0.5, 0.9, 0.0),
        levels(0.9, 0.5),
        levels(1.1, 0.5, 0.0),
        levels(0.5, 0.0, -0.1),
        levels(0.9, math.nan, 0.0),
        levels(0.0),
        levels(),
    ],
)
def test_levels_that_do_not_fall_to_zero_are_refused(name: str, sigmas: Tensor) -> None:
    with pytest.raises(ValueError, match="must fall strictly within"):
        run(name, crooked, draws(99), sigmas)


@every_sampler
def test_levels_of_lower_precision_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sigmas must be float64"):
        run(name, crooked, draws(99), dpmpp_grid(4).float())


@every_sampler
def test_an_estimate_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="denoise must keep the shape"):
        run(name, lambda x, _: x[:, :1], draws(99), dpmpp_grid(4))


@every_sampler
def test_a_state_beyond_the_grid_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"state\.step must lie within 0\.\.4, not 5"):
        run(name, crooked, draws(99), dpmpp_grid(4), state=SamplerState(5, draws(99)))


def test_a_2m_state_of_another_grid_is_refused() -> None:
    state = states_of("2m", crooked, draws(99), dpmpp_grid(20))[4]
    with pytest.raises(ValueError, match="state must hold the estimate made at"):
        sample_dpmpp_2m(crooked, draws(99), dpmpp_grid(30), state=state)
    bare = SamplerState(4, state.x)
    with pytest.raises(ValueError, match="state must hold the estimate made at"):
        sample_dpmpp_2m(crooked, draws(99), dpmpp_grid(20), state=bare)


def test_settings_out_of_range_are_refused() -> None:
    x, grid = draws(99), dpmpp_grid(4)
    with pytest.raises(ValueError, match=r"eta must lie within 0\.\.1, not 1\.5"):
        sample_ddim(crooked, x, grid, draws, eta=1.5)
    with pytest.raises(ValueError, match="noise must be given with eta above 0"):
        sample_ddim(crooked, x, grid, eta=0.5)
    with pytest.raises(ValueError, match=r"gamma must lie within 0\.\.1, not -1"):
        sample_ancestral(crooked, x, grid, draws, gamma=-1)
    with pytest.raises(ValueError, match=r"corrector must lie within 0\.\.1, not nan"):
        sample_ancestral(crooked, x, grid, draws, corrector=math.nan)
    with pytest.raises(ValueError, match="noise must be shaped"):
        sample_ancestral(crooked, x, grid, lambda _: torch.zeros(1))
