"""A checkpoint of open weights behind the common protocol: one task at a time, nothing left over.

What varies with a job, scheduler and guidance, is made anew for each, so that a cancelled one
leaves nothing behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.catalog import ModelCard
from models.openweights.adapter import Adapter
from models.openweights.memory import Place
from models.openweights.progress import watched
from models.openweights.refusals import check
from models.protocol import Frames, OnStep, Step, Task


@dataclass(frozen=True)
class OpenModel:
    """A loaded checkpoint that serves tasks."""

    card: ModelCard
    weights_sha256: str
    adapter: Adapter
    place: Place

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        frames = to_frames(self.draw(task, on_step))
        on_step(Step("decoding", 1, 1))
        return frames

    def draw(self, task: Task, on_step: OnStep) -> np.ndarray:
        """The clip as pixels (T, H, W, 3) of 0..1. raises as `generate`"""
        check(task, self.card)
        on_step(Step("encoding", 0, 1))
        pipe = self.place.pipeline(self.adapter.sibling(self.place.pipe, task.task_type))
        with own_parts(pipe, task, self.adapter), watched(pipe, on_step, task.num_inference_steps):
            return pipe(**self._arguments(pipe, task)).frames[0]

    def _arguments(self, pipe: Any, task: Task) -> dict[str, Any]:
        given = {
            "prompt": task.prompt,
            "negative_prompt": task.negative_prompt,
            "num_frames": task.num_frames,
            "num_inference_steps": task.num_inference_steps,
            "generator": torch.Generator("cpu").manual_seed(task.seed),
            "output_type": "np",
        }
        if self.adapter.sized:
            given |= {"width": task.width, "height": task.height}
        if self.adapter.guided:
            given["guidance_scale"] = task.guidance_scale
        return given | self.adapter.arguments(pipe, task)


@contextmanager
def own_parts(pipe: Any, task: Task, adapter: Adapter) -> Iterator[None]:
    """Give a pipeline a scheduler, and guidance if that is a part, of this job's own."""
    parts = {"scheduler": pipe.scheduler}
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    if not adapter.guided:
        parts["guider"] = pipe.guider
        pipe.guider = pipe.guider.new(guidance_scale=task.guidance_scale)
    try:
        yield
    finally:
        for name, part in parts.items():
            setattr(pipe, name, part)


def to_frames(made: np.ndarray) -> Frames:
    """Pixels (T, H, W, 3) of 0..1 as frames."""
    if not np.isfinite(made).all():
        raise ArithmeticError("the model made pixels that are no numbers")
    return (made * 255).round().clip(0, 255).astype(np.uint8)
