"""A preset with stages after its base, behind the common protocol.

What the base can make alone it makes alone. For a larger or denser film the base, or its distilled
student, draws key frames at one rate and size, and the cascade makes the film of them: at once for
a film of one clip, clip by clip for a story or an extension, however long. Clips that were uploaded
go through the stages only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from models.batch import make_together
from models.catalog import CascadeRule, ModelCard, Quality
from models.protocol import Frames, Maker, Memory, OnStep, Step, Task
from models.videoldm.batch import Share, sharing
from models.videoldm.cascade import Bar, Cascade, Film, film_of, key_times, size_of
from models.videoldm.checkpoints import NO_MEMORY, FilmMemory, own, remembered
from models.videoldm.conditioning import frame_times
from models.videoldm.diffusion import frame_noise
from models.videoldm.given import words_only
from models.videoldm.pictures import write_frames
from models.videoldm.pipeline import VideoLDM
from models.videoldm.reports import Whole
from models.videoldm.student import Student
from models.videoldm.takes import Keys, ends_of, key_extension, key_story

KEYED = frozenset({"text", "image", "first_last_frame", "reference", "edit"})  # of one clip


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
        self.base.check_words(task)
        if f"{task.width}x{task.height}" in self.base.card.sizes and task.fps not in rule.fps:
            return self.base.stream(task, on_step, known)
        if task.task_type in KEYED:
            return self._through_stages(task, quality, on_step, known)
        return self._in_takes(task, quality, on_step, known)

    def _through_stages(
        self, task: Task, quality: Quality, on_step: OnStep, memory: FilmMemory
    ) -> Iterator[Frames]:
        rule = self.cascade.rule
        film = film_of(task, rule, task.quality)
        keys = key_task(task, rule, quality, self.base.card)
        times = tuple(index / keys.fps for index in range(keys.num_frames))
        latents = self._keys(keys, quality, on_step, memory)
        yield from self.cascade.film(latents, times, film, on_step, memory)

    def _in_takes(
        self, task: Task, quality: Quality, on_step: OnStep, memory: FilmMemory
    ) -> Iterator[Frames]:
        """A film of several clips; what it begins from is handed on as it was given."""
        source = self.base.source(task)
        keys = self._planned(task, quality, source)
        whole = Whole(on_step, task, task.num_frames - len(source))
        if len(source) and not task.extend_before:
            yield source
        clips = map(
            partial(self._beside, keys.task), self._of_shots.pieces(keys.task, whole.step, memory)
        )
        for take in keys.takes:
            film = Film(take.times, task.fps, task.width, task.height, take.seed, quality)
            made = self.cascade.flow(islice(clips, take.clips), film, whole.tell)
            for frames in without_ends(made, take.lead, take.trail):
                yield write_frames(frames)
                whole.made(frames.shape[2])
        if len(source) and task.extend_before:
            yield source

    def _beside(self, task: Task, piece: Frames | Tensor) -> Tensor:
        """Latents of a piece; of frames that were given, those of the one next to what is made."""
        if isinstance(piece, Tensor):
            return piece
        return self.base.encoded(piece[:1] if task.extend_before else piece[-1:])

    @property
    def _of_shots(self) -> VideoLDM:
        """The base as it is asked for shots: the shortest have fewer keys than its own clips."""
        card, rule = self.base.card, self.cascade.rule
        least = min(card.frames.minimum, int(rule.min_seconds * rule.key_fps))
        return replace(self.base, card=replace(card, frames=replace(card.frames, minimum=least)))

    def _planned(self, task: Task, quality: Quality, source: Frames) -> Keys:
        """raises ValueError for a film or a shot outside the limits"""
        most, least = self.card.inputs.max_total_frames, self.card.frames_at(task.fps).minimum
        if task.num_frames > most:
            raise ValueError(f"{task.num_frames} frames: {most} at most")
        short = [shot.num_frames for shot in task.shots if shot.num_frames < least]
        if short:
            raise ValueError(f"a shot of {short[0]} frames: {least} at least")
        rule, size = self.cascade.rule, size_of(self.cascade.rule.base_size)
        dense = task.fps in rule.fps
        rate = rule.key_fps if dense else task.fps
        fixed = quality.fixed_steps(task.task_type)
        steps = task.num_inference_steps if fixed is None else fixed
        asked = replace(task, num_inference_steps=steps)
        if task.task_type == "extend":
            return key_extension(asked, source, rate, size)
        capacity = self.base.preset.config.unet.trained_frames
        return key_story(asked, rate, size, capacity, dense)

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
    ends = task.last_frame is not None or task.task_type == "edit"
    times = key_times(rule, task.num_frames, task.fps, card.frames.minimum, ends)
    width, height = size_of(rule.base_size)
    fixed = quality.fixed_steps(task.task_type)
    return replace(
        task,
        width=width,
        height=height,
        fps=rule.key_fps if dense else task.fps,
        num_frames=len(times) if dense else task.num_frames,
        video=None if task.video is None else ends_of(task.video),
        video_fps=None,
        num_inference_steps=task.num_inference_steps if fixed is None else fixed,
        quality=None,
    )


def without_ends(pieces: Iterable[Tensor], lead: int, trail: int) -> Iterator[Tensor]:
    """Pieces of a film, (1, 3, n, H, W) each, without so many frames at its two ends."""
    held: Tensor | None = None
    for piece in pieces:
        rest = piece[:, :, lead:]
        lead = max(0, lead - piece.shape[2])
        held = rest if held is None else torch.cat([held, rest], 2)
        if held.shape[2] > trail:
            ends = held.shape[2] - trail
            yield held[:, :, :ends]
            held = held[:, :, ends:]


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
