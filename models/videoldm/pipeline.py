"""A preset of the family behind the common protocol: prompt and seed in, frames out.

A thin conductor: a film is planned as segments, and each is told, denoised and decoded in turn. One
task at a time; everything that varies with the request is local to the call, so a cancelled task
leaves nothing behind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.batch import make_together
from models.catalog import ModelCard, read_card
from models.protocol import Frames, Maker, Memory, OnStep, Step, Task
from models.videoldm.adapters import adapted
from models.videoldm.batch import Share, sharing
from models.videoldm.branches import Known, tell, untold
from models.videoldm.checkpoints import FilmMemory, own, read_memory
from models.videoldm.conditioning import MAX_CONTEXT, last_frame_steps
from models.videoldm.denoising import Course, denoise_clip
from models.videoldm.edits import edit_steps, end_frames
from models.videoldm.given import (
    Given,
    conditions_of,
    context_of,
    decode_latents,
    encode_picture,
    encode_pixels,
)
from models.videoldm.pictures import read_clip, resized, retimed, write_frames
from models.videoldm.references import reference_scale, used_references
from models.videoldm.refusals import check
from models.videoldm.reports import Reports
from models.videoldm.segments import Segment, plan_film
from models.videoldm.weights import Preset, load_preset
from models.words import check_words

DECODE_CHUNK = 8  # frames decoded at once


@dataclass(frozen=True)
class VideoLDM:
    """A loaded preset that serves tasks."""

    card: ModelCard
    preset: Preset
    device: str

    @property
    def weights_sha256(self) -> str:
        """Hex digest over config and weights."""
        return self.preset.sha256

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        """Make the clip; see `models.protocol.VideoModel`."""
        return np.concatenate(list(self.stream(task, on_step)))

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        """Make the film piece by piece; see `models.protocol.ResumableModel`."""
        self.check(task)
        return self._film(task, on_step, own(memory))

    def check(self, task: Task) -> None:
        """raises ValueError if the task is outside the card, LongPrompt"""
        check(task, self.card, self.preset.config.abilities)
        self.check_words(task)

    def check_words(self, task: Task) -> None:
        """raises LongPrompt if words of it would not be read"""
        check_words(self.preset.text.count, self.preset.text.max_tokens, task)

    def remember(self, identity: str, written: bytes | None = None) -> FilmMemory:
        """The memory of one film; see `models.protocol.ResumableModel`."""
        weight = next(self.preset.unet.parameters())
        whole = f"{identity} {self.weights_sha256} {weight.device.type} {weight.dtype}"
        return FilmMemory(whole, {}) if written is None else read_memory(written, whole)

    def together(self, makers: Sequence[Maker]) -> None:
        """Make several films at once; see `models.protocol.BatchableModel`."""
        make_together(makers, lambda table, place: self.shared(sharing(table, place)))

    def shared(self, share: Share) -> "VideoLDM":
        """The same with its networks as others share them."""
        stages, preset = self.preset.stages, self.preset
        if stages.student is not None:
            student = replace(stages.student, unet=share(stages.student.unet))
            stages = replace(stages, student=student)
        return replace(self, preset=replace(preset, unet=share(preset.unet), stages=stages))

    def latents(self, task: Task, on_step: OnStep, memory: FilmMemory) -> Tensor:
        """The film as latents (1, c, t, h, w), not decoded: key frames for the stages after this.

        raises ValueError if the task is outside the card; whatever on_step raises
        """
        pieces = self.pieces(task, on_step, memory)
        return torch.cat(
            [piece if isinstance(piece, Tensor) else self.encoded(piece) for piece in pieces], 2
        )

    def pieces(self, task: Task, on_step: OnStep, memory: FilmMemory) -> Iterator[Frames | Tensor]:
        """The film as it is made: latents (1, c, t, h, w) of each clip, and the frames that an
        extension begins from, as they are given.

        raises ValueError if the task is outside the card; whatever on_step raises
        """
        self.check(task)
        return self._pieces(task, on_step, memory)[0]

    def _film(self, task: Task, on_step: OnStep, memory: FilmMemory) -> Iterator[Frames]:
        pieces, reports = self._pieces(task, on_step, memory)
        for piece in pieces:
            if isinstance(piece, Tensor):
                yield from self._decoded(piece, reports)
            else:
                yield piece

    def _pieces(
        self, task: Task, on_step: OnStep, memory: FilmMemory
    ) -> tuple[Iterator[Frames | Tensor], Reports]:
        """The film as it is made, latents and given frames, and what reports on it."""
        on_step(Step("encoding", 0, 1, 0, max(1, len(task.shots))))
        source = self.source(task)
        plan = plan_film(
            task,
            self.preset.config.unet.trained_frames,
            len(source) if task.task_type == "extend" else 0,
        )
        reports = Reports(on_step, task, plan, edit_steps(task), memory)
        backwards = task.task_type == "extend" and task.extend_before
        pieces = self._leading_up if backwards else self._following
        return pieces(task, plan, source, reports), reports

    def source(self, task: Task) -> Frames:
        """The clip that the task begins from, at the film's rate and size; else no frames."""
        if task.video is None:
            return np.empty((0, task.height, task.width, 3), np.uint8)
        return resized(retimed(task.video, task.video_fps, task.fps), task.width, task.height)

    def _following(
        self, task: Task, plan: tuple[Segment, ...], source: Frames, reports: Reports
    ) -> Iterator[Frames | Tensor]:
        """The source, if it is extended, then latents of every segment after the one before it."""
        latents = None
        if task.task_type == "extend":
            yield source
            latents = self.encoded(source[-MAX_CONTEXT:])
        for index, segment in enumerate(plan):
            reports.begin(segment.shot, ends=index == len(plan) - 1)
            latents = self._clip(task, segment, latents, source, reports)
            yield latents[:, :, segment.carried :]

    def _leading_up(
        self, task: Task, plan: tuple[Segment, ...], source: Frames, reports: Reports
    ) -> Iterator[Frames | Tensor]:
        """Segments from the source backwards; then their latents in film order, and the source."""
        clips = []
        latents = self.encoded(source[:MAX_CONTEXT])
        for index, segment in enumerate(plan):
            reports.begin(segment.shot, ends=index == len(plan) - 1)
            latents = self._clip(task, segment, latents, source, reports)
            clips.append(latents[:, :, : segment.new])
        yield torch.cat(clips[::-1], 2)
        yield source

    def _clip(
        self,
        task: Task,
        segment: Segment,
        beside: Tensor | None,
        source: Frames,
        reports: Reports,
    ) -> Tensor:
        """Latents (1, c, t, h, w) of a segment's clip, its context included as it was given.

        beside  latents of the film next to it, from which its context is taken
        """
        adapter = self.preset.adapters.get(task.adapter or "")
        with adapted(self.preset.unet, adapter, task.adapter_scale):
            return self._drawn(task, segment, beside, source, reports)

    def _drawn(
        self,
        task: Task,
        segment: Segment,
        beside: Tensor | None,
        source: Frames,
        reports: Reports,
    ) -> Tensor:
        course = self._course(task, segment)
        given = self._given(task, segment, beside, source, course, reports)
        conditions = conditions_of(self.preset, task, segment, given)
        steps = last_frame_steps(task.last_frame_strength, course.steps)
        known: Known | None = None
        if task.reconstruction_weight is not None:
            conditions, known = untold(conditions, steps)
        dtype = next(self.preset.unet.parameters()).dtype
        negative = self.preset.text([segment.negative_prompt])
        told = tell(conditions, negative, steps, dtype)
        on_state, state = reports.run(course.stage)
        latents = denoise_clip(self.preset.unet, told, course, on_state, known, state)
        return _kept(latents, given.context, segment.backwards)

    def _course(self, task: Task, segment: Segment) -> Course:
        references = used_references(task, segment)
        images = reference_scale(task, references) if references else task.context_guidance
        return Course(
            sampler=task.sampler,
            steps=task.num_inference_steps,
            seed=segment.seed,
            text_scale=task.guidance_scale,
            image_scale=images,
            schedule=task.guidance_schedule,
            rescale=task.guidance_rescale,
            reconstruction=task.reconstruction_weight or 0.0,
        )

    def _given(
        self,
        task: Task,
        segment: Segment,
        beside: Tensor | None,
        source: Frames,
        course: Course,
        reports: Reports,
    ) -> Given:
        if task.task_type == "edit":
            first, last = end_frames(self.preset, task, source, course, reports)
            return Given(first=first, last=last)
        return Given(
            context=context_of(segment, beside),
            first=encode_picture(self.preset, segment.first_frame, task),
            last=encode_picture(self.preset, segment.last_frame, task),
        )

    def encoded(self, frames: Frames) -> Tensor:
        """Latents (1, c, t, h, w) of frames of the film's size."""
        return encode_pixels(self.preset, read_clip(frames, frames.shape[2], frames.shape[1]))

    def _decoded(self, latents: Tensor, reports: Reports) -> Iterator[Frames]:
        """Latents (1, c, t, h, w) to frames (T, H, W, 3) uint8, some frames at a time."""
        chunks = latents.split(DECODE_CHUNK, dim=2)
        reports.decoded(0, len(chunks))
        for index, chunk in enumerate(chunks, start=1):
            yield write_frames(decode_latents(self.preset, chunk))
            reports.decoded(index, len(chunks))


def load_videoldm(folder: Path, device: str, dtype: torch.dtype) -> VideoLDM:
    """Load the preset in a folder with its card.

    raises WeightsError if a file is missing, damaged or misfitting; ValueError for a bad card
    """
    card = read_card(folder / "card.json")
    return VideoLDM(card, load_preset(folder, device, dtype), device)


def _kept(latents: Tensor, context: Tensor | None, backwards: bool) -> Tensor:
    """The clip with its context as it was given. A first frame is not put back, for the network
    has drawn the next one to fit its own."""
    if context is None:
        return latents
    drawn = latents[:, :, : -context.shape[2]] if backwards else latents[:, :, context.shape[2] :]
    return torch.cat([drawn, context] if backwards else [context, drawn], 2)
