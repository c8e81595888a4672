"""The workers' model: a tiny preset of the family that a poisonous prompt kills each time."""

import os
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from models.protocol import Frames, Memory, OnStep, Task, VideoModel
from models.videoldm.pipeline import VideoLDM
from tests.chaos.orders import POISON
from tests.worker.tiny import load_model as load_tiny


class Frail(VideoLDM):
    """As its parent, as long as nobody says the word."""

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """Make the film, or die."""
        if POISON in task.prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stream(task, on_step, memory)


def load_model(model: str, weights_dir: Path, device: str, dtype: str) -> VideoModel:
    """The worker's loader."""
    loaded = load_tiny(model, weights_dir, device, dtype)
    assert isinstance(loaded, VideoLDM)
    return Frail(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})
