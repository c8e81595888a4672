"""Muon: momentum whose matrix updates are orthogonalised, with AdamW for everything else.

Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks") with the step size of
Liu et al. 2025 (arXiv:2502.16982, section 2.2): an update's root mean square is that of AdamW, so
one learning rate and weight decay serve both. Rare concepts gain most: every direction of a
weight's gradient moves it equally far, not only those that frequent examples share.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
_ITERATIONS = 5
_ADAMW_RMS = 0.2  # what AdamW's updates measure, by Liu et al.


class Muon(torch.optim.Optimizer):
    """One optimiser over matrices (convolutions flattened to them) and all other parameters.

    matrices  parameters of two or more dimensions, the first of which is the output
    others    parameters that AdamW moves: gains, biases, embeddings, first and last layers
    dtype     in which updates are orthogonalised; bfloat16 is exact to two parts in a hundred
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._dtype = dtype
        groups = [
            {"params": list(matrices), "matrix": True},
            {"params": list(others), "matrix": False},
        ]
        groups = [group for group in groups if group["params"]]
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if group["matrix"]:
                self._move_matrices(moved, group)
            else:
                self._move_others(moved, group)
        return loss

    def _move_matrices(self, moved: list[nn.Parameter], group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter in moved:
            update = self._momentum(parameter, group["momentum"]).flatten(1)
            alike.setdefault((update.shape[0], update.shape[1]), []).append((parameter, update))
        for (rows, columns), pairs in alike.items():
            straight = orthogonalised(torch.stack([update.to(self._dtype) for _, update in pairs]))
            size = group["lr"] * _ADAMW_RMS * math.sqrt(max(rows, columns))
            for (parameter, _), update in zip(pairs, straight, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(parameter.shape), alpha=-size)

    def _momentum(self, parameter: nn.Parameter, decay: float) -> Tensor:
        """Nesterov's look ahead of the gradients' moving average."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - decay)
        return parameter.grad.lerp(state["momentum"], decay)

    def _move_others(self, moved: list[nn.Parameter], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for parameter in moved:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "step" not in state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            state["exp_avg"].lerp_(parameter.grad, 1 - first)
            state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - second)
            count = float(state["step"])
            spread = (state["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(1e-8)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - first**count))


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest half-orthogonal matrices, roughly: singular values end between 0.7 and 1.2.

    matrices  (n, rows, columns)
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x.transpose(1, 2) if tall else x


def matrices_of(module: nn.Module) -> list[nn.Parameter]:
    """The weights of hidden linear and convolution layers that are to be trained.

    Embeddings, and layers called inlet or outlet at the module's own top, are left out.
    """
    found = []
    for name, layer in module.named_modules():
        hidden = isinstance(layer, nn.Linear | nn.Conv2d)
        if hidden and name.count(".") > 0 and layer.weight.requires_grad:
            found.append(layer.weight)
    return found
