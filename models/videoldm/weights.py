"""Preset folder to modules: `config.json`, safetensors, strict about every name and shape.

A preset holds `autoencoder`, `unet` and `text` safetensors and `tokenizer.json`; each later stage
that it has is a safetensors file with a JSON config beside it. Stored halves are
computed in the dtype asked for. Nothing is unpickled.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models.catalog import STAGES, has_stage
from models.videoldm.adapters import Adapter, AdapterError, load_adapters
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import (
    InterpolatorConfig,
    StudentConfig,
    TemporalDecoderConfig,
    UpsamplerConfig,
    VideoLDMConfig,
    read_config,
    read_stage,
)
from models.videoldm.interpolation import Interpolator
from models.videoldm.packing import unpacked
from models.videoldm.student import Student, StudentUNet
from models.videoldm.temporal import TemporalDecoder
from models.videoldm.text import SentenceEncoder, TextEncoder, open_tokenizer
from models.videoldm.unet import UNet
from models.videoldm.upsampler import Upsampler

PARTS = ("autoencoder", "text", "unet")

Module = TypeVar("Module", bound=nn.Module)


class WeightsError(Exception):
    """A preset's files are missing, damaged, or do not fit its config."""


@dataclass(frozen=True)
class Stages:
    """What a preset has besides its base."""

    decoder: TemporalDecoder | None = None
    interpolator: Interpolator | None = None
    student: Student | None = None
    upsampler: Upsampler | None = None


@dataclass(frozen=True)
class Preset:
    """A loaded preset, in evaluation mode."""

    config: VideoLDMConfig
    autoencoder: Autoencoder
    unet: UNet
    text: TextEncoder
    sha256: str  # over every weight file, in name order
    stages: Stages = Stages()
    adapters: Mapping[str, Adapter] = field(default_factory=dict)  # personal subjects by name


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
    stages = load_stages(folder, config, device, dtype)
    try:
        adapters = load_adapters(folder, unet)
    except AdapterError as error:
        raise WeightsError(f"{folder / 'adapters'}: {error}") from error
    return Preset(config, autoencoder, unet, text, digest(folder), stages, adapters)


def load_stages(folder: Path, config: VideoLDMConfig, device: str, dtype: torch.dtype) -> Stages:
    """The optional stages of a preset; those without a weight file are None.

    raises WeightsError for a stage that is damaged, misfitting, or has no config
    """

    def filled(module: Module, name: str) -> Module:
        _fill(module, folder / f"{name}.safetensors")
        return module.to(device, dtype).eval().requires_grad_(False)

    decoder = interpolator = student = upsampler = None
    try:
        if has_stage(folder, "decoder"):
            shape = read_stage(folder / "decoder.json", TemporalDecoderConfig)
            decoder = filled(TemporalDecoder(shape, config.autoencoder), "decoder")
        if has_stage(folder, "interpolator"):
            between = read_stage(folder / "interpolator.json", InterpolatorConfig)
            interpolator = Interpolator(between, filled(UNet(between.unet), "interpolator"))
        if has_stage(folder, "student"):
            few = read_stage(folder / "student.json", StudentConfig)
            student = Student(few, filled(StudentUNet(config.unet), "student"))
        if has_stage(folder, "upsampler"):
            larger = read_stage(folder / "upsampler.json", UpsamplerConfig)
            upsampler = filled(Upsampler(larger), "upsampler")
    except (OSError, ValueError) as error:
        raise WeightsError(str(error)) from error
    return Stages(decoder, interpolator, student, upsampler)


def digest(folder: Path) -> str:
    """sha256 over the preset's config and weight files, in name order."""
    total = hashlib.sha256()
    stages = [name for name in STAGES if has_stage(folder, name)]
    files = [f"{name}.{suffix}" for name in stages for suffix in ("json", "safetensors")]
    for name in ("config.json", *(f"{part}.safetensors" for part in PARTS), *files):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _fill(module: nn.Module, path: Path) -> None:
    try:
        tensors = unpacked(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit the config: {error}") from error
