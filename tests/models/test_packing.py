"""Laws of weights stored in eight bits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.videoldm.config import read_config
from models.videoldm.packing import SCALE, packed, unpacked
from models.videoldm.weights import WeightsError, load_preset
from tests.models.presets import build_preset


def test_no_element_moves_by_more_than_half_a_step_of_its_row() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 50, generator=generator) * torch.logspace(-6, 3, 6)[:, None]
    again = unpacked(packed({"m": matrix}))["m"]
    steps = matrix.abs().amax(1, keepdim=True) / 127
    assert bool(((again - matrix).abs() <= steps * 0.5001).all())
    assert again.dtype == torch.float32


def test_shapes_names_and_vectors_stay() -> None:
    tensors = {
        "conv": torch.randn(4, 3, 3, 3),
        "bias": torch.randn(4).half(),
        "zero": torch.zeros(2, 5),
        "mix.scale": torch.randn(3),  # a parameter that happens to be called so
    }
    stored = packed(tensors)
    assert stored["conv"].dtype == torch.int8
    assert set(stored) == {*tensors, "conv" + SCALE, "zero" + SCALE}
    again = unpacked(stored)
    assert {name: tensor.shape for name, tensor in again.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    assert torch.equal(again["bias"], tensors["bias"].float())
    assert torch.equal(again["mix.scale"], tensors["mix.scale"])
    assert torch.equal(again["zero"], tensors["zero"])


def test_what_was_never_packed_comes_back_as_it_is() -> None:
    tensors = {"m": torch.randn(3, 3).half(), "b": torch.randn(3)}
    again = unpacked(tensors)
    assert all(torch.equal(again[name], tensors[name].float()) for name in tensors)


@pytest.mark.parametrize("scale", [None, torch.ones(2)])
def test_bytes_without_their_steps_are_no_weights(scale: torch.Tensor | None) -> None:
    stored = packed({"m": torch.randn(3, 3)})
    del stored["m" + SCALE]
    if scale is not None:
        stored["m" + SCALE] = scale
    with pytest.raises(ValueError, match=r"m: int8 without a step"):
        unpacked(stored)


def test_a_preset_loads_packed_parts_and_names_a_damaged_one(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    path = folder / "text.safetensors"
    whole = load_preset(folder)
    stored = packed(load_file(path))
    save_file(stored, path)
    again = load_preset(folder)
    assert again.config == read_config(folder / "config.json")
    pairs = zip(whole.text.encoder.parameters(), again.text.encoder.parameters(), strict=True)
    for before, after in pairs:
        torch.testing.assert_close(after, before, atol=float(before.abs().max()) / 250, rtol=0)
    del stored["words.weight" + SCALE]
    save_file(stored, path)
    with pytest.raises(WeightsError, match=r"text\.safetensors: words\.weight: int8 without"):
        load_preset(folder)
