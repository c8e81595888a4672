"""Tiny stages of the cascade with random weights, written beside a tiny preset."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from models.videoldm.config import (
    InterpolatorConfig,
    StageConfig,
    StudentConfig,
    TemporalDecoderConfig,
    UNetConfig,
    UpsamplerConfig,
    write_stage,
)
from models.videoldm.student import StudentUNet
from models.videoldm.temporal import TemporalDecoder
from models.videoldm.unet import UNet
from models.videoldm.upsampler import Upsampler
from tests.models.presets import TINY, build_preset, stirred

_SMALL = UNetConfig(
    widths=(16, 32), head_width=16, embed_width=32, text_width=8, text_slots=1, norm_groups=4
)

INTERPOLATOR = InterpolatorConfig(unet=replace(_SMALL, trained_frames=5, min_gap_s=1 / 96))
DECODER = TemporalDecoderConfig(norm_groups=4, chunk=6)
UPSAMPLER = UpsamplerConfig(
    autoencoder=replace(
        UpsamplerConfig().autoencoder, encoder_widths=(8, 8), decoder_widths=(8, 8)
    ),
    unet=replace(_SMALL, latent_channels=8, spatial_attention=(False, False), trained_frames=8),
    enlarger_width=8,
    enlarger_blocks=1,
)
STUDENT = StudentConfig()

CASCADE: dict[str, Any] = {
    "key_fps": 6,
    "base_size": "32x32",
    "sizes": ["128x128"],
    "fps": [24, 12, 6],
    "qualities": [
        {"name": "standard", "base_steps": 2, "interpolation_steps": 2, "upsampler_steps": 2},
        {
            "name": "draft",
            "base_steps": 4,
            "distilled": True,
            "interpolation_steps": 1,
            "upsampler_steps": 1,
            "temporal_decoder": False,
        },
    ],
}


@cache
def modules() -> dict[str, tuple[nn.Module, StageConfig]]:
    """Every stage with its config, nothing of it silent."""
    torch.manual_seed(0)
    return {
        "decoder": (stirred(TemporalDecoder(DECODER, TINY.autoencoder)), DECODER),
        "interpolator": (stirred(UNet(INTERPOLATOR.unet)), INTERPOLATOR),
        "student": (stirred(StudentUNet(TINY.unet)), STUDENT),
        "upsampler": (stirred(Upsampler(UPSAMPLER), scale=0.05), UPSAMPLER),
    }


def build_cascade(folder: Path) -> Path:
    """A tiny preset with every stage."""
    build_preset(folder)
    for name, (module, config) in modules().items():
        tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
        write_stage(config, folder / f"{name}.json")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card |= {"cascade": CASCADE, "tasks": ["text", "interpolate", "upscale"], "sizes": ["32x32"]}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder
