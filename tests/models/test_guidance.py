"""Laws of guidance: what runs, what comes out, and reconstruction on a process with known truth."""

import math
from itertools import pairwise

import pytest
import torch
from einops import rearrange
from torch import Tensor

from models.videoldm.diffusion import (
    addressed_noise,
    denoiser,
    dpmpp_grid,
    eps_from_v,
    noised,
    uniform_u_grid,
    v_from_x0,
    x0_from_v,
)
from models.videoldm.guidance import (
    FULL,
    IMAGES,
    NULL,
    Branch,
    at_level,
    branch_weights,
    frame_scale,
    guide,
    guide_to_frames,
    guide_to_small,
    oscillating_scale,
    rescaled,
)
from models.videoldm.samplers import alpha_at, sample_ddim, sample_dpmpp_2m

SHAPE = (2, 4, 5, 3, 3)  # b c t h w
SIGMA = 0.6
ANSWERS = {
    branch: addressed_noise(SHAPE, 1, step=step) for step, branch in enumerate((NULL, IMAGES, FULL))
}
X = addressed_noise(SHAPE, 2)


class Network:
    """A network with a fixed answer a branch, which remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[Branch] = []

    def __call__(self, x: Tensor, sigma: float, branch: Branch) -> Tensor:
        self.asked.append(branch)
        return ANSWERS[branch]


# ---------------------------------------------------------------------------- composition


def test_unguided_is_one_forward_and_the_conditional_model_bit_for_bit() -> None:
    for images in (None, 1.0):
        network = Network()
        v = guide(network, 1.0, images, rescale=0.7)(X, SIGMA)
        assert network.asked == [FULL]
        assert torch.equal(v, ANSWERS[FULL])


def test_scale_zero_is_one_forward_and_the_null_branch_bit_for_bit() -> None:
    for images in (None, 0.0):
        network = Network()
        v = guide(network, 0.0, images, rescale=0.7)(X, SIGMA)
        assert network.asked == [NULL]
        assert torch.equal(v, ANSWERS[NULL])


@pytest.mark.parametrize(
    ("text", "images", "asked"),
    [
        (4.0, None, {NULL, FULL}),
        (4.0, 4.0, {NULL, FULL}),
        (4.0, 1.0, {IMAGES, FULL}),
        (0.0, 1.0, {IMAGES}),
        (0.0, 1.5, {NULL, IMAGES}),
        (7.5, 5.0, {NULL, IMAGES, FULL}),
        (1.0, 1.5, {NULL, IMAGES, FULL}),
    ],
)
def test_only_terms_that_count_are_run(
    text: float, images: float | None, asked: set[Branch]
) -> None:
    network = Network()
    v = guide(network, text, images)(X, SIGMA)
    assert len(network.asked) == len(asked)
    assert set(network.asked) == asked
    s_y, s_c = text, text if images is None else images
    expected = (1 - s_c) * ANSWERS[NULL] + (s_c - s_y) * ANSWERS[IMAGES] + s_y * ANSWERS[FULL]
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(("text", "images"), [(4.0, None), (7.5, 5.0), (0.0, 1.5)])
def test_mixing_in_v_eps_or_x0_is_the_same(text: float, images: float | None) -> None:
    x = X.double()
    answers = {branch: v.double() for branch, v in ANSWERS.items()}
    v = guide(lambda _x, _s, branch: answers[branch], text, images)(x, SIGMA)
    for convert in (x0_from_v, eps_from_v):
        turned = {branch: convert(x, answer, SIGMA) for branch, answer in answers.items()}
        mixed = guide(lambda _x, _s, branch, turned=turned: turned[branch], text, images)(x, SIGMA)
        torch.testing.assert_close(mixed, convert(x, v, SIGMA), rtol=0, atol=1e-6)


def test_half_precision_answers_are_mixed_in_full_precision() -> None:
    halves = {branch: v.bfloat16() for branch, v in ANSWERS.items()}
    v = guide(lambda _x, _s, branch: halves[branch], 15.0)(X, SIGMA)
    expected = -14 * halves[NULL].float() + 15 * halves[FULL].float()
    torch.testing.assert_close(v, expected, rtol=1e-6, atol=5e-6)


def test_weights_sum_to_one() -> None:
    for text, images in ((4.0, None), (7.5, 5.0), (0.0, 1.5), (1.0, 1.0)):
        assert math.isclose(sum(map(float, branch_weights(text, images).values())), 1.0)


def test_guidance_moves_a_gaussian_along_the_line_of_the_two_means() -> None:
    def predict_v(x: Tensor, sigma: float, branch: Branch) -> Tensor:
        alpha, mean, std = alpha_at(sigma), 0.5 if branch.text else -0.2, 0.4
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return v_from_x0(x, mean + gain * (x - alpha * mean), sigma)

    start = torch.tensor([[-1.0], [0.0], [1.0]])
    clean = sample_dpmpp_2m(denoiser(guide(predict_v, 3.0)), start, dpmpp_grid(100))
    mean = -0.2 + 3.0 * (0.5 + 0.2)
    torch.testing.assert_close(clean, mean + 0.4 * start, rtol=0, atol=5e-3)


# ---------------------------------------------------------------------------- rescale


def test_a_full_rescale_has_the_spread_of_the_conditional_branch_in_every_sample() -> None:
    v = guide(Network(), 7.5, rescale=1.0)(X, SIGMA)
    for sample, reference in zip(v, ANSWERS[FULL], strict=True):
        assert float(sample.std()) == pytest.approx(float(reference.std()), rel=1e-5)


def test_rescale_mixes_by_phi() -> None:
    guided = guide(Network(), 7.5)(X, SIGMA)
    full = rescaled(guided, ANSWERS[FULL], 1.0)
    v = guide(Network(), 7.5, rescale=0.7)(X, SIGMA)
    torch.testing.assert_close(v, 0.7 * full + 0.3 * guided, rtol=1e-6, atol=2e-6)


def test_rescale_of_one_sample_does_not_depend_on_its_batch() -> None:
    guided = guide(Network(), 7.5)(X, SIGMA)
    alone = rescaled(guided[:1], ANSWERS[FULL][:1], 0.7)
    torch.testing.assert_close(rescaled(guided, ANSWERS[FULL], 0.7)[:1], alone)


def test_rescale_out_of_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"guidance rescale must lie within 0\.\.1, not 1\.5"):
        guide(Network(), 4.0, rescale=1.5)
    with pytest.raises(ValueError, match="needs a text scale other than 0"):
        guide(Network(), 0.0, 1.5, rescale=0.7)(X, SIGMA)


# ---------------------------------------------------------------------------- scales


def test_oscillation_is_high_first_and_alternates_after() -> None:
    scales = [oscillating_scale(step, 20) for step in range(20)]
    assert scales == [15.0, 15.0] + [1.0, 15.0] * 9
    assert [oscillating_scale(step, 4) for step in range(4)] == [1.0, 15.0, 1.0, 15.0]


def test_an_oscillating_scale_saves_the_forwards_of_its_low_steps() -> None:
    steps, network = 20, Network()
    sigmas = uniform_u_grid(steps)
    scale = at_level(sigmas, lambda step: oscillating_scale(step, steps))
    sample_ddim(denoiser(guide(network, scale)), X, sigmas)
    assert len(network.asked) == 11 * 2 + 9


def test_a_level_off_the_grid_is_refused() -> None:
    sigmas = uniform_u_grid(4)
    step_at = at_level(sigmas, lambda step: step)
    assert [step_at(sigma) for sigma in sigmas.tolist()] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"sigma 0\.5 is not a level of the grid"):
        step_at(0.5)


def test_a_scale_over_frames_guides_each_frame_by_its_own() -> None:
    scale = frame_scale(3.0, SHAPE[2])
    v = guide(Network(), scale)(X, SIGMA)
    for frame, alone in enumerate([1.0, 1.5, 2.0, 2.5, 3.0]):
        expected = guide(Network(), alone)(X, SIGMA)[:, :, frame]
        torch.testing.assert_close(v[:, :, frame], expected, rtol=1e-6, atol=2e-6)


# ---------------------------------------------------------------------------- reconstruction
# AR(1) process of eight frames with coefficient .95. Everything is linear, so a run from zero
# with zero noise gives the exact mean of all runs.

FRAMES = 8
COVARIANCE = 0.95 ** (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).abs().double()
GIVEN = slice(0, 4)  # the block is extended
ASKED = slice(4, 8)
KNOWN = 1.5 * torch.ones(1, 1, FRAMES, 1, 1)
MASK = rearrange((torch.arange(FRAMES) < 4).float(), "t -> 1 1 t 1 1")
STEPS = 256


def autoregressive(x: Tensor, sigma: float) -> Tensor:
    """The exact denoiser of the process, over (b, c, t, h, w)."""
    gain = gain_at(sigma).to(x)
    return torch.einsum("s t, b c t h w -> b c s h w", gain, x)


def gain_at(sigma: float) -> Tensor:
    alpha = alpha_at(sigma)
    noisy = alpha**2 * COVARIANCE + sigma**2 * torch.eye(FRAMES)
    return alpha * torch.linalg.solve(noisy, COVARIANCE)


def true_mean() -> Tensor:
    """Of the asked frames, given the known ones."""
    known = KNOWN.double().flatten()[GIVEN]
    weights = COVARIANCE[ASKED, GIVEN] @ torch.linalg.inv(COVARIANCE[GIVEN, GIVEN])
    return weights @ known


def silence(_sigma: float) -> Tensor:
    return torch.zeros_like(KNOWN)


def mean_error(weight: float) -> float:
    denoise = guide_to_frames(autoregressive, KNOWN, MASK, weight, silence)
    mean = sample_ddim(denoise, torch.zeros_like(KNOWN), uniform_u_grid(STEPS)).flatten()
    return float((mean[ASKED] - true_mean()).abs().mean())


def mean_error_by_hand(weight: float) -> float:
    """The same with the gradient -2 M_ab^T (known_a - x0_a) written out."""
    sigmas = uniform_u_grid(STEPS).tolist()
    known = KNOWN.double().flatten()[GIVEN]
    x = torch.zeros(FRAMES, dtype=torch.float64)
    for sigma, sigma_s in pairwise(sigmas):
        alpha, gain = alpha_at(sigma), gain_at(sigma)
        x[GIVEN] = alpha * known
        x0 = gain @ x
        pull = -2 * gain[GIVEN, ASKED].T @ (known - x0[GIVEN])
        x0[ASKED] -= weight * alpha / 2 * pull
        x = alpha_at(sigma_s) * x0 + sigma_s * (x - alpha * x0) / sigma
    return float((x[ASKED] - true_mean()).abs().mean())


RECONSTRUCTION = {0: 0.67, 1: 0.47, 2: 0.31, 3: 0.17, 5: 0.03, 9: 0.25}


def test_reconstruction_guidance_brings_the_mean_to_the_known_frames() -> None:
    errors = {weight: mean_error(weight) for weight in RECONSTRUCTION}
    for weight, error in errors.items():
        assert error == pytest.approx(mean_error_by_hand(weight), abs=1e-4)
        assert error == pytest.approx(RECONSTRUCTION[weight], abs=6e-3)
    assert errors[0] > errors[1] > errors[2] > errors[3] > errors[5] < errors[9]


def test_the_exact_conditional_denoiser_reaches_the_conditional_mean() -> None:
    def exact(x: Tensor, sigma: float) -> Tensor:
        """E[x0 | noisy asked frames, clean known frames]."""
        known = KNOWN.double().flatten()[GIVEN]
        weights = COVARIANCE[ASKED, GIVEN] @ torch.linalg.inv(COVARIANCE[GIVEN, GIVEN])
        rest = COVARIANCE[ASKED, ASKED] - weights @ COVARIANCE[GIVEN, ASKED]
        alpha, asked = alpha_at(sigma), x.double().flatten()[ASKED]
        noisy = alpha**2 * rest + sigma**2 * torch.eye(4)
        update = alpha * rest @ torch.linalg.solve(noisy, asked - alpha * weights @ known)
        return torch.cat([known, weights @ known + update]).to(x).reshape(x.shape)

    mean = sample_ddim(exact, torch.zeros_like(KNOWN), uniform_u_grid(STEPS)).flatten()
    assert float((mean[ASKED] - true_mean()).abs().mean()) < 0.02


def test_known_frames_are_noised_afresh_at_every_level_and_come_out_unchanged() -> None:
    sigmas = uniform_u_grid(6)
    fresh = at_level(sigmas, lambda step: addressed_noise(tuple(KNOWN.shape), 3, step=step))
    seen: dict[float, Tensor] = {}

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen[sigma] = x.detach()
        return autoregressive(x, sigma)

    start = addressed_noise(tuple(KNOWN.shape), 4)
    clean = sample_ddim(guide_to_frames(denoise, KNOWN, MASK, 2.0, fresh), start, sigmas)
    assert list(seen) == sigmas.tolist()[:-1]
    for sigma, x in seen.items():
        expected = noised(KNOWN, fresh(sigma), sigma)
        torch.testing.assert_close(x[:, :, GIVEN], expected[:, :, GIVEN], rtol=0, atol=1e-6)
    assert torch.equal(clean[:, :, GIVEN], KNOWN[:, :, GIVEN])
    assert torch.equal(next(iter(seen.values()))[:, :, ASKED], start[:, :, ASKED])
    assert not clean.requires_grad


def test_weight_zero_is_replacement() -> None:
    x = addressed_noise(tuple(KNOWN.shape), 4)
    replaced = torch.where(MASK.bool(), alpha_at(SIGMA) * KNOWN, x)
    expected = torch.where(MASK.bool(), KNOWN, autoregressive(replaced, SIGMA))
    found = guide_to_frames(autoregressive, KNOWN, MASK, 0.0, silence)(x, SIGMA)
    torch.testing.assert_close(found, expected)


def test_spatial_reconstruction_pulls_the_estimate_to_the_small_clip() -> None:
    """For x0 = k x and the mean of pairs, the gradient is -k (known - down(x0)) in each pixel."""
    k, weight = 0.8, 1.7
    x, known = addressed_noise((1, 1, 1, 2, 4), 5), addressed_noise((1, 1, 1, 2, 2), 6)

    def down(x0: Tensor) -> Tensor:
        return rearrange(x0, "b c t h (w pair) -> b c t h w pair", pair=2).mean(-1)

    found = guide_to_small(lambda x, _: k * x, known, down, weight)(x, SIGMA)
    missing = (known - down(k * x)).repeat_interleave(2, dim=-1)
    expected = k * x + weight * alpha_at(SIGMA) / 2 * k * missing
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_reconstruction_of_a_sample_does_not_depend_on_its_batch() -> None:
    shape = (3, 2, FRAMES, 2, 2)
    x, known = addressed_noise(shape, 7), addressed_noise(shape, 8)
    guided = [
        guide_to_frames(autoregressive, known[:count], MASK, 2.0, silence) for count in (3, 1)
    ]
    torch.testing.assert_close(guided[0](x, SIGMA)[:1], guided[1](x[:1], SIGMA))


def test_a_pulled_estimate_holds_on_to_no_graph() -> None:
    x = addressed_noise(tuple(KNOWN.shape), 4)
    over_time = guide_to_frames(autoregressive, KNOWN, MASK, 2.0, silence)
    over_space = guide_to_small(autoregressive, KNOWN, torch.clone, 2.0)
    assert not over_time(x, SIGMA).requires_grad
    assert not over_space(x, SIGMA).requires_grad
    assert not x.requires_grad
