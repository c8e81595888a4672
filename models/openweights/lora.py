"""Low-rank changes of a checkpoint, LoRA files: on for one job, off for the next.

Hu et al. 2021 (arXiv:2106.09685). All of a model's files are loaded with it and switched off; a
network whose LoRAs are off computes exactly what it did before. Only denoisers are changed: a file
that would change a text encoder as well, or fits in part only, is refused when the model is loaded.
"""

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.catalog import adapter_paths, turbo_path
from models.openweights.folder import FolderError, read_header
from models.openweights.progress import DENOISERS

NAMED = re.compile(r"\.lora(_|\.)(A|B|down|up)\.|\.lora_linear_layer\.(down|up)\.")
MATRIX = re.compile(r"\.lora_(A|B)\.")


def attach(pipe: Any, folder: Path) -> None:
    """Load every LoRA file of a registered model, switched off.

    raises FolderError for one that does not fit; ValueError if peft is not installed
    """
    turbo = turbo_path(folder)
    for path in (*adapter_paths(folder), *([turbo] if turbo.exists() else [])):
        try:
            importlib.import_module("peft")
        except ImportError as error:
            raise ValueError(f"LoRA files need praxino[open]: {error}") from error
        try:
            pipe.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=path.stem,
                local_files_only=True,
                use_safetensors=True,
            )
        except (ValueError, RuntimeError, KeyError) as error:
            raise FolderError(f"{path}: does not fit: {error}") from error
        given, taken = len(matrices(path)), changed(pipe, path.stem)
        if not given or taken < given:  # what it was made of may have been split, never joined
            raise FolderError(f"{path}: does not fit: {taken} of {given} matrices find a layer")
        switch_off(pipe)


@contextmanager
def applied(pipe: Any, name: str | None, scale: float) -> Iterator[None]:
    """Have one LoRA switched on while this is entered, and none after, whatever ends it."""
    if name is None or scale == 0:
        yield
        return
    try:
        for network in changeable(pipe):
            network.set_adapters([name], [scale])
            network.enable_lora()
        yield
    finally:
        switch_off(pipe)


def switch_off(pipe: Any) -> None:
    """Have the networks compute what they did without any."""
    for network in changeable(pipe):
        network.disable_lora()


def changeable(pipe: Any) -> list[Any]:
    """Denoisers that LoRAs were loaded into."""
    networks = (getattr(pipe, name, None) for name in DENOISERS)
    return [network for network in networks if getattr(network, "peft_config", None)]


def changed(pipe: Any, name: str) -> int:
    """Matrices of this LoRA that stand in a denoiser."""
    names = (n for network in changeable(pipe) for n, _ in network.named_parameters())
    return sum(MATRIX.search(n) is not None and f".{name}." in n for n in names)


def matrices(path: Path) -> list[str]:
    """The low-rank matrices in a safetensors file. raises FolderError if it is none"""
    header, _ = read_header(path)
    return [key for key in header if NAMED.search(key)]


def copy(source: Path, target: Path, word: str) -> None:
    """Copy a LoRA file with what a card says about it in its header. Loads no torch.

    word    that calls it in prompts; may be empty
    raises  FolderError if it is no LoRA file, or not all of one
    """
    if not matrices(source):
        raise FolderError(f"{source}: holds no low-rank matrices")
    header, start = read_header(source)
    about = header.get("__metadata__", {}) | {"word": word, "kind": "LoRA", "format": "pt"}
    text = json.dumps(header | {"__metadata__": about}).encode()
    text += b" " * (-len(text) % 8)
    with source.open("rb") as old, target.open("wb") as new:
        new.write(len(text).to_bytes(8, "little") + text)
        old.seek(start)
        while chunk := old.read(2**22):
            new.write(chunk)
