"""What made frames lack of the given ones beside them is carried over, along the motion."""

import pytest
import torch

from models.videoldm.anchoring import REACH, SEARCH_SIDE, anchored, carried, displacements


def test_what_made_frames_lack_is_taken_from_their_neighbours():
    made = [(time / 4, torch.full((1, 3, 1, 8, 8), time / 8)) for time in range(5)]
    given = {0.0: torch.full((1, 3, 1, 8, 8), 0.1), 1.0: torch.full((1, 3, 1, 8, 8), 0.9)}
    result = [float(frame.mean()) for _, frame in anchored(made, given.get)]
    assert result == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


@pytest.mark.parametrize("side", [SEARCH_SIDE, 2 * SEARCH_SIDE, 2 * SEARCH_SIDE + 24])
def test_detail_moves_with_what_it_belongs_to(side):
    step = side // SEARCH_SIDE
    source, target = blocks(side, 0, 0), blocks(side, 2 * step, -3 * step)
    detail = torch.randn((1, 3, 1, side, side), generator=torch.Generator().manual_seed(1))
    inner = slice(side // 4 + 4 * step, side // 2 - 4 * step)
    found = carried(detail, source, target)[..., inner, inner]
    expected = detail.roll((2 * step, -3 * step), (-2, -1))[..., inner, inner]
    assert torch.equal(found, expected)


def test_what_is_alike_everywhere_rests():
    flat = torch.full((1, 3, 40, 56), 0.5)
    down, across = displacements(flat, flat)
    assert not down.any()
    assert not across.any()


def test_nothing_is_sought_beyond_the_reach():
    generator = torch.Generator().manual_seed(2)
    pair = (torch.randn((1, 3, 64, 80), generator=generator) for _ in range(2))
    assert max(int(part.abs().max()) for part in displacements(*pair)) == REACH


def blocks(side, down, across):
    """A drawing on a plain ground, moved: (1, 3, 1, side, side)."""
    step = side // SEARCH_SIDE
    cell = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    drawing = cell.repeat_interleave(step, -2).repeat_interleave(step, -1)
    frame = torch.zeros(1, 3, side, side)
    top, left = side // 4 + down, side // 4 + across
    frame[..., top : top + 16 * step, left : left + 16 * step] = drawing
    return frame[:, :, None]
