"""Clips from strangers to plain frames: upright, evenly spaced, cropped, without sound.

Runs in the decoding process only. What a container claims about itself is checked first and
counted again while decoding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from PIL import Image

from service.pictures import Unusable, as_frame, fit

DEMUXERS = {".mp4": "mp4", ".mov": "mov", ".webm": "webm"}
MAX_SIDE = 8192


@dataclass(frozen=True)
class ClipLimits:
    """How much of a clip is decoded before it is refused."""

    seconds: float
    pixels: int  # of one frame
    frames: int  # decoded, not kept


@dataclass(frozen=True)
class ClipFacts:
    """What a clip says of itself, and how it is meant to be seen."""

    width: int
    height: int
    fps: float
    seconds: float | None  # as claimed


def inspect(path: Path, limits: ClipLimits) -> ClipFacts:
    """Size, rate and claimed length, with one frame decoded. raises Unusable"""
    with open_clip(path) as container:
        stream = container.streams.video[0]
        check_size(stream.codec_context.width, stream.codec_context.height, limits)
        seconds = claimed_seconds(container, stream)
        if seconds is not None and seconds > limits.seconds:
            raise Unusable(f"is {seconds:.1f} s long; the limit is {limits.seconds:g} s")
        first = next(upright(container, stream, limits), None)
        if first is None:
            raise Unusable("has no frame that can be decoded")
        width, height = first[1].size
        return ClipFacts(width, height, frame_rate(stream), seconds)


def develop(
    path: Path, limits: ClipLimits, size: tuple[int, int], fps: int, max_frames: int, target: Path
) -> int:
    """Write a clip again as `fps` even frames a second of exactly `size` pixels, lossless.

    Output frame i is the last one shown by i / fps. returns the number of frames; raises
    Unusable past a limit, `max_frames` of output included
    """
    count = 0
    with open_clip(path) as container, open_target(target, size, fps) as (sink, out):
        stream = container.streams.video[0]
        for image, repeats in resampled(upright(container, stream, limits), fps, stream):
            frame = av.VideoFrame.from_image(fit(image, size))  # type: ignore[no-untyped-call]
            for _ in range(repeats):
                if count >= max_frames:
                    raise Unusable(f"has more than {max_frames} frames at {fps} fps, the limit")
                frame.pts, frame.time_base = count, Fraction(1, fps)
                sink.mux(out.encode(frame))
                count += 1
        sink.mux(out.encode())
    if not count:
        raise Unusable("has no frame that can be decoded")
    return count


def pick_frame(path: Path, limits: ClipLimits, last: bool) -> Image.Image:
    """The first or the last frame of a clip. raises Unusable"""
    found: Image.Image | None = None
    with open_clip(path) as container:
        for _, image in upright(container, container.streams.video[0], limits):
            found = image
            if not last:
                break
    if found is None:
        raise Unusable("has no frame that can be decoded")
    return as_frame(found, found.size)


def pick_frames(path: Path, limits: ClipLimits, count: int) -> Iterator[Image.Image]:
    """Up to so many frames from all over a clip, the first one first. raises Unusable

    Decodes the clip twice, so that only one frame is in memory at a time.
    """
    with open_clip(path) as container:
        total = sum(1 for _ in upright(container, container.streams.video[0], limits))
    if total == 0:
        raise Unusable("has no frame that can be decoded")
    wanted = {round(i * (total - 1) / max(1, count - 1)) for i in range(count)}
    with open_clip(path) as container:
        frames = enumerate(upright(container, container.streams.video[0], limits))
        yield from (as_frame(image, image.size) for i, (_, image) in frames if i in wanted)


def open_clip(path: Path) -> InputContainer:
    # The demuxer is named: formats that refer to other files or hosts are never tried.
    container = av.open(str(path), "r", format=DEMUXERS[path.suffix])
    if not container.streams.video:
        container.close()
        raise Unusable("has no video stream")
    container.streams.video[0].thread_count = 1  # each thread would hold frames of its own
    return container


def check_size(width: int, height: int, limits: ClipLimits) -> None:
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE or width * height > limits.pixels:
        raise Unusable(
            f"has {width}x{height} pixels a frame; the limit is {limits.pixels} "
            f"and {MAX_SIDE} a side"
        )


def claimed_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def frame_rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return min(max(float(rate), 1.0), 240.0)


def upright(
    container: InputContainer, stream: VideoStream, limits: ClipLimits
) -> Iterator[tuple[float, Image.Image]]:
    """Decoded frames with their times from zero, turned as the container says."""
    begin: float | None = None
    for index, frame in enumerate(container.decode(stream)):
        if index >= limits.frames:
            raise Unusable(f"has more than {limits.frames} frames; the limit")
        check_size(frame.width, frame.height, limits)  # a stream may change its mind
        at = index / frame_rate(stream) if frame.pts is None else frame.time
        begin = at if begin is None else begin
        if at - begin > limits.seconds:
            raise Unusable(f"is longer than {limits.seconds:g} s, the limit")
        image = frame.to_image()  # type: ignore[no-untyped-call]
        turn = round(frame.rotation) % 360
        yield at - begin, image.rotate(turn, expand=True) if turn else image


def resampled(
    frames: Iterator[tuple[float, Image.Image]], fps: int, stream: VideoStream
) -> Iterator[tuple[Image.Image, int]]:
    """Frames with how often each is shown at an even rate; those never shown are left out."""
    shown = 0
    held: Image.Image | None = None
    at = 0.0
    for at, image in frames:
        # The first output frame at which this one is due; containers round their times.
        until = max(shown, ceil(at * fps - 0.001))
        if held is not None and until > shown:
            yield held, until - shown
            shown = until
        held = image
    if held is not None:
        end = round((at + 1 / frame_rate(stream)) * fps)
        yield held, max(end - shown, 0 if shown else 1)


class open_target:  # noqa: N801 - reads as a function
    """An MP4 of lossless RGB frames; closed, it is whole."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        self._sink: OutputContainer = av.open(str(path), "w", format="mp4")
        self._stream = self._sink.add_stream(
            "libx264rgb", rate=fps, options={"qp": "0", "preset": "ultrafast"}
        )
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "rgb24"

    def __enter__(self) -> tuple[OutputContainer, VideoStream]:
        return self._sink, self._stream

    def __exit__(self, *_: object) -> None:
        self._sink.close()
