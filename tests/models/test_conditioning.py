"""Laws of giving frames and taking them back."""

import pytest
import torch
from torch import Tensor

from models.videoldm.conditioning import (
    Conditions,
    Kind,
    first_frame_sigma,
    frame_times,
    last_frame_steps,
    text_only,
)

LATENT = (4, 2, 2)


def words(t: int = 6) -> Conditions:
    text, mask = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    return text_only(text, mask, frame_times(t, 8), 8.0, LATENT)


def latent(value: float = -1.0) -> Tensor:
    return torch.full((1, *LATENT), value)


def equal(one: Conditions, other: Conditions) -> bool:
    return all(
        torch.equal(value, vars(other)[name])
        for name, value in vars(one).items()
        if value is not None or vars(other)[name] is not None
    )


@pytest.mark.parametrize(
    ("strength", "steps", "seen"),
    [
        (0.0, 50, 0),
        (1.0, 50, 50),
        (0.5, 50, 25),
        (0.5, 25, 13),
        (0.49, 25, 12),
        (0.01, 16, 0),
        (1.0, 1, 1),
    ],
)
def test_the_last_frame_is_seen_for_its_share_of_the_steps(
    strength: float, steps: int, seen: int
) -> None:
    assert last_frame_steps(strength, steps) == seen


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_out_of_range_are_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="last_frame_strength"):
        last_frame_steps(strength, 50)
    with pytest.raises(ValueError, match="first_frame_strength"):
        first_frame_sigma(strength)


def test_a_full_first_frame_is_clean_and_none_is_noise() -> None:
    assert (first_frame_sigma(1.0), first_frame_sigma(0.0)) == (0.0, 1.0)


def test_a_given_frame_is_in_its_slot_and_nowhere_else() -> None:
    told = words().with_frame(-1, latent(), Kind.LAST, 0.25)
    assert torch.equal(told.frames[:, :, -1], latent())
    assert not told.frames[:, :, :-1].any()
    assert told.mask[0, 0, :, 0, 0].tolist() == [0, 0, 0, 0, 0, 1]
    assert told.kind[0].tolist() == [0, 0, 0, 0, 0, int(Kind.LAST)]
    assert told.frame_sigma[0].tolist() == [0, 0, 0, 0, 0, 0.25]


def test_taking_a_frame_back_leaves_what_was_there_before() -> None:
    told = words()
    first = told.with_frame(0, latent(), Kind.FIRST)
    both = first.with_frame(-1, latent(2.0), Kind.LAST, 0.3)
    assert equal(both.without_frames((Kind.LAST, Kind.SKETCH)), first)
    assert equal(first.without_frames((Kind.FIRST,)), told)
    assert not both.without_frames(tuple(Kind)).frames.signbit().any()


def test_the_null_of_images_keeps_first_and_last_and_the_place_of_references() -> None:
    ends = words().with_frame(0, latent(), Kind.FIRST).with_frame(-1, latent(), Kind.LAST)
    context = ends.with_frame(1, latent(3.0), Kind.CONTEXT)
    told = context.with_references(torch.ones(1, 4, 2, 2, 2))
    null = told.without_images()
    assert null.references is not None
    assert null.reference_mask is not None
    assert not null.references.any()
    assert null.reference_mask.all()
    assert equal(null.without_frames(()), ends.with_references(torch.zeros(1, 4, 2, 2, 2)))
