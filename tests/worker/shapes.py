"""A model of moving shapes in numpy: a whole `VideoModel`, small enough to break on purpose.

What it draws depends on the request alone. Words of the prompt set its pace and its faults:
`pace=0.05` seconds a step, `die=3` SIGKILL at step 3, `hang=2` stop answering at step 2,
`noise=1` a ground that does not compress, `leak=100` MiB that are never given back,
`raise=ValueError`, `raise=MemoryError`, `raise=OutOfMemoryError` as PyTorch's, `raise=CUDA` or
`raise=RuntimeError` at step 1.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np

from models.catalog import ModelCard
from models.protocol import Frames, OnStep, Step, Task
from tests.cards import plain_catalog

WEIGHTS = "shapes.json"

leaked: list[np.ndarray] = []


class OutOfMemoryError(RuntimeError):
    """What PyTorch raises when an accelerator is full, by name and kind."""


class ShapesModel:
    """A square on a plain ground, moving to the right."""

    def __init__(self, card: ModelCard, colour: tuple[int, int, int], weights_sha256: str) -> None:
        self.card = card
        self.weights_sha256 = weights_sha256
        self._colour = colour

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        orders = read_orders(task.prompt)
        on_step(Step("encoding", 0, 1))
        total = task.num_inference_steps
        on_step(Step("denoising", 0, total))
        for index in range(1, total + 1):
            time.sleep(float(orders.get("pace", "0.002")))
            misbehave(orders, index)
            on_step(Step("denoising", index, total))
        on_step(Step("decoding", 0, 1))
        return self._draw(task)

    def _draw(self, task: Task) -> Frames:
        ground = np.random.default_rng(task.seed).integers(0, 120, 3, np.uint8)
        frames = np.empty((task.num_frames, task.height, task.width, 3), np.uint8)
        frames[:] = ground
        if "noise" in read_orders(task.prompt):
            frames[:] = np.random.default_rng(task.seed).integers(0, 256, frames.shape, np.uint8)
        side = task.height // 4
        for index, frame in enumerate(frames):
            left = index * (task.width - side) // max(1, task.num_frames - 1)
            frame[side : 2 * side, left : left + side] = self._colour
        return frames


def read_orders(prompt: str) -> dict[str, str]:
    """The `name=value` words of a prompt."""
    return dict(word.split("=", 1) for word in prompt.split() if "=" in word)


def misbehave(orders: dict[str, str], index: int) -> None:
    """Do at this step what the prompt asks for."""
    if orders.get("die") == str(index):
        os.kill(os.getpid(), signal.SIGKILL)
    if "leak" in orders and index == 1:
        leaked.append(np.ones(int(orders["leak"]) << 17))  # 8 bytes each
    if orders.get("hang") == str(index):
        time.sleep(3600)
    kind = orders.get("raise")
    if kind is not None:
        raise {
            "ValueError": ValueError("17 frames, the limit is 16"),
            "MemoryError": MemoryError(),
            "OutOfMemoryError": OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            "CUDA": RuntimeError("CUDA error: an illegal memory access was encountered"),
            "RuntimeError": RuntimeError("secret /path/of/the/server"),
        }[kind]


def write_weights(folder: Path) -> None:
    """Make a folder of weights that `load_model` accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text(json.dumps({"colour": [250, 200, 40]}))


def load_model(model: str, weights_dir: Path, device: str, dtype: str) -> ShapesModel:
    """The worker's loader; raises OSError without weights, ValueError on broken ones."""
    data = (weights_dir / WEIGHTS).read_bytes()
    red, green, blue = json.loads(data)["colour"]
    card = plain_catalog()[model]
    return ShapesModel(card, (red, green, blue), hashlib.sha256(data).hexdigest())


def die_loading(model: str, weights_dir: Path, device: str, dtype: str) -> ShapesModel:
    """A loader that takes its process along, as a broken driver does."""
    os.abort()


def leave_loading(model: str, weights_dir: Path, device: str, dtype: str) -> ShapesModel:
    """A loader whose process hangs up before it is over, as one that writes its core does."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as end:
            end.shutdown(socket.SHUT_WR)
    time.sleep(5)
    os.abort()
