"""From key latents to the film: interpolation in time, temporal decoding, upsampling in space.

Ho et al. 2022 (arXiv:2210.02303), section 2.2, and Blattmann et al. 2023 (arXiv:2304.08818),
section 3, in the order of the latter. The base makes key frames at one rate, whatever rate is asked
for, so films of one seed at 6, 12 and 24 frames a second have the same latents wherever they share
a time; only temporal decoder and upsampler see other neighbours there. Each stage also serves clips
that were uploaded. How key latents are made is not known here.

What pocket's 256x256 film of 2 s at 24 frames a second takes, in GFLOP (49 frames from 13 keys):

| quality  | base            | interpolation | decoder | upsampler | estimate, decoder | sum |
|----------|-----------------|---------------|---------|-----------|-------------------|-----|
| preview  | 4 distilled: 26 | 1 step: 14    | 17      | 1: 34     | 134               | 225 |
| draft    | 8 distilled: 53 | 1 step: 14    | 17      | 1: 34     | 134               | 252 |
| standard | 16 guided: 210  | 4 steps: 55   | 22      | 3: 102    | 134               | 523 |
| high     | 32 guided: 420  | 8 steps: 110  | 22      | 6: 204    | 134               | 890 |
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.catalog import CascadeRule, Quality
from models.protocol import Frames, GenerationStage, OnStep, Step, Task
from models.videoldm.anchoring import anchored
from models.videoldm.checkpoints import NO_MEMORY, FilmMemory
from models.videoldm.interpolation import (
    Report,
    ignore,
    interpolated,
    moment,
    network_calls,
    plan_passes,
)
from models.videoldm.pictures import read_clip, write_frames
from models.videoldm.upsampler import Upsampler, count_chunks
from models.videoldm.weights import Preset

DECODE_CHUNK = 8  # frames that the image decoder takes at once
ENCODE_CHUNK = 16
JUST_S = 1e-6  # times nearer to each other are one


@dataclass(frozen=True)
class Film:
    """What is to come out."""

    times: tuple[float, ...]  # seconds, rising
    fps: float
    width: int
    height: int
    seed: int
    quality: Quality


class Bar:
    """Counts the units of one stage."""

    def __init__(self, on_step: OnStep, stage: GenerationStage, total: int) -> None:
        self._on_step, self._stage, self._total = on_step, stage, total
        self._done = 0
        on_step(Step(stage, 0, total))

    def step(self, units: int = 1) -> None:
        """So many more are done."""
        self._done += units
        self._on_step(Step(self._stage, self._done, self._total))


def key_times(
    rule: CascadeRule, num_frames: int, fps: int, least: int = 2, ends: bool = False
) -> tuple[float, ...]:
    """Times of the base's key frames under a film, the last at or after the end of its time: so a
    film has the same keys at every rate.

    least  key frames at least; a film shorter than they are is cut from their beginning
    ends   the film is to end with its last key, or just before: with its last frame, then
    """
    last = -(-(num_frames - ends) * rule.key_fps // fps)
    return tuple(index / rule.key_fps for index in range(max(least, last + 1)))


def film_of(task: Task, rule: CascadeRule, name: str | None = None) -> Film:
    """What a task asks the stages for.

    raises ValueError for a quality the model does not have
    """
    times = tuple(index / task.fps for index in range(task.num_frames))
    size = (task.width, task.height)
    return Film(times, task.fps, *size, task.seed, rule.quality(name))


def size_of(name: str) -> tuple[int, int]:
    """Width and height of a size as cards name it."""
    width, height = name.split("x")
    return int(width), int(height)


@dataclass(frozen=True)
class Cascade:
    """The stages after the base of a loaded preset."""

    preset: Preset
    rule: CascadeRule

    def film(
        self,
        latents: Tensor,
        times: Sequence[float],
        film: Film,
        on_step: OnStep,
        memory: FilmMemory = NO_MEMORY,
    ) -> Iterator[Frames]:
        """The film of key latents, piece by piece.

        latents  (1, c, k, h, w) of the base, at `times`
        yields   (n, height, width, 3), in film order
        raises   ValueError for a size or times that the stages cannot make; what on_step raises
        """
        yield from map(write_frames, self._pixels(latents, times, film, on_step, memory))

    def flow(
        self,
        clips: Iterable[Tensor],
        film: Film,
        report: Report = ignore,
    ) -> Iterator[Tensor]:
        """A stretch of film as its key frames come: what is held does not grow with its length.

        Nothing is remembered of it: latents of the upsampler would be 4 MB for a second of film.

        clips   (1, c, k, h, w) key latents, one after the other at the rule's rate, or the film's
                where nothing is filled in
        report  called after every denoising step of a stage
        yields  (1, 3, n, height, width) in -1..1, in film order
        """
        frames = self._decoded(self._between(clips, film, report), film.quality)
        upsampler = self._upsampler(film, size_of(self.rule.base_size))
        if upsampler is None:
            yield from frames
            return
        steps = film.quality.upsampler_steps
        yield from upsampler.enlarge(frames, film.fps, steps, film.seed, report)

    def _between(self, clips: Iterable[Tensor], film: Film, report: Report) -> Iterator[Tensor]:
        """Latents at the film's times, as soon as the keys around them are there."""
        rate = self.rule.key_fps if film.fps in self.rule.fps else film.fps
        keys: Tensor | None = None
        first, done = 0, 0  # place of the first key that is held; times that are made
        for clip in clips:
            keys = clip if keys is None else torch.cat([keys, clip], 2)
            times = [moment((first + index) / rate) for index in range(keys.shape[2])]
            due = bisect_right(film.times, times[-1] + JUST_S)
            if due > done:
                yield self._at(keys, times, film.times[done:due], film, report)
            first, done, keys = first + keys.shape[2] - 1, due, keys[:, :, -1:]

    def _at(
        self,
        keys: Tensor,
        times: Sequence[float],
        due: Sequence[float],
        film: Film,
        report: Report,
        memory: FilmMemory = NO_MEMORY,
    ) -> Tensor:
        """Latents (1, c, t, h, w) at the times that are due, within those of the keys."""
        stage, steps = self.preset.stages.interpolator, film.quality.interpolation_steps
        places = {moment(time): index for index, time in enumerate(times)}
        wanted = [moment(time) for time in due]
        if set(wanted) <= set(places):
            return keys[:, :, [places[time] for time in wanted]]
        if stage is None:
            raise ValueError("a model without an interpolator makes no frames between its own")
        return interpolated(stage, keys, times, wanted, steps, film.seed, report, memory)

    def interpolate(
        self, task: Task, quality: Quality, on_step: OnStep, memory: FilmMemory = NO_MEMORY
    ) -> Iterator[Frames]:
        """A clip at another rate: its own frames where they fall due, made ones in between.

        What a made frame lacks of detail is carried over from its neighbours, so that frames do
        not sharpen and blur in turn. A clip's last frame stands until the clip's time is over.

        task  of kind "interpolate"; its size is the base's, or the upsampler's factor times that
        """
        source, rate = _given(task)
        on_step(Step("encoding", 0, 1))
        latents = self._encoded(source, task)
        own = [moment(index / rate) for index in range(len(source))]
        wanted = [min(moment(index / task.fps), own[-1]) for index in range(task.num_frames)]
        union = tuple(sorted({*own, *wanted}))
        film = Film(union, task.fps, task.width, task.height, task.seed, quality)
        pieces = self._pixels(latents, own, film, on_step, memory)
        frames = (frame for piece in pieces for frame in piece.split(1, 2))
        places = {time: index for index, time in enumerate(own)}

        def given(time: float) -> Tensor | None:
            if time not in places:
                return None
            index = places[time]
            clip = read_clip(source[index : index + 1], task.width, task.height)
            return clip.to(latents.device)

        for time, frame in anchored(zip(union, frames, strict=True), given):
            for _ in range(wanted.count(time)):
                yield write_frames(frame)

    def upscale(
        self, task: Task, quality: Quality, on_step: OnStep, memory: FilmMemory = NO_MEMORY
    ) -> Iterator[Frames]:
        """A clip made larger by the upsampler's factor, frame for frame.

        task  of kind "upscale"; its size is the result's
        """
        source, rate = _given(task)
        upsampler = self.preset.stages.upsampler
        if upsampler is None:
            raise ValueError("a model without an upsampler cannot upscale")
        factor, device = upsampler.config.factor, self._weight.device
        width, height = task.width // factor, task.height // factor
        film = Film((), rate, task.width, task.height, task.seed, quality)
        pieces = (
            read_clip(source[start : start + ENCODE_CHUNK], width, height).to(device)
            for start in range(0, len(source), ENCODE_CHUNK)
        )
        large = _enlarged(upsampler, pieces, len(source), film, on_step, memory)
        yield from map(write_frames, large)

    @property
    def _weight(self) -> Tensor:
        return next(self.preset.autoencoder.parameters())

    def _pixels(
        self,
        latents: Tensor,
        times: Sequence[float],
        film: Film,
        on_step: OnStep,
        memory: FilmMemory,
    ) -> Iterator[Tensor]:
        """The film's frames as (1, 3, n, height, width) in -1..1."""
        side = self.preset.config.autoencoder.factor
        upsampler = self._upsampler(film, (latents.shape[4] * side, latents.shape[3] * side))
        between = self._interpolated(latents, times, film, on_step, memory)
        count = between.shape[2]
        if upsampler is not None:
            pieces = self._decoded([between], film.quality)
            yield from _enlarged(upsampler, pieces, count, film, on_step, memory)
            return
        bar = Bar(on_step, "decoding", count)
        for piece in self._decoded([between], film.quality):
            yield piece
            bar.step(piece.shape[2])

    def _upsampler(self, film: Film, made: tuple[int, int]) -> Upsampler | None:
        """What brings decoded frames to the film's size; None if they have it.

        made  their width and height
        """
        upsampler = self.preset.stages.upsampler
        if made == (film.width, film.height):
            return None
        factor = upsampler.config.factor if upsampler else 1
        if (made[0] * factor, made[1] * factor) != (film.width, film.height):
            raise ValueError(
                f"frames of {made[0]}x{made[1]} cannot be made {film.width}x{film.height}: "
                f"the factor is {factor}"
            )
        return upsampler

    def _interpolated(
        self,
        latents: Tensor,
        times: Sequence[float],
        film: Film,
        on_step: OnStep,
        memory: FilmMemory,
    ) -> Tensor:
        """Latents at the film's times, (1, c, t, h, w)."""
        stage, report = self.preset.stages.interpolator, ignore
        if stage is not None and not {*map(moment, film.times)} <= {*map(moment, times)}:
            passes = plan_passes(times, [*map(moment, film.times)], stage.config.infill)
            total = network_calls(passes, film.quality.interpolation_steps)
            report = Bar(on_step, "interpolating", total).step
        return self._at(latents, times, film.times, film, report, memory)

    @torch.no_grad()
    def _decoded(self, latents: Iterable[Tensor], quality: Quality) -> Iterator[Tensor]:
        """Frames (1, 3, n, H, W) of the base's size, some at a time.

        latents  (1, c, t, h, w), piece by piece
        """
        autoencoder, decoder = self.preset.autoencoder, self.preset.stages.decoder
        pieces = (piece.to(self._weight) for piece in latents)
        if decoder is not None and quality.temporal_decoder:
            yield from (piece.float() for piece in decoder.flow(autoencoder, pieces))
            return
        for piece in pieces:
            for chunk in piece.split(DECODE_CHUNK, 2):
                yield autoencoder.decode(chunk).float()

    @torch.no_grad()
    def _encoded(self, source: Frames, task: Task) -> Tensor:
        """Latents (1, c, t, h, w) of a clip at the base's size."""
        upsampler = self.preset.stages.upsampler
        large = f"{task.width}x{task.height}" in self.rule.sizes
        factor = upsampler.config.factor if large and upsampler is not None else 1
        latents = []
        for start in range(0, len(source), ENCODE_CHUNK):
            piece = source[start : start + ENCODE_CHUNK]
            pixels = read_clip(piece, task.width // factor, task.height // factor)
            latents.append(self.preset.autoencoder.encode(pixels.to(self._weight)).float())
        return torch.cat(latents, 2)


def _enlarged(
    upsampler: Upsampler,
    pieces: Iterable[Tensor],
    count: int,
    film: Film,
    on_step: OnStep,
    memory: FilmMemory,
) -> Iterator[Tensor]:
    config, steps = upsampler.config, film.quality.upsampler_steps
    total = count_chunks(count, config.chunk, config.overlap) * steps
    bar = Bar(on_step, "upscaling", total)
    yield from upsampler.enlarge(pieces, film.fps, steps, film.seed, bar.step, memory)


def _given(task: Task) -> tuple[Frames, float]:
    """The task's clip and its frames a second."""
    if task.video is None or not len(task.video):
        raise ValueError(f"{task.task_type!r} needs a clip")
    return np.ascontiguousarray(task.video), float(task.video_fps or task.fps)
