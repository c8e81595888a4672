"""What the recipes of the later stages share: a preset's frozen autoencoder, publishing, pictures.

A stage ends as two files in the preset, weights in float16 and a config beside them, and as
`scores.json` in its run's folder.
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.training.world import CLIP_SECONDS, ClipState, World
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import StageConfig, read_config, write_stage
from models.videoldm.packing import packed


def open_autoencoder(preset: Path) -> Autoencoder:
    """The preset's autoencoder, frozen."""
    config = read_config(preset / "config.json").autoencoder
    autoencoder = Autoencoder(config).eval().requires_grad_(False)
    stored = load_file(preset / "autoencoder.safetensors")
    autoencoder.load_state_dict({name: value.float() for name, value in stored.items()})
    return autoencoder


def sampled_states(world: World, count: int, draw: random.Random) -> list[ClipState]:
    """Random clips."""
    return [world.sample(draw) for _ in range(count)]


def clip_times(count: int, frames: int, fps: float, draw: random.Random) -> Tensor:
    """Times of evenly spaced frames from a random start within a clip: (count, frames) seconds."""
    spare = max(0.0, CLIP_SECONDS - (frames - 1) / fps)
    starts = torch.tensor([[draw.uniform(0, spare)] for _ in range(count)], dtype=torch.float64)
    return starts + torch.arange(frames, dtype=torch.float64)[None] / fps


def levels(count: int, generator: torch.Generator, top_share: float = 0.0) -> Tensor:
    """Schedule coordinates u in (0, 1], stratified over a batch; some at 1, pure noise.

    Few-step sampling begins there and spends much of its calls there.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    top = torch.rand(count, generator=generator) < top_share
    return torch.where(top, torch.ones(()), u.clamp_min(1e-3)).double()


def publish(
    preset: Path, name: str, module: nn.Module, config: StageConfig, eight_bits: bool = False
) -> None:
    """Put a stage into the preset, as float16 or with its matrices in eight bits.

    Its config comes first, for weights are what make a stage present.
    """
    write_stage(config, preset / f"{name}.json")
    state = module.state_dict()
    stored = packed(state) if eight_bits else {key: value.half() for key, value in state.items()}
    partial = preset / f"{name}.safetensors.partial"
    save_file({key: value.contiguous() for key, value in stored.items()}, partial)
    os.replace(partial, preset / f"{name}.safetensors")


def write_scores(folder: Path, scores: Mapping[str, float]) -> None:
    """Leave a run's measurements beside it."""
    rounded = {name: round(float(value), 4) for name, value in scores.items()}
    (folder / "scores.json").write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Tensor]) -> None:
    """A picture of clips (3, t, H, W) in -1..1, one below the other."""
    pixels = torch.cat([rearrange(row, "c t h w -> h (t w) c") for row in rows])
    levels_of = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    Image.fromarray(levels_of).save(path)
