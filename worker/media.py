"""Frames to files: MP4, thumbnail, contact sheet. Nothing here knows jobs or queues.

Every file is written beside its final name and renamed, so a reader never sees half of one.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from models.protocol import Frames

# In order of preference, with the options that mean "visually clean" to each.
ENCODERS: Mapping[str, dict[str, str]] = {
    "h264_nvenc": {"preset": "p5", "rc": "vbr", "cq": "19"},
    # Not a faster preset: in `veryfast`, half the time, two of 3,631 encodings of one small film
    # came out otherwise on a busy machine; of 1,682 in `medium`, none.
    "libx264": {"preset": "medium", "crf": "17"},
}
SOFTWARE_ENCODER = "libx264"

OnFrame = Callable[[int], None]  # index of the frame about to be encoded; may raise to stop


class EncoderUnavailable(Exception):
    """The encoder asked for is not in this build, or does not open on this machine."""


@dataclass(frozen=True)
class Encoding:
    """What `write_mp4` did."""

    encoder: str
    num_frames: int
    fps: int


def ignore(index: int) -> None:
    """The callback of a caller who never stops."""


def write_mp4(
    film: Frames | Iterable[Frames],
    path: Path,
    fps: int,
    provenance: Mapping[str, Any],
    encoder: str = "auto",
    on_frame: OnFrame = ignore,
) -> Encoding:
    """Write H.264 in yuv420p (BT.709, limited range) with the index before the data.

    film        (T, H, W, 3) uint8 sRGB, or pieces of it in order, taken one by one;
                H and W even, as 4:2:0 halves both
    fps         frames per second; frame i is shown at exactly i / fps
    provenance  goes as JSON into the container's `comment`
    encoder     "auto" tries NVENC and falls back to x264; a name insists
    raises      ValueError on frames of another shape, EncoderUnavailable, OSError as from a file
    """
    pieces = iter([film] if isinstance(film, np.ndarray) else film)
    first = next(pieces, None)
    if first is None:
        raise ValueError("a film without frames, not uint8 (T, H, W, 3)")
    check_frames(first)
    name = opening_encoder(first, fps) if encoder == "auto" else encoder
    sample = first[:1]
    pieces = chain([first], pieces)
    del first  # else it would be held to the end
    try:
        count = _encode(pieces, sample, path, fps, provenance, name, on_frame)
    except EncoderUnavailable:  # raised before any piece was taken
        if encoder != "auto" or name == SOFTWARE_ENCODER:
            raise
        # A GPU has few encoder sessions: the trial may open and the next one not.
        name = SOFTWARE_ENCODER
        count = _encode(pieces, sample, path, fps, provenance, name, on_frame)
    return Encoding(name, count, fps)


def check_frames(frames: Frames) -> None:
    """Raise ValueError unless the frames can be H.264 in 4:2:0."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, not uint8 (T, H, W, 3)")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width}x{height}: H.264 in 4:2:0 needs even width and height")


def opening_encoder(frames: Frames, fps: int) -> str:
    """The first encoder that opens for this size: without a GPU, NVENC fails only there."""
    for name in ENCODERS:
        try:
            try_encoder(name, frames, fps)
        except EncoderUnavailable:
            continue
        return name
    raise EncoderUnavailable("no H.264 encoder opens on this machine")


def try_encoder(name: str, frames: Frames, fps: int) -> None:
    """Open an encoder for frames of this size and let it go; raises EncoderUnavailable."""
    try:
        context = CodecContext.create(name, "w")
        assert isinstance(context, VideoCodecContext)
        _configure(context, frames, fps, name)
        context.open()
    except (av.FFmpegError, ValueError) as error:
        raise EncoderUnavailable(f"the encoder {name!r} does not open: {error}") from error


