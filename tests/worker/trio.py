"""Three tiny presets of the family in one data folder, as registered models lie there; each draws
films of its own. Files beside a model's card make its loading slow, or fail."""

import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from models.catalog import CHECKPOINT
from models.protocol import VideoModel
from models.registry import load_model as load_preset
from tests.models.presets import build_preset
from worker.jobs.catalog import REGISTERED

NAMES = ("one", "two", "three")
SLOW = "slow"  # file: seconds that loading takes longer


def write_models(data_dir: Path) -> dict[str, Path]:
    """Write the three models; their folders."""
    folders = {name: data_dir / REGISTERED / name for name in NAMES}
    for seed, (name, folder) in enumerate(folders.items()):
        build_preset(folder, name)
        (folder / CHECKPOINT).write_text("{}")
        shift(folder / "unet.safetensors", seed)
    return folders


def shift(path: Path, seed: int) -> None:
    """Move all weights of a file, so that what it draws is another film."""
    draw = torch.Generator().manual_seed(seed)
    weights = load_file(path)
    moved = {
        name: weight + 0.2 * torch.randn(weight.shape, generator=draw)
        for name, weight in weights.items()
    }
    save_file(moved, path)


def load_model(model: str, folder: Path, device: str, dtype: str) -> VideoModel:
    """The worker's loader."""
    if (folder / SLOW).exists():
        time.sleep(float((folder / SLOW).read_text()))
    return load_preset(model, folder, device, dtype)
