"""Laws of bringing pictures and clips to the network's size and rate, and of picking references."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.protocol import Frames, Reference, Task
from models.videoldm.pictures import (
    read_clip,
    read_picture,
    read_reference,
    resized,
    retimed,
    retimed_count,
    write_frames,
)
from models.videoldm.references import plain_prompt, reference_scale, used_references
from models.videoldm.segments import Segment


def noise(*shape: int) -> Frames:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_frames_of_the_right_size_come_back_bit_for_bit() -> None:
    frames = noise(3, 16, 24, 3)
    assert np.array_equal(write_frames(read_clip(frames, 24, 16)), frames)
    assert resized(frames, 24, 16) is frames
    assert resized(frames, 12, 8).shape == (3, 8, 12, 3)


def test_transparent_pixels_are_white_and_opaque_ones_themselves() -> None:
    colour = noise(8, 8, 3)
    clear = np.dstack([colour, np.zeros((8, 8), np.uint8)])
    solid = np.dstack([colour, np.full((8, 8), 255, np.uint8)])
    half = np.dstack([np.zeros_like(colour), np.full((8, 8), 51, np.uint8)])
    assert torch.equal(read_picture(clear, 8, 8), torch.ones(3, 8, 8))
    torch.testing.assert_close(read_picture(solid, 8, 8), read_picture(colour, 8, 8))
    torch.testing.assert_close(read_picture(half, 8, 8), torch.full((3, 8, 8), 0.6))


@pytest.mark.parametrize(("high", "wide"), [(10, 40), (40, 10), (7, 7)])
def test_a_reference_keeps_its_aspect_within_white(high: int, wide: int) -> None:
    pixels = read_reference(np.zeros((high, wide, 3), np.uint8), 32, 32)
    dark = pixels[0] < 0
    assert dark.any(0).sum() == round(32 * min(1, wide / high))
    assert dark.any(1).sum() == round(32 * min(1, high / wide))
    assert bool(((pixels == 1) | dark).all())


def test_a_clip_at_another_rate_shows_the_nearest_moments() -> None:
    frames = np.arange(24, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert retimed(frames, 24, 8)[:, 0, 0, 0].tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert retimed(frames[:2], 8, 24)[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1]
    assert retimed(frames, 8, 8) is frames
    assert retimed(frames, None, 8) is frames
    assert (retimed_count(1, 60, 8), retimed_count(24, 24, 8)) == (1, 8)


PICTURE = noise(4, 4, 3)
REX = Reference(PICTURE, "rex")
MIA = Reference(PICTURE, "mia", strength=0.5)
PLAIN = Reference(PICTURE)
TASK = Task("reference", "", "", 32, 32, 8, 8, 1, 4, 3.0, "ddim", references=(REX, MIA, PLAIN))


def segment(prompt: str) -> Segment:
    return Segment(0, prompt, "", 1, 8, references=TASK.references)


def test_a_name_in_the_prompt_picks_its_reference() -> None:
    assert used_references(TASK, segment("@rex runs")) == (REX, PLAIN)
    assert used_references(TASK, segment("a dog runs")) == (REX, MIA, PLAIN)
    assert used_references(TASK, segment("@max runs")) == (REX, MIA, PLAIN)


def test_the_network_reads_names_without_their_mark() -> None:
    assert plain_prompt(segment("@rex meets @max")) == "rex meets @max"


def test_references_without_strength_are_none() -> None:
    assert used_references(replace(TASK, reference_strength=0.0), segment("a dog")) == ()
    silent = replace(segment("a dog"), references=(replace(REX, strength=0.0), PLAIN))
    assert used_references(TASK, silent) == (PLAIN,)


def test_references_pull_by_their_mean_strength() -> None:
    full = reference_scale(TASK, (REX,))
    assert reference_scale(TASK, (REX, MIA)) == pytest.approx(0.75 * full)
    assert reference_scale(replace(TASK, reference_strength=0.5), (REX,)) == full / 2