def write_thumbnail(frames: Frames, path: Path, longest: int = 512) -> None:
    """Write the middle frame as WebP, its longer side at most `longest` pixels."""
    image = Image.fromarray(frames[len(frames) // 2])
    image.thumbnail((longest, longest))
    with beside(path) as part:
        image.save(part, format="WEBP", quality=85)


def write_last_frame(frames: Frames, path: Path) -> None:
    """Write the last frame as PNG, exactly as the model made it."""
    with beside(path) as part:
        Image.fromarray(frames[-1]).save(part, format="PNG")


def spread(count: int, tiles: int) -> tuple[int, ...]:
    """Places of up to `tiles` frames, evenly spaced from the first of `count` to the last."""
    places = np.unique(np.linspace(0, count - 1, tiles).round().astype(int))
    return tuple(int(place) for place in places)


def write_spritesheet(frames: Frames, path: Path, tiles: int = 16, longest: int = 320) -> None:
    """Write stills, evenly spaced from the first frame to the last, as one JPEG: a square grid in
    reading order, without gaps.

    tiles    the most stills; a film with fewer frames shows each once
    longest  pixels of a still's longer side, at most
    """
    stills = [Image.fromarray(frames[index]) for index in spread(len(frames), tiles)]
    for still in stills:
        still.thumbnail((longest, longest))
    columns = ceil(len(stills) ** 0.5)
    width, height = stills[0].size
    sheet = Image.new("RGB", (columns * width, ceil(len(stills) / columns) * height))
    for index, still in enumerate(stills):
        row, column = divmod(index, columns)
        sheet.paste(still, (column * width, row * height))
    with beside(path) as part:
        sheet.save(part, format="JPEG", quality=85)


def write_contact_sheet(
    frames: Frames, path: Path, columns: int = 8, gap: int = 2, scale: int = 1
) -> None:
    """Write all frames as one PNG, left to right and top to bottom.

    scale  whole-number enlargement without smoothing, for frames too small to look at
    """
    count, height, width, _ = frames.shape
    columns = min(columns, count)
    rows = ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 24, np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = frame
    with beside(path) as part:
        Image.fromarray(np.kron(sheet, np.ones((scale, scale, 1), np.uint8))).save(part, "PNG")


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write readable JSON."""
    with beside(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder: renamed to `path` on success, removed on failure."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _configure(context: VideoCodecContext, frames: Frames, fps: int, name: str) -> None:
    _, height, width, _ = frames.shape
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(fps)
    context.time_base = Fraction(1, fps)
    context.options = dict(ENCODERS.get(name, {}))
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709


def _encode(
    pieces: Iterable[Frames],
    sample: Frames,
    path: Path,
    fps: int,
    provenance: Mapping[str, Any],
    name: str,
    on_frame: OnFrame,
) -> int:
    """Write the film; `sample` is a frame of it. returns how many frames there were"""
    # A movie clock in whole frames: by default it counts milliseconds and rounds the length.
    options = {"movflags": "+faststart", "movie_timescale": str(1000 * fps)}
    with (
        beside(path) as part,
        av.open(str(part), "w", format="mp4", options=options) as container,
    ):
        container.metadata["comment"] = json.dumps(provenance, ensure_ascii=False)
        stream = _open_stream(container, sample, fps, name)
        count = 0
        for frame in _frames(pieces, sample):
            on_frame(count)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = count, Fraction(1, fps)
            container.mux(stream.encode(picture))
            count += 1
        container.mux(stream.encode(None))
    return count


def _frames(pieces: Iterable[Frames], sample: Frames) -> Iterator[NDArray[np.uint8]]:
    """The frames of all pieces; raises ValueError for one of another size than the first."""
    for piece in pieces:
        check_frames(piece)
        if piece.shape[1:] != sample.shape[1:]:
            raise ValueError(f"a film of {sample.shape[1:]} goes on with {piece.shape[1:]}")
        yield from piece


def _open_stream(
    container: av.container.OutputContainer, frames: Frames, fps: int, name: str
) -> VideoStream:
    try:
        stream = container.add_stream(name, rate=fps)
        assert isinstance(stream, VideoStream)
        _configure(stream.codec_context, frames, fps, name)
        stream.time_base = Fraction(1, fps)
        stream.codec_context.open()
    except (av.FFmpegError, ValueError) as error:
        raise EncoderUnavailable(f"the encoder {name!r} does not open: {error}") from error
    return stream
