"""Personal subjects: low-rank changes of the base's spatial layers, merged for one request.

Hu et al. 2021 (arXiv:2106.09685) for the form, Ruiz et al. 2022 (arXiv:2208.12242) for what it is
trained on, Blattmann et al. 2023 (arXiv:2304.08818), section 4.3, for the layers: spatial ones
change, temporal ones stay, so the subject moves as the base has learned. An adapter is one
safetensors file whose metadata names the base it was made for; another is refused.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.catalog import adapter_paths
from models.videoldm.unet import UNet

MAX_SCALE = 2.0  # beyond it pictures fall apart

_TEMPORAL = ("temporal_", "_mix", "clock")
_DOWN, _UP = ".down", ".up"


class AdapterError(ValueError):
    """A file is no adapter, or not one for this base."""


@dataclass(frozen=True)
class Adapter:
    """One personal subject: weight + scale up @ down for each changed layer."""

    word: str  # the rare word that calls it in prompts
    kind: str  # what it is, in a word that the base knows: "dog"
    base_sha256: str  # of the network it changes
    layers: Mapping[str, tuple[Tensor, Tensor]]  # parameter -> down (r, in), up (out, r)

    def prompts(self, prompt: str) -> tuple[str, str]:
        """What spatial and temporal layers read: the word, and the kind in its place.

        "a sks runs" becomes "a sks dog runs" and "a dog runs", for an adapter of a dog named sks.
        """
        called = re.compile(rf"\b{re.escape(self.word)}\b(?:\s+{re.escape(self.kind)}\b)?", re.I)
        return called.sub(f"{self.word} {self.kind}", prompt), called.sub(self.kind, prompt)


def adaptable(unet: UNet) -> dict[str, nn.Parameter]:
    """Weights an adapter may change: spatial matrices and convolutions inside the blocks."""
    found: dict[str, nn.Parameter] = {}
    for name, module in unet.named_modules():
        inside = name.startswith(("down_blocks.", "middle.", "up_blocks."))
        spatial = inside and not any(mark in name for mark in _TEMPORAL)
        if spatial and isinstance(module, nn.Linear | nn.Conv2d):
            assert isinstance(module.weight, nn.Parameter)
            found[f"{name}.weight"] = module.weight
    return found


def fingerprint(unet: UNet) -> str:
    """sha256 over every weight's name and bytes: the base that an adapter belongs to."""
    return fingerprint_of(unet.state_dict())


def fingerprint_of(weights: Mapping[str, Tensor]) -> str:
    """The same of weights by name, whichever dtype the network computes in."""
    total = hashlib.sha256()
    for name, value in sorted(weights.items()):
        total.update(name.encode())
        halves = value.detach().cpu().half().flatten()  # as a preset's file stores them
        total.update(halves.view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_adapter(adapter: Adapter, path: Path) -> None:
    """Write an adapter as float16 safetensors, in a folder that is made if it is missing."""
    tensors = {}
    for name, (down, up) in adapter.layers.items():
        tensors[name + _DOWN], tensors[name + _UP] = down.half(), up.half()
    meta = {"word": adapter.word, "kind": adapter.kind, "base_sha256": adapter.base_sha256}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, path, meta)


def read_adapter(path: Path, unet: UNet, base_sha256: str | None = None) -> Adapter:
    """Read an adapter and check that it belongs to this base.

    base_sha256  the base's `fingerprint`, if it is known already
    raises       AdapterError for a file that is damaged, of another base, or of other shapes
    """
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        word, kind, base = meta["word"], meta["kind"], meta["base_sha256"]
    except (OSError, SafetensorError, KeyError) as error:
        raise AdapterError(f"{path.name}: not an adapter: {error}") from error
    own = base_sha256 or fingerprint(unet)
    if base != own:
        raise AdapterError(f"{path.name}: made for base {base[:12]}, this one is {own[:12]}")
    return Adapter(word, kind, base, _layers(path, tensors, adaptable(unet)))


def load_adapters(folder: Path, unet: UNet) -> dict[str, Adapter]:
    """The adapters of a preset by name.

    raises AdapterError for one that is damaged, or of another base than the one that lies there
    """
    paths = adapter_paths(folder)
    base = fingerprint_of(load_file(folder / "unet.safetensors")) if paths else None
    return {path.stem: read_adapter(path, unet, base) for path in paths}


@contextmanager
def adapted(unet: UNet, adapter: Adapter | None, scale: float = 1.0) -> Iterator[None]:
    """The base with the adapter merged in, and afterwards the base again, bit for bit.

    scale   0 is the base itself, 1 the adapter as trained
    raises  ValueError for a scale outside 0..2
    """
    if not 0 <= scale <= MAX_SCALE:
        raise ValueError(f"adapter scale must lie within 0..{MAX_SCALE:g}, not {scale}")
    if adapter is None or scale == 0:
        yield
        return
    weights = adaptable(unet)
    kept = {name: weights[name].detach().clone() for name in adapter.layers}
    try:
        with torch.no_grad():
            for name, (down, up) in adapter.layers.items():
                change = (up @ down).view(weights[name].shape)
                weights[name].add_(change.to(weights[name]), alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                weights[name].copy_(value)


def _layers(
    path: Path, tensors: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]
) -> dict[str, tuple[Tensor, Tensor]]:
    layers = {}
    for name in sorted({name.removesuffix(_DOWN).removesuffix(_UP) for name in tensors}):
        down, up = tensors.get(name + _DOWN), tensors.get(name + _UP)
        if name not in weights or down is None or up is None:
            raise AdapterError(f"{path.name}: changes {name!r}, which is no spatial layer")
        rows, columns = weights[name].flatten(1).shape
        if (
            up.shape[:1] != (rows,)
            or down.shape[1:] != (columns,)
            or up.shape[1:] != down.shape[:1]
        ):
            raise AdapterError(f"{path.name}: {name!r} does not fit a layer of {rows}x{columns}")
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise AdapterError(f"{path.name}: {name!r} holds numbers that are not finite")
        layers[name] = (down, up)
    return layers
