"""A tiny preset of the family for workers, slow enough to be interrupted, its steps counted."""

import json
import os
import threading
import time
from pathlib import Path

import torch

from models.catalog import TASKS
from models.protocol import VideoModel
from models.registry import load_model as load_preset
from models.videoldm.pipeline import VideoLDM
from tests.models.presets import build_preset

PACE = "pace"  # file: seconds that every forward takes longer
CALLS = "calls"  # file: a line for every forward, the process that made it
CRAMPED = "cramped"  # file: threads on which decoding finds no memory


def write_weights(folder: Path, pace_s: float = 0.0) -> Path:
    """Make a folder of weights that `load_model` accepts."""
    build_preset(folder, "pocket")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    allowed = {"tasks": list(TASKS), "resumable": True}
    (folder / "card.json").write_text(json.dumps(card | allowed), encoding="utf-8")
    (folder / PACE).write_text(str(pace_s))
    return folder


def load_model(model: str, weights_dir: Path, device: str, dtype: str) -> VideoModel:
    """The worker's loader."""
    loaded = load_preset(model, weights_dir, device, dtype)
    assert isinstance(loaded, VideoLDM)
    pace_s = float((weights_dir / PACE).read_text())

    def count(*_: object) -> None:
        with (weights_dir / CALLS).open("a") as calls:
            calls.write(f"{os.getpid()}\n")
        time.sleep(pace_s)

    def lack_memory(*_: object) -> None:
        cramped = weights_dir / CRAMPED
        if cramped.exists() and threading.current_thread().name in cramped.read_text().split():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    loaded.preset.unet.register_forward_pre_hook(count)
    loaded.preset.autoencoder.decoder.register_forward_pre_hook(lack_memory)
    return loaded


def count_calls(folder: Path) -> dict[int, int]:
    """Forwards by process."""
    lines = (folder / CALLS).read_text().split() if (folder / CALLS).exists() else []
    return {int(pid): lines.count(pid) for pid in lines}
