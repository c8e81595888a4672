"""Weights in eight bits: matrices as int8 with a scale a row, everything else as it is.

For storage only: what is loaded is floats again. Rounding moves an element by at most half a step,
which is 1/254 of its row's largest (symmetric, per output channel).
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

STEPS = 127  # levels to either side of zero
SCALE = ".scale"  # behind the name of an int8 matrix: its rows' steps


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of two axes and more as int8, its steps beside it as float32 (rows,)."""
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            stored[name] = tensor
            continue
        rows = rearrange(tensor.float(), "n ... -> n (...)")
        scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * STEPS) / STEPS
        levels = (rows / rearrange(scale, "n -> n 1")).round().to(torch.int8)
        stored[name] = levels.reshape(tensor.shape)
        stored[name + SCALE] = scale
    return stored


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 tensors by their own names, whether they were packed or not.

    raises ValueError for int8 without its steps, or with too many or too few
    """
    return {
        name: _floats(name, tensor, tensors)
        for name, tensor in tensors.items()
        if not _is_scale(name, tensors)
    }


def _is_scale(name: str, tensors: Mapping[str, Tensor]) -> bool:
    whole = tensors.get(name.removesuffix(SCALE))
    return name.endswith(SCALE) and whole is not None and whole.dtype == torch.int8


def _floats(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    if tensor.dtype != torch.int8:
        return tensor.float()
    scale = tensors.get(name + SCALE)
    if scale is None or scale.shape != tensor.shape[:1]:
        raise ValueError(f"{name}: int8 without a step for each of its rows")
    rows = rearrange(tensor.float(), "n ... -> n (...)") * rearrange(scale.float(), "n -> n 1")
    return rows.reshape(tensor.shape)
