"""Clips from strangers become even, upright frames of the wanted shape, counted as they come."""

from pathlib import Path

import av
import numpy as np
import pytest

from service.clips import ClipLimits, develop, inspect, pick_frame
from service.pictures import Unusable
from tests.service.media import film

LIMITS = ClipLimits(seconds=60, pixels=8_900_000, frames=7200)


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(("fps", "count", "step"), [(8, 16, 8), (4, 8, 16), (16, 32, 4)])
def test_frames_are_shown_when_they_are_due(tmp_path, fps, count, step):
    source = film(tmp_path / "a.mp4", frames=16, fps=8)
    made = develop(source, LIMITS, (64, 64), fps, 1000, tmp_path / "b.mp4")
    shown = frames(tmp_path / "b.mp4")
    assert made == len(shown) == count
    greys = [frame.mean() for frame in shown]
    wanted = [8 * (index * 8 // fps) for index in range(count)]
    assert np.allclose(greys, wanted, atol=3), "frame i is the one that shows at i / fps"


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mov", "libx264"), (".webm", "libvpx-vp9")]
)
def test_containers_and_sizes(tmp_path, suffix, codec):
    source = film(tmp_path / f"a{suffix}", frames=4, size=(96, 64), codec=codec)
    facts = inspect(source, LIMITS)
    assert (facts.width, facts.height, round(facts.fps)) == (96, 64, 8)
    develop(source, LIMITS, (32, 32), 8, 100, tmp_path / "b.mp4")
    assert frames(tmp_path / "b.mp4")[0].shape == (32, 32, 3)


def test_a_prepared_clip_is_lossless(tmp_path):
    source = film(tmp_path / "a.mp4", frames=3)
    develop(source, LIMITS, (64, 64), 8, 10, tmp_path / "b.mp4")
    decoded = frames(source)
    assert all((a == b).all() for a, b in zip(decoded, frames(tmp_path / "b.mp4"), strict=True))


def test_a_turned_clip_is_upright(tmp_path):
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:, :32] = 255  # bright on the left
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(source.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus = (65536).to_bytes(4, "big"), (-65536).to_bytes(4, "big", signed=True)
    # As a phone held upright writes it: show it turned by 90 degrees, clockwise.
    data[matrix : matrix + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
    source.write_bytes(data)
    facts = inspect(source, LIMITS)
    assert (facts.width, facts.height) == (32, 64)
    upright = np.asarray(pick_frame(source, LIMITS, last=False))
    assert upright[:24].mean() > 200 > 50 > upright[40:].mean(), "the left side is now on top"


def test_first_and_last_frame_can_be_picked(tmp_path):
    source = film(tmp_path / "a.mp4", frames=16)
    first, last = (np.asarray(pick_frame(source, LIMITS, last)).mean() for last in (False, True))
    assert first < 4
    assert last > 110


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ClipLimits(1.0, 8_900_000, 7200), "1 s"),
        (ClipLimits(60, 4095, 7200), "4095"),
        (ClipLimits(60, 8_900_000, 15), "15 frames"),
    ],
)
def test_clips_over_a_limit_are_refused(tmp_path, limits, said):
    source = film(tmp_path / "a.mp4", frames=16)
    with pytest.raises(Unusable, match=said):
        look_and_develop(source, limits, tmp_path / "b.mp4")


def look_and_develop(source: Path, limits: ClipLimits, target: Path) -> None:
    inspect(source, limits)
    develop(source, limits, (64, 64), 8, 1000, target)


def test_a_length_that_is_not_claimed_is_counted(tmp_path):
    source = film(tmp_path / "a.mp4", frames=16)
    data = source.read_bytes()
    for box in (b"mvhd", b"mdhd", b"tkhd"):
        at = data.index(box)
        place = at + (24 if box == b"tkhd" else 20)
        data = data[:place] + (1).to_bytes(4, "big") + data[place + 4 :]
    source.write_bytes(data)
    limits = ClipLimits(1.0, 8_900_000, 7200)
    inspect(source, limits)  # it claims to be short
    with pytest.raises(Unusable, match="longer than 1 s"):
        develop(source, limits, (64, 64), 8, 1000, tmp_path / "b.mp4")


def test_output_is_bounded(tmp_path):
    source = film(tmp_path / "a.mp4", frames=16)
    with pytest.raises(Unusable, match="more than 10 frames"):
        develop(source, LIMITS, (64, 64), 8, 10, tmp_path / "b.mp4")
