"""The laws of the files a job leaves behind."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from models.protocol import Frames
from tests.worker.conftest import ROOT
from worker import media


def draw(count: int, height: int = 64, width: int = 96) -> Frames:
    """A white square moving over a red ground, one place a frame."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (200, 30, 60)
    for index, frame in enumerate(frames):
        left = index * (width - 16) // max(1, count - 1)
        frame[16:32, left : left + 16] = 255
    return frames


@contextmanager
def film(path: Path) -> Iterator[av.container.InputContainer]:
    with av.open(str(path)) as container:
        yield container


def boxes(data: bytes) -> list[str]:
    """The names of an MP4's outermost boxes, in order."""
    names, place = [], 0
    while place < len(data):
        size, name = struct.unpack(">I4s", data[place : place + 8])
        names.append(name.decode())
        place += size
    return names


@pytest.mark.parametrize("count", [1, 2, 15, 16, 61])
@pytest.mark.parametrize("fps", [8, 24, 30])
def test_frames_and_rate_are_exact(tmp_path: Path, count: int, fps: int) -> None:
    path = tmp_path / "film.mp4"
    encoding = media.write_mp4(draw(count), path, fps, {})
    assert (encoding.num_frames, encoding.fps) == (count, fps)
    with film(path) as container:
        stream = container.streams.video[0]
        assert stream.frames == count
        assert stream.average_rate == fps
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(count, fps)
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
    assert times == [Fraction(index, fps) for index in range(count)]


