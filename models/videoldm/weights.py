"""Preset folder to modules: `config.json`, safetensors, strict about every name and shape.

A preset holds `autoencoder`, `unet` and `text` safetensors and `tokenizer.json`. Stored halves are
computed in the dtype asked for. Nothing is unpickled.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import VideoLDMConfig, read_config
from models.videoldm.text import SentenceEncoder, TextEncoder, open_tokenizer
from models.videoldm.unet import UNet

PARTS = ("autoencoder", "text", "unet")


class WeightsError(Exception):
    """A preset's files are missing, damaged, or do not fit its config."""


@dataclass(frozen=True)
class Preset:
    """A loaded preset, in evaluation mode."""

    config: VideoLDMConfig
    autoencoder: Autoencoder
    unet: UNet
    text: TextEncoder
    sha256: str  # over every weight file, in name order


def load_preset(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Preset:
    """Load a preset.

    raises WeightsError naming the file that is missing, damaged or misfitting
    """
    try:
        config = read_config(folder / "config.json")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / 'config.json'}: {error}") from error
    autoencoder = Autoencoder(config.autoencoder)
    unet = UNet(config.unet)
    encoder = SentenceEncoder(config.text)
    for part, module in zip(PARTS, (autoencoder, encoder, unet), strict=True):
        _fill(module, folder / f"{part}.safetensors")
        module.to(device, dtype).eval().requires_grad_(False)
    try:
        tokenizer = open_tokenizer(folder / "tokenizer.json")
    except Exception as error:  # the tokenizers library raises bare Exception
        raise WeightsError(f"{folder / 'tokenizer.json'}: {error}") from error
    text = TextEncoder(tokenizer, encoder, config.text.max_tokens)
    return Preset(config, autoencoder, unet, text, digest(folder))


def digest(folder: Path) -> str:
    """sha256 over the preset's config and weight files, in name order."""
    total = hashlib.sha256()
    for name in ("config.json", *(f"{part}.safetensors" for part in PARTS)):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _fill(module: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit the config: {error}") from error
