"""Laws of temporal interpolation, on a tiny random network."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models.videoldm.conditioning import Conditions, Kind, Rate
from models.videoldm.interpolation import (
    Interpolator,
    dense_times,
    interpolated,
    network_calls,
    plan_passes,
    residual,
    window_conditions,
)
from models.videoldm.unet import UNet
from tests.models.presets import stirred
from tests.models.stages import INTERPOLATOR


@pytest.fixture(scope="module")
def stage() -> Interpolator:
    torch.manual_seed(0)
    return Interpolator(INTERPOLATOR, stirred(UNet(INTERPOLATOR.unet)).eval())  # type: ignore[arg-type]


def even(count: int, fps: float) -> list[float]:
    return [index / fps for index in range(count)]


def keys(count: int, seed: int = 3) -> Tensor:
    return torch.randn(1, 4, count, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_eight_frames_become_29_and_then_113() -> None:
    once = dense_times(even(8, 8))
    assert (len(once), len(dense_times(once))) == (29, 113)
    assert once[::4] == tuple(even(8, 8))
    assert list(once) == sorted(set(once))


def test_keys_pass_through_both_passes_unchanged(stage: Interpolator) -> None:
    given, times = keys(4), even(4, 8)
    grid = dense_times(dense_times(times))
    film = interpolated(stage, given, times, grid, steps=1)
    assert film.shape[2] == 49
    assert torch.equal(film[:, :, ::16], given)
    assert torch.isfinite(film).all()


def test_the_first_pass_is_told_low_and_the_second_high(stage: Interpolator) -> None:
    told: list[Conditions] = []
    handle = stage.unet.register_forward_hook(lambda module, args, result: told.append(args[2]))
    times = even(3, 8)
    interpolated(stage, keys(3), times, dense_times(dense_times(times)), steps=1)
    handle.remove()
    assert [int(entry.rate[0]) for entry in told] == [Rate.LOW, Rate.HIGH]
    assert all(entry.kind[0].tolist() == [Kind.KEY, 0, 0, 0, Kind.KEY] for entry in told)


def test_a_frame_is_the_same_at_6_12_and_24_frames_a_second(stage: Interpolator) -> None:
    given, times = keys(3), even(3, 6)

    def film(fps: int) -> Tensor:
        count = 2 * fps // 6 + 1
        return interpolated(stage, given, times, even(count, fps), steps=2, seed=5)

    dense = film(24)
    assert torch.equal(film(12), dense[:, :, ::2])
    assert torch.equal(film(6), dense[:, :, ::4])
    assert not torch.equal(dense, interpolated(stage, given, times, even(9, 24), 2, seed=6))


@pytest.mark.parametrize(
    "times", [[0.0, 0.05, 0.3], [0.0, 1 / 18, 1 / 9], [0.01, 0.02, 0.021, 0.03]]
)
def test_any_times_between_the_keys_are_made(stage: Interpolator, times: list[float]) -> None:
    film = interpolated(stage, keys(3), even(3, 6), times, steps=1)
    assert film.shape == (1, 4, len(times), 4, 4)
    assert torch.isfinite(film).all()


def test_nearer_times_give_other_frames(stage: Interpolator) -> None:
    early, late = (
        interpolated(stage, keys(2), even(2, 6), [time], steps=2)[:, :, 0] for time in (0.05, 0.11)
    )
    assert (early - late).abs().max() > 1e-3


def test_a_made_frame_depends_on_both_of_its_keys(stage: Interpolator) -> None:
    given = keys(2)
    for end in (0, 1):
        other = given.clone()
        other[:, :, end] += 1
        frames = [
            interpolated(stage, clip, even(2, 6), [1 / 12], steps=2) for clip in (given, other)
        ]
        assert (frames[0] - frames[1]).abs().max() > 1e-4


def test_what_lies_in_a_gap_does_not_depend_on_other_gaps(stage: Interpolator) -> None:
    given = keys(20)
    whole = interpolated(stage, given, even(20, 6), dense_times(even(20, 6)), steps=1)
    alone = interpolated(stage, given[:, :, :2], even(2, 6), dense_times(even(2, 6)), steps=1)
    torch.testing.assert_close(whole[:, :, :5], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("times", "passes"), [(24, 1), (96, 2), (18, 1)])
def test_as_many_calls_are_reported_as_were_promised(
    stage: Interpolator, times: int, passes: int
) -> None:
    wanted = even(times // 6 * 2 + 1, times)
    plan = plan_passes(even(3, 6), wanted)
    calls: list[None] = []
    interpolated(stage, keys(3), even(3, 6), wanted, 3, report=lambda: calls.append(None))
    assert len(plan) == passes
    assert len(calls) == network_calls(plan, 3)


@pytest.mark.parametrize("times", [[-0.1], [0.0, 0.5]])
def test_times_outside_the_keys_are_refused(times: Sequence[float]) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.0\.\."):
        plan_passes(even(3, 6), times)


def test_a_window_tells_the_network_of_its_keys_alone() -> None:
    latents = torch.randn(1, 4, 5, 4, 4)
    times = torch.tensor([even(5, 24)])
    told = window_conditions(times, latents, INTERPOLATOR)
    assert torch.allclose(told.frames[:, :, 2], latents[:, :, [0, -1]].mean(2), atol=1e-6)
    assert torch.equal(told.frames[:, :, [0, -1]], latents[:, :, [0, -1]])
    other = torch.cat([latents[:, :, :1], torch.randn(1, 4, 3, 4, 4), latents[:, :, -1:]], 2)
    assert torch.equal(window_conditions(times, other, INTERPOLATOR).frames, told.frames)
    assert told.mask[0, 0, :, 0, 0].tolist() == [1, 0, 0, 0, 1]
    assert not told.text_mask.any()
    assert told.log2_fps.exp2().tolist() == pytest.approx([24.0], rel=1e-4)


def test_an_untrained_network_blends() -> None:
    silent = Interpolator(INTERPOLATOR, UNet(INTERPOLATOR.unet).eval())
    given, times = keys(3), even(3, 6)
    film = interpolated(silent, given, times, even(9, 24), steps=1)
    middle = (given[:, :, 0] + given[:, :, 1]) / 2
    assert torch.allclose(film[:, :, 2], middle, atol=1e-3)
    quarter = torch.lerp(given[:, :, 1], given[:, :, 2], 0.25)
    assert torch.allclose(film[:, :, 5], quarter, atol=1e-3)


def test_what_a_window_has_over_its_blend_is_nothing_at_its_keys() -> None:
    latents = torch.randn(2, 4, 5, 4, 4)
    times = torch.tensor([even(5, 24), [0.0, 0.01, 0.02, 0.05, 0.1]])
    over = residual(times, latents, INTERPOLATOR)
    assert over[:, :, [0, -1]].abs().max() == 0
    told = window_conditions(times, latents, INTERPOLATOR)
    again = told.frames + over / INTERPOLATOR.residual_gain
    assert torch.allclose(again, latents, atol=1e-5)
