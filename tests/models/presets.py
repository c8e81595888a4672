"""A complete preset of the family with tiny random weights, built on the spot."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import (
    AutoencoderConfig,
    TextConfig,
    UNetConfig,
    VideoLDMConfig,
    write_config,
)
from models.videoldm.text import SentenceEncoder
from models.videoldm.unet import UNet

POCKET = Path(__file__).parents[2] / "models" / "pocket"

TINY = VideoLDMConfig(
    autoencoder=AutoencoderConfig(
        encoder_widths=(8, 8), decoder_widths=(8, 8), decoder_blocks=(1, 1)
    ),
    unet=UNetConfig(widths=(16, 32), head_width=16, embed_width=32, text_width=24, norm_groups=4),
    text=TextConfig(width=24, layers=1, heads=2, hidden=32),
)


def stirred(module: nn.Module, seed: int = 0, scale: float = 0.1) -> nn.Module:
    """The module with every parameter moved, so that nothing stays at its silent start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def build_preset(folder: Path, model_id: str = "tiny", config: VideoLDMConfig = TINY) -> Path:
    """Write a loadable preset into the folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {
        "autoencoder": Autoencoder(config.autoencoder),
        "text": SentenceEncoder(config.text),
        "unet": stirred(UNet(config.unet)),
    }
    for name, module in parts.items():
        save_file(
            {key: value.contiguous() for key, value in module.state_dict().items()},
            folder / f"{name}.safetensors",
        )
    write_config(replace(config, tasks=("text",)), folder / "config.json")
    shutil.copyfile(POCKET / "tokenizer.json", folder / "tokenizer.json")
    card = json.loads((POCKET / "card.json").read_text(encoding="utf-8"))
    inputs = card["inputs"] | {"last_frame_sketches": "sketch" in config.abilities}
    own = {"id": model_id, "sizes": ["32x32", "64x64"], "tasks": ["text"], "inputs": inputs}
    (folder / "card.json").write_text(
        json.dumps(card | own),
        encoding="utf-8",
    )
    return folder
