"""Laws of spatial upsampling, on a tiny random network."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.videoldm.conditioning import Conditions, Kind
from models.videoldm.enlarger import Enlarger, enlarged
from models.videoldm.upsampler import (
    LowConditions,
    Upsampler,
    chunked,
    count_chunks,
    reduced,
    with_context,
)
from tests.models.presets import stirred
from tests.models.stages import UPSAMPLER


@pytest.fixture(scope="module")
def upsampler() -> Upsampler:
    torch.manual_seed(0)
    return stirred(Upsampler(UPSAMPLER), scale=0.05).eval().requires_grad_(False)  # type: ignore[return-value]


def low(frames: int, seed: int = 1) -> Tensor:
    return torch.rand(1, 3, frames, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def film(upsampler: Upsampler, pieces: list[Tensor], seed: int = 0) -> Tensor:
    return torch.cat(list(upsampler.enlarge(pieces, 24.0, 2, seed)), 2)


def test_sides_grow_by_the_factor_and_no_frame_is_lost(upsampler: Upsampler) -> None:
    for frames in (1, 7, 8, 9, 21):
        assert film(upsampler, [low(frames)]).shape == (1, 3, frames, 32, 32)


def test_how_a_film_was_cut_changes_nothing(upsampler: Upsampler) -> None:
    clip = low(21)
    whole = film(upsampler, [clip])
    assert torch.equal(whole, film(upsampler, list(clip.split(5, 2))))
    assert torch.equal(whole, film(upsampler, list(clip.split(1, 2))))
    assert not torch.equal(whole, film(upsampler, [clip], seed=1))


def test_an_untrained_estimate_is_bicubic() -> None:
    clip = low(2)
    assert torch.equal(Enlarger(4, 8, 1)(clip), enlarged(clip, 4))


def test_denoising_begins_with_the_estimate() -> None:
    torch.manual_seed(0)
    barely = stirred(Upsampler(replace(UPSAMPLER, start=1e-3)), scale=0.05).eval()
    assert isinstance(barely, Upsampler)
    clip = low(3)
    torch.testing.assert_close(film(barely, [clip]), barely.enlarger(clip), atol=5e-3, rtol=0)
    assert (barely.enlarger(clip) - enlarged(clip, 4)).abs().max() > 0.05


def test_every_later_chunk_is_given_the_last_frames_made(upsampler: Upsampler) -> None:
    told: list[Conditions] = []
    handle = upsampler.unet.register_forward_hook(lambda module, args, out: told.append(args[2]))
    film(upsampler, [low(20)])
    handle.remove()
    first, second = told[0], told[2]
    assert not first.mask.any()
    assert second.kind[0].tolist() == [Kind.CONTEXT] * 2 + [Kind.NONE] * 6
    assert second.frames[:, :, 2:].abs().max() == 0
    assert second.frames[:, :, :2].abs().amin((1, 3, 4)).min() > 0


def test_chunks_cover_a_film_once() -> None:
    for frames in range(1, 40):
        parts = list(chunked([low(frames)], 8, 2))
        made = [
            index
            for part in parts
            for index in range(part.start + part.given, part.start + part.low.shape[2])
        ]
        assert made == list(range(frames))
        assert len(parts) == count_chunks(frames, 8, 2)
        assert all(part.low.shape[2] <= 8 for part in parts)


def test_a_level_of_noise_on_the_small_clip_is_told(upsampler: Upsampler) -> None:
    told = upsampler.conditions(low(2), torch.tensor([0.05]), torch.tensor([[0.0, 0.1]]), 10.0)
    rougher = replace(told, low_sigma=torch.tensor([0.5]))
    x, level = torch.randn(1, 8, 2, 4, 4), torch.zeros(1)
    assert (upsampler.unet(x, level, told) - upsampler.unet(x, level, rougher)).abs().max() > 1e-6


def test_the_small_clip_is_seen_where_it_lies(upsampler: Upsampler) -> None:
    clip = low(1)
    told = upsampler.conditions(clip, torch.zeros(1), torch.zeros(1, 1), 10.0)
    assert torch.equal(told.low[0, :, 0, 0, 0], clip[0, :, 0, :2, :2].flatten())


def test_what_was_reduced_is_only_lacking_in_detail() -> None:
    plain = torch.full((1, 3, 2, 32, 32), 0.25)
    torch.testing.assert_close(enlarged(reduced(plain, 4), 4), plain)


def test_what_denoising_changed_is_added_to_the_estimate(upsampler: Upsampler) -> None:
    first, blank = upsampler.first(low(2)), torch.zeros(1, 8, 2, 4, 4)
    torch.testing.assert_close(upsampler.decode(first.latents, low(2)), first.frames)
    drawn = [upsampler.autoencoder.drawn(part) for part in (blank, first.latents)]
    expected = first.frames + (drawn[0] - drawn[1]) / upsampler.config.detail_gain
    torch.testing.assert_close(upsampler.decode(blank, low(2)), expected.clamp(-1, 1))
    assert (expected - first.frames).abs().max() > 1e-3


def test_detail_is_coded_magnified_and_drawn_as_it_was(upsampler: Upsampler) -> None:
    seen: list[torch.Tensor] = []
    upsampler.autoencoder.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frames = torch.rand(1, 3, 2, 32, 32) - 0.5
    upsampler.encode(frames)
    lacking = frames - enlarged(reduced(frames, 4), 4)
    magnified = upsampler.config.detail_gain * lacking[0].transpose(0, 1)
    torch.testing.assert_close(seen[0], magnified)


def test_context_of_a_batch_is_marked(upsampler: Upsampler) -> None:
    told = upsampler.conditions(low(4), torch.zeros(1), torch.arange(4.0)[None] / 10, 10.0)
    given = with_context(told, torch.ones(1, 8, 4, 4, 4), 2, torch.tensor([0.1]))
    assert isinstance(given, LowConditions)
    assert given.mask[0, 0, :, 0, 0].tolist() == [1, 1, 0, 0]
    assert given.frame_sigma[0].tolist() == pytest.approx([0.1, 0.1, 0, 0])
    assert given.frames[:, :, 2:].abs().max() == 0


def test_sides_that_do_not_fit_are_refused(upsampler: Upsampler) -> None:
    with pytest.raises(ValueError, match="12x12: sides must be multiples of 8"):
        film(upsampler, [torch.zeros(1, 3, 2, 12, 12)])


def test_a_factor_that_does_not_divide_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="factor 3 must divide 8"):
        Upsampler(replace(UPSAMPLER, factor=3))
