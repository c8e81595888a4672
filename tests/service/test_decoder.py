"""A hostile file ends its own process and nothing else, within bounds that are kept."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.decoder import Busy, DecodeLimits, Decoder, Decoders
from service.errors import InvalidInputMedia
from service.settings import ServiceSettings
from tests.service.media import bomb, film, picture

LIMITS = DecodeLimits(
    image_pixels=40_000_000,
    clip_pixels=8_900_000,
    clip_seconds=60,
    clip_frames=7200,
    memory_bytes=2 << 30,
    seconds=60,
)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def make_frame(decoder: Decoder, source: Path, **order) -> dict:
    target = source.with_name("made.png")
    order = {"max_pixels": 1 << 40} | order
    return decoder.ask(
        "first_frame", "make_frame", source=source, target=target, size=(64, 64), **order
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_process_serves_a_whole_request_and_is_gone_after_it(tmp_path):
    source = written(tmp_path / "a.png", picture())
    with Decoder(LIMITS) as decoder:
        make_frame(decoder, source)
        pid = decoder.pid
        facts = decoder.ask(
            "video", "measure_clip", source=film(tmp_path / "a.mp4"), limits=LIMITS.clip
        )
        assert (facts["width"], decoder.pid) == (64, pid)
        assert is_running(pid)
    assert not is_running(pid)


def test_a_damaged_file_is_named_and_the_next_one_is_still_read(tmp_path):
    good = written(tmp_path / "good.png", picture())
    damaged = written(tmp_path / "bad.png", picture((500, 500))[:200])
    clip = written(tmp_path / "bad.mp4", film(tmp_path / "a.mp4").read_bytes()[:600])
    with Decoder(LIMITS) as decoder:
        with pytest.raises(InvalidInputMedia, match="first_frame: the file cannot be decoded"):
            make_frame(decoder, damaged)
        with pytest.raises(InvalidInputMedia, match="video: the file"):
            decoder.ask("video", "measure_clip", source=clip, limits=LIMITS.clip)
        assert make_frame(decoder, good) == {"width": 64, "height": 64}


def test_refusals_never_quote_the_server(tmp_path):
    with Decoder(LIMITS) as decoder, pytest.raises(InvalidInputMedia) as caught:
        make_frame(decoder, tmp_path / "absent.png")
    assert str(tmp_path) not in caught.value.message


def test_memory_is_bounded(tmp_path):
    """Told to allow any number of pixels, the process still cannot have the memory for them."""
    source = written(tmp_path / "bomb.png", bomb(30_000, 30_000))
    bounds = DecodeLimits(**{**vars(LIMITS), "memory_bytes": 600 << 20})
    with Decoder(bounds) as decoder, pytest.raises(InvalidInputMedia, match="more memory"):
        make_frame(decoder, source)


def test_pixels_are_refused_before_they_are_decoded(tmp_path):
    source = written(tmp_path / "bomb.png", bomb(30_000, 30_000))
    with Decoder(LIMITS) as decoder, pytest.raises(InvalidInputMedia, match="30000x30000"):
        make_frame(decoder, source, max_pixels=LIMITS.image_pixels)


def test_time_is_bounded(tmp_path):
    source = film(tmp_path / "long.mp4", frames=60)
    bounds = DecodeLimits(**{**vars(LIMITS), "seconds": 0.3})
    began = time.monotonic()
    with Decoder(bounds) as decoder, pytest.raises(InvalidInputMedia, match=r"longer than 0\.3 s"):
        decoder.ask(
            "video",
            "make_clip",
            source=source,
            target=tmp_path / "made.mp4",
            size=(640, 360),
            fps=120,
            max_frames=10_000,
            limits=LIMITS.clip,
        )
    assert time.monotonic() - began < 10


def test_a_killed_process_is_a_refusal(tmp_path):
    source = written(tmp_path / "a.png", picture())
    with Decoder(LIMITS) as decoder:
        make_frame(decoder, source)
        os.kill(decoder.pid, 9)
        with pytest.raises(InvalidInputMedia, match="within the limits"):
            make_frame(decoder, source)


def test_secrets_stay_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAXINO_REDIS_URL", "redis://:secret@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Decoder(LIMITS) as decoder:
        make_frame(decoder, written(tmp_path / "a.png", picture()))
        assert b"secret" not in Path(f"/proc/{decoder.pid}/environ").read_bytes()
        limits = Path(f"/proc/{decoder.pid}/limits").read_text()
    assert "Max address space         2147483648" in limits
    assert "Max core file size        0" in limits


@pytest.fixture
def decoders():
    return Decoders(ServiceSettings(redis_url=SecretStr("unix:///none"), max_decoders=2))


def test_only_so_many_requests_wait_and_no_tenant_takes_all_places(decoders):
    held = [decoders.place("one") for _ in range(5)]
    for place in held:
        place.__enter__()
    with pytest.raises(Busy), decoders.place("one"):
        pass
    with decoders.place("two"):  # somebody else still gets in
        pass
    held.pop().__exit__(None, None, None)
    with decoders.place("one"):
        pass


def test_only_so_many_decoders_run(decoders):
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with decoders.decoder():
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert most == 2
