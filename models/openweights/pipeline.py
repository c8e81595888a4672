"""A checkpoint of open weights behind the common protocol: one task at a time, nothing left over.

What varies with a job, scheduler and guidance, is made anew for each, so that a cancelled one
leaves nothing behind.
"""

import importlib.metadata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from models.catalog import ModelCard
from models.openweights.adapter import Adapter
from models.openweights.lora import applied
from models.openweights.memory import Place
from models.openweights.progress import watched
from models.openweights.prompts import PromptCache
from models.openweights.refusals import check
from models.openweights.replay import remembered
from models.openweights.snapshots import ClipMemory, read_snapshot
from models.openweights.tiers import FAST, made_in
from models.protocol import Frames, Memory, OnStep, Step, Task


@dataclass(frozen=True)
class OpenModel:
    """A loaded checkpoint that serves tasks."""

    card: ModelCard
    weights_sha256: str
    adapter: Adapter
    place: Place
    prompts: PromptCache = field(default_factory=PromptCache)

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        return next(self.stream(task, on_step))

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """The clip as one piece; see `models.protocol.ResumableModel`."""
        check(task, self.card)
        return self._whole(task, on_step, memory)

    def remember(self, identity: str, written: bytes | None = None) -> ClipMemory:
        """The memory of one clip; see `models.protocol.ResumableModel`."""
        version = importlib.metadata.version("diffusers")
        changes = [(adapter.id, adapter.sha256) for adapter in self.card.adapters]
        whole = f"{identity} {self.weights_sha256} {version} {self.place} {changes}"
        return ClipMemory(whole) if written is None else read_snapshot(written, whole)

    def draw(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> np.ndarray:
        """The clip as pixels (T, H, W, 3) of 0..1. raises as `generate`"""
        check(task, self.card)
        on_step(Step("encoding", 0, 1))
        pipe = self.place.pipeline(self.adapter.sibling(self.place.pipe, task.task_type))
        arguments = self._arguments(pipe, task)
        with ExitStack() as stack:
            stack.enter_context(own_parts(pipe, task, self.adapter))
            stack.enter_context(watched(pipe, on_step, task.num_inference_steps))
            stack.enter_context(applied(pipe, task.adapter, task.adapter_scale))
            stack.enter_context(self.prompts.over(pipe))
            stack.enter_context(self.adapter.during(pipe, task))
            stack.enter_context(made_in(pipe, task.quality))
            if memory is not None and task.quality != FAST:
                assert isinstance(memory, ClipMemory)
                stack.enter_context(remembered(pipe, arguments["generator"], memory))
            return pipe(**arguments).frames[0]

    def _whole(self, task: Task, on_step: OnStep, memory: Memory | None) -> Iterator[Frames]:
        frames = to_frames(self.draw(task, on_step, memory))
        on_step(Step("decoding", 1, 1))
        yield frames

    def _arguments(self, pipe: Any, task: Task) -> dict[str, Any]:
        words = {"prompt": task.prompt, "negative_prompt": task.negative_prompt}
        given = {
            "num_frames": task.num_frames,
            "num_inference_steps": task.num_inference_steps,
            "generator": torch.Generator("cpu").manual_seed(task.seed),
            "output_type": "np",
        }
        if self.adapter.worded:
            given |= words
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
    if hasattr(pipe, "guider"):
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
