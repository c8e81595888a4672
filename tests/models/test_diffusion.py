"""Laws of the noise process: conversions, schedules, grids, addressed noise, distillation."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from models.videoldm.diffusion import (
    addressed_noise,
    alpha_of,
    cosine_lambda,
    cosine_u,
    denoiser,
    distillation_target,
    dpmpp_grid,
    eps_from_v,
    eps_from_x0,
    frame_noise,
    lambda_of,
    noised,
    sigma_of,
    trailing_grid,
    uniform_u_grid,
    v_from_x0,
    v_of,
    x0_from_v,
    zero_snr_levels,
)
from models.videoldm.samplers import alpha_at, ddim_coefficients

MEAN, STD = 0.7, 0.4  # of the Gaussian data


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The exact denoiser of data N(MEAN, STD)."""
    alpha = alpha_at(sigma)
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


def quantiles(count: int = 2001) -> Tensor:
    """Evenly spaced quantiles of N(0, 1), float64."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


def pair() -> tuple[Tensor, Tensor]:
    shape = (3, 4, 2, 5, 5)
    return addressed_noise(shape, 1), addressed_noise(shape, 2)


# ---------------------------------------------------------------------------- conversions


LEVELS = [
    pytest.param(0.3, id="one level"),
    pytest.param(torch.tensor([0.05, 0.6, 0.97], dtype=torch.float64), id="a level a sample"),
]


@pytest.mark.parametrize("sigma", LEVELS)
def test_x0_eps_and_v_round_trip(sigma: float | Tensor) -> None:
    x0, eps = pair()
    x, v = noised(x0, eps, sigma), v_of(x0, eps, sigma)
    torch.testing.assert_close(x0_from_v(x, v, sigma), x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(eps_from_v(x, v, sigma), eps, rtol=1e-6, atol=1e-6)
    x0, eps = x0.double(), eps.double()
    x, v = noised(x0, eps, sigma), v_of(x0, eps, sigma)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    close(x0_from_v(x, v, sigma), x0)
    close(eps_from_v(x, v, sigma), eps)
    close(v_from_x0(x, x0, sigma), v)
    close(eps_from_x0(x, x0, sigma), eps)


def test_a_level_a_sample_equals_each_sample_alone() -> None:
    x0, eps = pair()
    levels = torch.tensor([0.05, 0.6, 0.97], dtype=torch.float64)
    alone = [noised(x0[i : i + 1], eps[i : i + 1], float(levels[i])) for i in range(3)]
    assert torch.equal(noised(x0, eps, levels), torch.cat(alone))


def test_a_ddim_step_is_a_rotation() -> None:
    x0, eps = (side.double() for side in pair())
    phi, turn = 1.1, 0.4
    x, v = noised(x0, eps, math.sin(phi)), v_of(x0, eps, math.sin(phi))
    rotated = math.cos(turn) * x - math.sin(turn) * v
    torch.testing.assert_close(rotated, noised(x0, eps, math.sin(phi - turn)), rtol=0, atol=1e-12)
    weights = ddim_coefficients(math.sin(phi), math.sin(phi - turn), 0.0)
    torch.testing.assert_close(weights.x * x + weights.x0 * x0, rotated, rtol=0, atol=1e-12)


def test_velocity_error_is_x0_error_times_snr_plus_one() -> None:
    x0, eps = (side.double() for side in pair())
    sigma, wrong = 0.35, x0 + 0.1 * eps
    x = noised(x0, eps, sigma)
    v_error = (v_from_x0(x, wrong, sigma) - v_of(x0, eps, sigma)).square().mean()
    snr = float(lambda_of(sigma).exp())
    assert float(v_error) == pytest.approx((snr + 1) * float((wrong - x0).square().mean()))


def test_a_denoiser_keeps_the_precision_of_the_state() -> None:
    x0, eps = pair()
    x, v = noised(x0, eps, 0.6), v_of(x0, eps, 0.6)
    answer = denoiser(lambda _x, _sigma: v.bfloat16())(x, 0.6)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, x0, rtol=0, atol=0.02)
    torch.testing.assert_close(denoiser(lambda _x, _sigma: v)(x, 0.6), x0, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------- levels


def test_the_cosine_schedule_runs_from_plus_20_to_minus_20() -> None:
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = cosine_lambda(u)
    assert float(log_snr[0]) == pytest.approx(20, abs=1e-6)
    assert float(log_snr[-1]) == pytest.approx(-20, abs=1e-6)
    assert bool((log_snr.diff() < 0).all())
    torch.testing.assert_close(cosine_u(log_snr), u, rtol=0, atol=1e-9)


def test_levels_round_trip_through_log_snr() -> None:
    log_snr = torch.linspace(-20, 20, 401, dtype=torch.float64)
    torch.testing.assert_close(lambda_of(sigma_of(log_snr)), log_snr, rtol=0, atol=1e-6)


def test_the_noisiest_level_keeps_its_signal() -> None:
    sigma = sigma_of(-20.0)
    exact = 1 / math.sqrt(1 + math.exp(20))
    assert float(alpha_of(sigma)) == pytest.approx(exact, rel=1e-6)
    assert alpha_at(float(sigma)) == pytest.approx(exact, rel=1e-6)
    x0 = torch.ones(1, 1)
    signal = noised(x0, torch.zeros(1, 1), sigma.reshape(1))
    assert float(signal) == pytest.approx(exact, rel=1e-6)


def test_levels_of_lower_precision_are_refused() -> None:
    assert float(sigma_of(-20.0).float()) == 1.0  # what the law is for
    with pytest.raises(ValueError, match=r"must be float64, not torch\.float32"):
        alpha_of(torch.tensor([0.5]))
    with pytest.raises(ValueError, match="must be float64"):
        noised(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0.5]))


def test_zero_snr_keeps_the_first_level_and_ends_in_pure_noise() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).sqrt()
    assert float(alphas[-1]) == pytest.approx(0.068, abs=5e-4)  # the leak it repairs
    levels = zero_snr_levels()
    assert float(alpha_of(levels)[0]) == pytest.approx(float(alphas[0]), abs=1e-15)
    assert float(levels[-1]) == 1.0
    assert float(alpha_of(levels)[-1]) == 0.0
    assert bool((levels.diff() > 0).all())


# ---------------------------------------------------------------------------- grids


GRIDS = [uniform_u_grid, dpmpp_grid, trailing_grid]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 50, 100, 999, 1000])
def test_every_grid_falls_strictly_to_zero(grid: Callable[[int], Tensor], steps: int) -> None:
    sigmas = grid(steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float64
    assert bool((sigmas.diff() < 0).all())
    assert float(sigmas[0]) <= 1
    assert float(sigmas[-1]) == 0
    assert float(lambda_of(sigmas[0])) < -19.99


@pytest.mark.parametrize("grid", GRIDS)
def test_a_grid_without_steps_is_refused(grid: Callable[[int], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"steps must be .*, not 0"):
        grid(0)


def test_dpmpp_grid_is_uniform_in_log_snr_between_minus_7_and_7() -> None:
    log_snr = lambda_of(dpmpp_grid(25))
    assert float(log_snr[0]) == pytest.approx(-20, abs=1e-6)
    uniform = torch.linspace(-7, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(log_snr[1:-1], uniform, rtol=0, atol=1e-9)
    assert float(log_snr[-1]) == math.inf


def test_uniform_grid_is_uniform_in_u() -> None:
    u = cosine_u(lambda_of(uniform_u_grid(50)))
    torch.testing.assert_close(u[:-1], torch.arange(50, 0, -1) / 50.0, check_dtype=False)


def test_trailing_grid_holds_the_last_level() -> None:
    levels = zero_snr_levels()
    sigmas = trailing_grid(4)
    assert torch.equal(sigmas[:-1], levels[[999, 749, 499, 249]])
    with pytest.raises(ValueError, match=r"steps must be 1\.\.1000, not 1001"):
        trailing_grid(1001)


# ---------------------------------------------------------------------------- addressed noise


ADDRESSES: list[dict[str, Any]] = [
    {"seed": 6},
    {"seed": 5 + (1 << 32)},  # torch's own CPU generator would forget these bits
    {"seed": 5 + (1 << 62)},
    {"sample": 1},
    {"segment": 1},
    {"stage": "upsampler"},
    {"step": 0},
    {"step": 1},
    {"frame": 0},
]


def test_noise_is_found_by_its_address_alone() -> None:
    first = addressed_noise((4, 8), 5, sample=2, step=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    addressed_noise((7,), 9)
    assert torch.equal(addressed_noise((4, 8), 5, sample=2, step=3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_part_of_an_address_counts() -> None:
    draws = [addressed_noise((64,), **({"seed": 5} | part)) for part in [{}, *ADDRESSES]]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert float(correlations.abs().max()) < 0.5


def test_parts_of_an_address_do_not_run_together() -> None:
    one = addressed_noise((8,), 1, sample=12)
    other = addressed_noise((8,), 11, sample=2)
    assert not torch.equal(one, other)


def test_noise_is_standard_normal() -> None:
    noise = addressed_noise((200_000,), 3)
    assert noise.dtype == torch.float32
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)


def test_a_seed_keeps_its_film_from_build_to_build() -> None:
    drawn = addressed_noise((4,), 42, sample=1, segment=2, stage="base", step=3)
    pinned = torch.tensor([0.49086696, 0.77152514, 1.29699218, -0.24799815])
    torch.testing.assert_close(drawn, pinned, rtol=0, atol=1e-6)


def test_a_time_shared_by_two_rates_has_the_same_noise() -> None:
    slow = torch.arange(16, dtype=torch.float64) / 8
    fast = torch.arange(46, dtype=torch.float64) / 24
    a, b = frame_noise((4, 3, 3), slow, 7), frame_noise((4, 3, 3), fast.float(), 7)
    assert a.shape == (4, 16, 3, 3)
    assert torch.equal(a, b[:, ::3])
    shared = sum(torch.equal(b[:, i], a[:, j]) for i in range(46) for j in range(16))
    assert shared == 16


@pytest.mark.parametrize("fps", [1, 6, 8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 100, 120])
def test_a_usual_rate_lands_on_whole_ticks(fps: int) -> None:
    late = 1000 * fps  # where float32 seconds are coarse
    frames = torch.arange(late, late + fps, dtype=torch.float64)
    exact, coarse = frames / fps, (frames / fps).float()
    assert torch.equal(frame_noise((1, 1, 1), exact, 1), frame_noise((1, 1, 1), coarse, 1))


def test_frames_too_close_to_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="1/4800 s apart"):
        frame_noise((1, 1, 1), torch.tensor([0.0, 0.00001]), 1)


# ---------------------------------------------------------------------------- distillation


def ddim(denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: list[float]) -> Tensor:
    """DDIM in the precision of x."""
    for sigma, sigma_s in pairwise(sigmas):
        weights = ddim_coefficients(sigma, sigma_s, 0.0)
        x = weights.x * x + weights.x0 * denoise(x, sigma)
    return x


def student(steps: int) -> Callable[[Tensor, float], Tensor]:
    """What distillation would teach without error: 64 teacher steps, halved down to `steps`."""
    if steps == 64:
        return gaussian
    teacher = student(2 * steps)
    finer = uniform_u_grid(2 * steps).tolist()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        start = finer.index(sigma)
        way = finer[start : start + 3]
        return distillation_target(x, ddim(teacher, x, way), sigma, way[-1])

    return denoise


def test_one_step_with_the_target_lands_where_two_steps_of_the_teacher_do() -> None:
    x = quantiles(101)
    for way in ([0.9, 0.7, 0.4], [0.4, 0.2, 0.0]):
        x_end = ddim(gaussian, x, way)
        target = distillation_target(x, x_end, way[0], way[-1])
        weights = ddim_coefficients(way[0], way[-1], 0.0)
        landed = weights.x * x + weights.x0 * target
        torch.testing.assert_close(landed, x_end, rtol=0, atol=1e-10)


def test_the_last_target_is_the_second_estimate_of_the_teacher() -> None:
    x = quantiles(101)
    x_mid = ddim(gaussian, x, [0.4, 0.2])
    target = distillation_target(x, ddim(gaussian, x_mid, [0.2, 0.0]), 0.4, 0.0)
    torch.testing.assert_close(target, gaussian(x_mid, 0.2), rtol=0, atol=1e-12)


UNDISTILLED = {32: 0.011, 16: 0.031, 8: 0.069, 4: 0.139, 2: 0.248, 1: 0.386}


@pytest.mark.parametrize("steps", UNDISTILLED)
def test_a_perfect_student_equals_its_teacher(steps: int) -> None:
    x = quantiles()
    teacher = ddim(gaussian, x, uniform_u_grid(64).tolist())
    sigmas = uniform_u_grid(steps).tolist()
    torch.testing.assert_close(ddim(student(steps), x, sigmas), teacher, rtol=0, atol=1e-10)
    error = (ddim(gaussian, x, sigmas) - teacher).square().mean().sqrt()
    assert float(error) == pytest.approx(UNDISTILLED[steps], rel=0.03)
