"""Laws of personal subjects: merged for one request, and gone after it, bit for bit."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.catalog import AdapterCard, read_card
from models.videoldm.adapters import (
    Adapter,
    AdapterError,
    adaptable,
    adapted,
    fingerprint,
    read_adapter,
    write_adapter,
)
from models.videoldm.conditioning import frame_times, text_only
from models.videoldm.pipeline import load_videoldm
from models.videoldm.unet import UNet
from models.videoldm.weights import WeightsError, load_preset
from tests.models.presets import TINY, build_preset, stirred
from tests.models.test_pipeline import TASK, silent


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return stirred(UNet(TINY.unet)).eval().requires_grad_(False)  # type: ignore[return-value]


def adapter(unet: UNet, rank: int = 2) -> Adapter:
    generator = torch.Generator().manual_seed(4)
    layers = {}
    for name, weight in adaptable(unet).items():
        rows, columns = weight.flatten(1).shape
        down = torch.randn(rank, columns, generator=generator) * 0.1
        layers[name] = (down, torch.randn(rows, rank, generator=generator) * 0.1)
    return Adapter("sks", "dog", fingerprint(unet), layers)


def made(unet: UNet) -> torch.Tensor:
    text = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(1, 3, dtype=torch.bool)
    told = text_only(text, mask, frame_times(3, 6), 6.0, (4, 8, 8))
    x = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    return unet(x, torch.zeros(1), told)


def test_scale_zero_is_the_base_bit_for_bit(unet: UNet) -> None:
    base = made(unet)
    with adapted(unet, adapter(unet), 0.0):
        assert torch.equal(made(unet), base)


def test_an_adapter_changes_the_film_by_its_scale(unet: UNet) -> None:
    base, changes = made(unet), []
    for scale in (0.1, 0.5, 1.0):
        with adapted(unet, adapter(unet), scale):
            changes.append(float((made(unet) - base).abs().mean()))
    assert 0 < changes[0] < changes[1] < changes[2]


def test_a_request_picks_its_subject_and_leaves_no_trace(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = build_preset(tmp_path / "tiny")
    base = load_preset(folder).unet
    (folder / "adapters").mkdir()
    path = folder / "adapters" / "rex.safetensors"
    write_adapter(adapter(base), path)
    model = load_videoldm(folder, "cpu", torch.float32)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.card.adapters == (AdapterCard("rex", "sks", "dog", sha256),)
    plain = replace(TASK, prompt="a sks runs", num_frames=8, num_inference_steps=2)
    mine = replace(plain, adapter="rex")
    before = model.generate(plain, silent)
    film = model.generate(mine, silent)
    assert not np.array_equal(film, before)
    assert np.array_equal(model.generate(plain, silent), before)
    assert np.array_equal(model.generate(replace(mine, adapter_scale=0.0), silent), before)
    said = model.generate(replace(mine, prompt="a sks dog runs"), silent)
    assert np.array_equal(said, film), "the kind is said for whoever leaves it out"
    for bad in ({"adapter": "fido"}, {"adapter_scale": 2.5}):
        with pytest.raises(ValueError, match=r"fido|2\.5"):
            model.generate(replace(mine, **bad), silent)
    write_adapter(
        replace(adapter(base), base_sha256="0" * 64), folder / "adapters" / "a.safetensors"
    )
    with pytest.raises(WeightsError, match="made for base"):
        load_preset(folder)
    (folder / "adapters" / "a.safetensors").write_bytes(b"no adapter")
    with pytest.raises(ValueError, match="not an adapter"):
        read_card(folder / "card.json")


def test_half_precision_serves_the_same_adapters(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    write_adapter(adapter(load_preset(folder).unet), folder / "adapters" / "rex.safetensors")
    assert set(load_preset(folder, dtype=torch.bfloat16).adapters) == {"rex"}


def test_afterwards_the_base_is_itself_bit_for_bit(unet: UNet) -> None:
    before = {name: value.clone() for name, value in unet.state_dict().items()}

    def broken() -> None:
        with adapted(unet, adapter(unet), 0.37):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_temporal_layers_are_never_changed(unet: UNet) -> None:
    temporal = {id(parameter) for parameter in unet.temporal_parameters()}
    changed = adaptable(unet)
    assert len(changed) > 20
    assert not temporal & {id(parameter) for parameter in changed.values()}


def test_an_adapter_survives_its_file(unet: UNet, tmp_path: Path) -> None:
    path = tmp_path / "sks.safetensors"
    write_adapter(adapter(unet), path)
    read = read_adapter(path, unet)
    assert (read.word, read.kind) == ("sks", "dog")
    for name, (down, up) in adapter(unet).layers.items():
        torch.testing.assert_close(read.layers[name][0], down, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(read.layers[name][1], up, atol=1e-3, rtol=1e-3)


def test_an_adapter_of_another_base_is_refused(unet: UNet, tmp_path: Path) -> None:
    path = tmp_path / "sks.safetensors"
    write_adapter(adapter(unet), path)
    with torch.no_grad():
        unet.null_text.add_(1)
    with pytest.raises(AdapterError, match="made for base"):
        read_adapter(path, unet)


def test_files_that_are_no_adapters_are_refused(unet: UNet, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(AdapterError, match=r"odd\.safetensors: not an adapter"):
        read_adapter(path, unet)
    meta = {"word": "sks", "kind": "dog", "base_sha256": fingerprint(unet)}
    name = next(iter(adaptable(unet)))
    rows, columns = adaptable(unet)[name].flatten(1).shape
    bad = {
        "clock": {
            "clock.place.weight.down": torch.ones(1, 32),
            "clock.place.weight.up": torch.ones(32, 1),
        },
        "no spatial": {f"{name}.down": torch.ones(1, columns)},
        "does not fit": {
            f"{name}.down": torch.ones(1, columns),
            f"{name}.up": torch.ones(rows + 1, 1),
        },
        "not finite": {
            f"{name}.down": torch.full((1, columns), float("nan")),
            f"{name}.up": torch.ones(rows, 1),
        },
    }
    for said, tensors in bad.items():
        save_file(tensors, path, meta)
        with pytest.raises(AdapterError, match=said):
            read_adapter(path, unet)


@pytest.mark.parametrize("scale", [-0.1, 2.5, float("nan")])
def test_a_scale_out_of_range_is_refused(unet: UNet, scale: float) -> None:
    with pytest.raises(ValueError, match="adapter scale"), adapted(unet, adapter(unet), scale):
        pass


def test_temporal_layers_read_the_kind_and_never_the_word(unet: UNet) -> None:
    mine = adapter(unet)
    assert mine.prompts("a sks runs") == ("a sks dog runs", "a dog runs")
    assert mine.prompts("my SKS dog, on snow") == ("my sks dog, on snow", "my dog, on snow")
    assert mine.prompts("a tasks list") == ("a tasks list", "a tasks list")
