"""A checkpoint of open weights behind the common protocol: one task at a time, nothing left over.

What varies with a job, scheduler and guidance, is made anew for each, so that a cancelled one
leaves nothing behind.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from models.batch import Table, make_together, one_by_one
from models.catalog import TURBO, ModelCard
from models.openweights.adapter import Adapter
from models.openweights.lora import applied
from models.openweights.memory import Place
from models.openweights.progress import watched
from models.openweights.prompts import PromptCache
from models.openweights.refusals import check
from models.openweights.replay import SCHEDULERS, remembered
from models.openweights.segments import LONG, Lengths, Reports, plan
from models.openweights.sharing import at_place
from models.openweights.snapshots import FilmMemory, read_snapshot
from models.openweights.tiers import FAST, PLAIN, Means, made_in
from models.protocol import Frames, Maker, Memory, OnStep, Step, Task
from models.words import check_words


@dataclass(frozen=True)
class OpenModel:
    """A loaded checkpoint that serves tasks."""

    card: ModelCard
    weights_sha256: str
    adapter: Adapter
    place: Place
    means: Means = PLAIN  # of the quality `fast`
    prompts: PromptCache = field(default_factory=PromptCache)
    share: Callable[[Any], Any] = lambda pipe: pipe  # its networks as other films share them

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        return np.concatenate(list(self.stream(task, on_step)))

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """The film clip by clip; see `models.protocol.ResumableModel`."""
        self._check(task)
        make = self._film if task.task_type in LONG else self._whole
        return make(task, on_step, memory)

    def remember(self, identity: str, written: bytes | None = None) -> FilmMemory:
        """The memory of one clip; see `models.protocol.ResumableModel`."""
        version = importlib.metadata.version("diffusers")
        changes = [(adapter.id, adapter.sha256) for adapter in self.card.adapters]
        changes += [(tier.name, tier.sha256) for tier in self.card.tiers if tier.sha256]
        whole = f"{identity} {self.weights_sha256} {version} {self.place} {changes}"
        return FilmMemory(whole) if written is None else read_snapshot(written, whole)

    def together(self, makers: Sequence[Maker]) -> None:
        """Make several films at once; see `models.protocol.BatchableModel`.

        One by one if that is how they fit into memory, or as the family is.
        """
        if self.place.offloaded or not self.card.batchable:
            one_by_one(makers, self)
            return

        def shared(table: Table, place: int) -> "OpenModel":
            share = functools.partial(at_place, table, place, self.adapter.joined)
            return replace(self, share=share)

        make_together(makers, shared)

    def draw(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> np.ndarray:
        """One clip as pixels (T, H, W, 3) of 0..1. raises as `generate`"""
        self._check(task)
        return self._draw(task, on_step, memory)

    def _check(self, task: Task) -> None:
        check(task, self.card)
        if self.adapter.worded:
            tokenizer, most = self.place.pipe.tokenizer, self.adapter.tokens
            most = tokenizer.model_max_length if most is None else most
            check_words(lambda prompt: len(tokenizer(prompt).input_ids), most, task)

    def _draw(self, task: Task, on_step: OnStep, memory: Memory | None) -> np.ndarray:
        on_step(Step("encoding", 0, 1))
        sibling = self.adapter.sibling(self.place.pipe, task.task_type)
        pipe = self.share(self.place.pipeline(sibling))
        arguments = self._arguments(pipe, task)
        with ExitStack() as stack:
            stack.enter_context(own_parts(pipe, task, self.adapter))
            loops = self.adapter.loops(task)
            stack.enter_context(watched(pipe, on_step, task.num_inference_steps, loops))
            stack.enter_context(applied(pipe, *change_of(task)))
            stack.enter_context(self.prompts.over(pipe))
            stack.enter_context(self.adapter.during(pipe, task))
            stack.enter_context(made_in(pipe, task.quality, self.means))
            if memory is not None and task.quality != FAST:
                assert isinstance(memory, FilmMemory)
                stack.enter_context(remembered(pipe, arguments["generator"], memory))
            return pipe(**arguments).frames[0]

    def _whole(self, task: Task, on_step: OnStep, memory: Memory | None) -> Iterator[Frames]:
        frames = to_frames(self._draw(task, on_step, memory))
        on_step(Step("decoding", 1, 1))
        yield frames

    def _film(self, task: Task, on_step: OnStep, memory: Memory | None) -> Iterator[Frames]:
        lengths = Lengths(self.card.frames, self.card.default_frames, self.adapter.contexts)
        clips = plan(task, lengths)
        steps = [task.num_inference_steps * self.adapter.loops(clip.task) for clip in clips]
        reports = Reports(on_step, clips, steps)
        end = np.empty((0, task.height, task.width, 3), np.uint8)
        if task.video is not None:
            end = task.video
            yield end
        for index, clip in enumerate(clips):
            if memory is not None:
                assert isinstance(memory, FilmMemory)
                memory.turn_to(index)
            made = to_frames(self._draw(clip.following(end), reports.of(index), memory))
            new = made[clip.carried : clip.carried + clip.new]
            end = np.concatenate([end, new])[-max(self.adapter.contexts) :]
            if index == len(clips) - 1:
                on_step(Step("decoding", 1, 1, clip.shot, clip.shot + 1, 1.0))
            yield new

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


def change_of(task: Task) -> tuple[str | None, float]:
    """The LoRA that a job asks for, or that its quality is made by, and its scale."""
    return (TURBO, 1.0) if task.quality == TURBO else (task.adapter, task.adapter_scale)


@contextmanager
def own_parts(pipe: Any, task: Task, adapter: Adapter) -> Iterator[None]:
    """Give a pipeline a scheduler, and guidance if that is a part, of this job's own."""
    parts = {name: getattr(pipe, name) for name in SCHEDULERS if hasattr(pipe, name)}
    for name, part in parts.items():  # where sound has none of its own, it has the pictures'
        part = part or pipe.scheduler
        setattr(pipe, name, type(part).from_config(part.config))
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
