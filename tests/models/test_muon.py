"""Laws of the optimiser: straightened updates, who gets them, and how far they go."""

import pytest
import torch
from torch import nn

from models.training.muon import Muon, matrices_of, orthogonalised


def test_every_direction_of_an_update_moves_equally_far() -> None:
    generator = torch.Generator().manual_seed(0)
    uneven = torch.diag(torch.logspace(0, -2, 24)) @ torch.randn(24, 60, generator=generator)
    for matrix in (uneven, uneven.T):
        values = torch.linalg.svdvals(orthogonalised(matrix[None])[0])
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_an_update_keeps_the_direction_of_the_gradient() -> None:
    matrix = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(1))
    assert ((orthogonalised(matrix) * matrix).sum((1, 2)) > 0).all()


def test_only_hidden_layers_are_matrices() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 8)),
        nn.Embedding(4, 8),
    )
    inner = net[1]
    assert isinstance(inner, nn.Sequential)
    inner[2].requires_grad_(False)
    assert [id(p) for p in matrices_of(nn.ModuleDict({"net": net}))] == [
        id(net[0].weight),
        id(inner[0].weight),
    ]
    assert [id(p) for p in matrices_of(net)] == [id(inner[0].weight)]


@pytest.mark.parametrize("shape", [(24, 24), (16, 96), (32, 8, 3, 3)])
def test_an_update_measures_as_adamw_does(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e-4
    Muon([weight], [], lr=0.5, weight_decay=0).step()
    assert 0.8 * 0.1 < weight.square().mean().sqrt() < 1.2 * 0.1


def test_an_update_in_half_precision_is_nearly_that_in_full() -> None:
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.zeros(24, 60))
        weight.grad = torch.randn(24, 60, generator=torch.Generator().manual_seed(4)) * 1e-4
        Muon([weight], [], lr=0.5, weight_decay=0, dtype=dtype).step()
        moved.append(weight.detach())
    assert not torch.equal(*moved)
    assert (moved[1] - moved[0]).norm() < 0.05 * moved[0].norm()


def test_other_parameters_move_as_under_adamw() -> None:
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    muon = Muon([], [ours], lr=0.1, weight_decay=0.01)
    adamw = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        ours.grad = torch.randn(5, generator=generator)
        theirs.grad = ours.grad.clone()
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
