"""What tells whether questions of films may share a pass of a network."""

import pytest
import torch
from torch import Tensor

from models.openweights.sharing import fingerprint

ROW = torch.arange(3)


@pytest.mark.parametrize(
    "same", [ROW.clone(), ROW[None].expand(2, 3)[1], torch.stack([ROW, ROW], 1)[:, 0]]
)
def test_how_a_value_lies_in_memory_is_no_part_of_it(same: Tensor) -> None:
    assert fingerprint(same) == fingerprint(ROW)


def test_one_number_for_all_films_has_a_fingerprint() -> None:
    assert fingerprint(torch.tensor(7).expand(1)) == fingerprint(torch.tensor([7]))


@pytest.mark.parametrize("other", [ROW + 1, ROW[None], ROW.int(), ROW.bfloat16(), [0, 1, 2]])
def test_what_differs_in_value_shape_or_type_is_told_apart(other: object) -> None:
    assert fingerprint(other) != fingerprint(ROW)
