"""A preset with stages after its base, behind the common protocol.

What the base can make alone it makes alone. For a larger or denser film the base, or its distilled
student, draws key frames at one rate and size, and the cascade makes the film of them. Clips that
were uploaded go through the stages only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from models.batch import make_together
from models.catalog import CascadeRule, ModelCard, Quality
from models.protocol import Frames, Maker, Memory, OnStep, Step, Task
from models.videoldm.batch import Share, sharing
from models.videoldm.cascade import Bar, Cascade, film_of, key_times
from models.videoldm.checkpoints import NO_MEMORY, FilmMemory, own, remembered
from models.videoldm.conditioning import frame_times
from models.videoldm.diffusion import frame_noise
from models.videoldm.given import words_only
from models.videoldm.pipeline import VideoLDM
from models.videoldm.student import Student

KEYED = frozenset({"text", "image", "first_last_frame", "reference"})  # kinds of one clip


@dataclass(frozen=True)
class StagedLDM:
    """A loaded preset that serves tasks through its stages."""

    card: ModelCard
    base: VideoLDM
    cascade: Cascade

    @property
    def weights_sha256(self) -> str:
        """Hex digest over config and weights, those of the stages included."""
        return self.base.weights_sha256

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        return np.concatenate(list(self.stream(task, on_step)))

    def remember(self, identity: str, written: bytes | None = None) -> FilmMemory:
        """The memory of one film; see `models.protocol.ResumableModel`."""
        return self.base.remember(identity, written)

    def together(self, makers: Sequence[Maker]) -> None:
        """Make several films at once; see `models.protocol.BatchableModel`."""
        make_together(makers, lambda table, place: self.shared(sharing(table, place)))

    def shared(self, share: Share) -> "StagedLDM":
        """The same with the base's networks as others share them; stages after it are its own."""
        return replace(self, base=self.base.shared(share))

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """Make the film piece by piece; see `models.protocol.ResumableModel`."""
        known, rule = own(memory), self.cascade.rule
        quality = rule.quality(task.quality)
        if task.task_type not in self.card.tasks:
            raise ValueError(f"{self.card.id} cannot make task {task.task_type!r}")
        if task.task_type == "interpolate":
            return self.cascade.interpolate(task, quality, on_step, known)
        if task.task_type == "upscale":
            return self.cascade.upscale(task, quality, on_step, known)
        if f"{task.width}x{task.height}" in self.base.card.sizes and task.fps not in rule.fps:
            return self.base.stream(task, on_step, known)
        return self._through_stages(task, quality, on_step, known)

    def _through_stages(
        self, task: Task, quality: Quality, on_step: OnStep, memory: FilmMemory
    ) -> Iterator[Frames]:
        rule = self.cascade.rule
        film = film_of(task, rule, task.quality)
        keys = key_task(task, rule, quality, self.base.card)
        times = tuple(index / keys.fps for index in range(keys.num_frames))
        latents = self._keys(keys, quality, on_step, memory)
        yield from self.cascade.film(latents, times, film, on_step, memory)

    def _keys(self, keys: Task, quality: Quality, on_step: OnStep, memory: FilmMemory) -> Tensor:
        """Latents (1, c, k, h, w) of the key frames."""
        student = self.base.preset.stages.student
        if quality.distilled and keys.adapter is not None:
            raise ValueError(f"quality {quality.name!r} with an adapter, which changes the base")
        if quality.distilled and student is not None and keys.task_type == "text":
            return drawn_in_few_steps(self.base, student, keys, on_step, memory)
        return self.base.latents(keys, on_step, memory)


def staged(base: VideoLDM) -> VideoLDM | StagedLDM:
    """The preset behind all that its card offers: itself, or itself with its stages."""
    rule = base.card.cascade
    if rule is None:
        return base
    return StagedLDM(
        base.card, replace(base, card=base_card(base.card)), Cascade(base.preset, rule)
    )


def base_card(card: ModelCard) -> ModelCard:
    """What the base alone is asked for: its own sizes and rates, and those of key frames."""
    assert card.cascade is not None
    rule = card.cascade
    rates = (rule.key_fps, *(rate for rate in card.fps if rate not in rule.fps))
    return replace(
        card,
        cascade=None,
        tasks=card.tasks - {"interpolate", "upscale"},
        sizes=tuple(
            dict.fromkeys((rule.base_size, *(s for s in card.sizes if s not in rule.sizes)))
        ),
        fps=tuple(dict.fromkeys(rates)),
    )


def key_task(task: Task, rule: CascadeRule, quality: Quality, card: ModelCard) -> Task:
    """The task of the base's key frames under a film.

    raises ValueError for a kind of job that is not of one clip, or a film outside the limits
    """
    if task.task_type not in KEYED:
        raise ValueError(
            f"{task.task_type!r} at {task.width}x{task.height} and {task.fps} frames per second: "
            f"only at {list(card.sizes)} and {list(card.fps)}"
        )
    length = task.num_frames / task.fps
    if not rule.min_seconds <= length <= rule.max_seconds:
        raise ValueError(f"{length:g} s: between {rule.min_seconds:g} and {rule.max_seconds:g}")
    dense = bool(rule.fps) and task.fps in rule.fps
    times = key_times(rule, task.num_frames, task.fps, card.frames.minimum)
    width, height = (int(side) for side in rule.base_size.split("x"))
    fixed = quality.fixed_steps(task.task_type)
    return replace(
        task,
        width=width,
        height=height,
        fps=rule.key_fps if dense else task.fps,
        num_frames=len(times) if dense else task.num_frames,
        num_inference_steps=task.num_inference_steps if fixed is None else fixed,
        quality=None,
    )


def drawn_in_few_steps(
    base: VideoLDM,
    student: Student,
    keys: Task,
    on_step: OnStep,
    memory: FilmMemory = NO_MEMORY,
) -> Tensor:
    """Key latents by the distilled base; a scale it was not distilled for is brought into range."""
    least, most = student.config.guidance
    scale = min(max(keys.guidance_scale, least), most)
    steps = keys.num_inference_steps
    on_step(Step("encoding", 0, 1))
    told = words_only(base.preset, keys, keys.prompt, keys.num_frames)
    times = frame_times(keys.num_frames, keys.fps)[0]
    shape = (told.frames.shape[1], told.frames.shape[3], told.frames.shape[4])
    noise = frame_noise(shape, times, keys.seed)[None].to(told.frames.device)
    bar = Bar(on_step, "denoising", steps)
    on_state, state = remembered(memory, "student", bar.step)
    return student.sample(told, noise, scale, steps, on_state, state)