def test_pictures_and_colours_survive(tmp_path: Path) -> None:
    frames = draw(9)
    media.write_mp4(frames, tmp_path / "film.mp4", 8, {})
    with film(tmp_path / "film.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        seen = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    error = np.abs(seen.astype(int) - frames)
    assert error.mean() < 3
    # Away from edges, where halved chroma bleeds, the ground keeps its colour: right matrix.
    assert error[:, 48:].max() <= 4


def test_index_stands_before_data(tmp_path: Path) -> None:
    media.write_mp4(draw(16), tmp_path / "film.mp4", 8, {})
    names = boxes((tmp_path / "film.mp4").read_bytes())
    assert names.index("moov") < names.index("mdat")


def test_provenance_is_in_the_comment(tmp_path: Path) -> None:
    provenance = {"prompt": 'ein Füchslein 狐 "quoted"\n', "seed": 2**63 - 1, "long": "x" * 8000}
    media.write_mp4(draw(2), tmp_path / "film.mp4", 8, provenance)
    with film(tmp_path / "film.mp4") as container:
        assert json.loads(container.metadata["comment"]) == provenance


@pytest.mark.parametrize(("height", "width"), [(63, 64), (64, 63)])
def test_odd_sizes_are_refused(tmp_path: Path, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{width}x{height}"):
        media.write_mp4(draw(2, height, width), tmp_path / "film.mp4", 8, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((2, 64, 64, 4), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, frames: Frames) -> None:
    with pytest.raises(ValueError, match="uint8"):
        media.write_mp4(frames, tmp_path / "film.mp4", 8, {})


def test_the_last_frame_is_kept_exactly(tmp_path: Path) -> None:
    frames = draw(9)
    frames[-1] = np.random.default_rng(1).integers(0, 256, frames[-1].shape, np.uint8)
    media.write_last_frame(frames, tmp_path / "last_frame.png")
    with Image.open(tmp_path / "last_frame.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), frames[-1])


@pytest.mark.parametrize(
    ("count", "tiles", "columns", "rows"),
    [(1, 1, 1, 1), (2, 2, 2, 1), (5, 5, 3, 2), (16, 16, 4, 4), (61, 16, 4, 4)],
)
def test_the_spritesheet_shows_the_film_from_first_to_last(
    tmp_path: Path, count: int, tiles: int, columns: int, rows: int
) -> None:
    frames = np.zeros((count, 32, 48, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = 255 * index // max(1, count - 1)  # brighter and brighter
    media.write_spritesheet(frames, tmp_path / "spritesheet.jpg")
    with Image.open(tmp_path / "spritesheet.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (48 * columns, 32 * rows))
        grid = np.asarray(image.convert("L")).reshape(rows, 32, columns, 48).mean((1, 3))
    seen = grid.ravel()[:tiles]
    even = np.linspace(0, 255, tiles) if tiles > 1 else np.zeros(1)
    assert np.abs(seen - even).max() <= 255 / max(1, count - 1) / 2 + 2
    assert (grid.ravel()[tiles:] == 0).all()


def test_stills_of_a_large_film_are_made_small(tmp_path: Path) -> None:
    media.write_spritesheet(np.zeros((4, 720, 1280, 3), np.uint8), tmp_path / "spritesheet.jpg")
    with Image.open(tmp_path / "spritesheet.jpg") as image:
        assert image.size == (640, 360)


def test_stopped_encoding_leaves_nothing(tmp_path: Path) -> None:
    def stop(index: int) -> None:
        if index == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        media.write_mp4(draw(9), tmp_path / "film.mp4", 8, {}, on_frame=stop)
    assert not list(tmp_path.iterdir())


def test_failed_rewrite_keeps_the_old_film(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    media.write_mp4(draw(3), path, 8, {})
    before = path.read_bytes()

    def stop(index: int) -> None:
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        media.write_mp4(draw(3), path, 8, {}, on_frame=stop)
    assert path.read_bytes() == before


def opens(name: str, frames: Frames) -> bool:
    try:
        media.try_encoder(name, frames, 8)
    except media.EncoderUnavailable:
        return False
    return True


def test_encoder_that_does_not_open_falls_back(tmp_path: Path) -> None:
    frames = draw(3)
    # NVENC also refuses frames this small where there is a GPU.
    assert not opens("h264_nvenc", frames[:, :16, :16])
    encoding = media.write_mp4(frames[:, :16, :16], tmp_path / "film.mp4", 8, {})
    assert encoding.encoder == "libx264"


def test_encoder_asked_for_by_name_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(media.EncoderUnavailable, match="h264_nvenc"):
        media.write_mp4(draw(3, 16, 16), tmp_path / "film.mp4", 8, {}, encoder="h264_nvenc")
    assert not list(tmp_path.iterdir())


def test_unknown_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(media.EncoderUnavailable, match="h264_dream"):
        media.write_mp4(draw(3), tmp_path / "film.mp4", 8, {}, encoder="h264_dream")


@pytest.mark.gpu
def test_nvenc_is_preferred_where_it_opens(tmp_path: Path) -> None:
    frames = draw(15, 256, 256)
    if not opens("h264_nvenc", frames):
        pytest.skip("no NVENC here")
    encoding = media.write_mp4(frames, tmp_path / "film.mp4", 8, {})
    assert encoding.encoder == "h264_nvenc"
    with film(tmp_path / "film.mp4") as container:
        seen = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert seen.shape == frames.shape
    assert np.abs(seen.astype(int) - frames).mean() < 3


def test_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own, which may write files of 20 kB."""
    code = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from worker import media; from worker.film import read_failure\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)\n"
        "try: media.write_mp4(noise, Path(sys.argv[1]), 8, {})\n"
        "except OSError as error: print(read_failure(error, None).message)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "film.mp4")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert not list(tmp_path.iterdir())


def test_thumbnail_is_small_webp(tmp_path: Path) -> None:
    media.write_thumbnail(draw(5, 128, 256), tmp_path / "thumbnail.webp", longest=64)
    with Image.open(tmp_path / "thumbnail.webp") as image:
        assert (image.format, image.size) == ("WEBP", (64, 32))


def test_contact_sheet_shows_every_frame_in_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 6, 3), 10 * index, np.uint8) for index in range(7)])
    media.write_contact_sheet(frames, tmp_path / "sheet.png", columns=3, gap=1, scale=2)
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * (3 * 5 + 1), 2 * (3 * 7 + 1), 3)
    for index in range(7):
        row, column = divmod(index, 3)
        assert sheet[2 * (row * 5 + 2), 2 * (column * 7 + 2), 0] == 10 * index
