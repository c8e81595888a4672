"""One job from end to end: real processes, the real model, a film, a clean end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import av
from PIL import Image

from service.client import Client, Video, completed
from service.trial import READY_LINE

ROOT = Path(__file__).parents[1]


class Service:
    """A running `praxino up`."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def descendants(self) -> set[int]:
        """Ids of all processes below it."""
        found: set[int] = set()
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            for task in Path(f"/proc/{pid}/task").iterdir():
                below = {int(child) for child in (task / "children").read_text().split()}
                waiting += below - found
                found |= below
        return found

    def queue_socket(self) -> Path:
        """Where its embedded queue server listens."""
        for pid in self.descendants():
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(b"PRAXINO_REDIS_URL=unix://"):
                    return Path(os.fsdecode(entry.partition(b"unix://")[2]))
        raise AssertionError("no process was told of an embedded queue server")


def plain_environment() -> dict[str, str]:
    """Ours without any setting; one torch thread, since threads that wait for each other on busy
    processors take minutes for what one does in seconds."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PRAXINO_")}
    return kept | {"OMP_NUM_THREADS": "1"}


@contextmanager
def up(data_dir: Path, workers: int) -> Iterator[Service]:
    options = ("--port", "0", "--data-dir", str(data_dir), "--workers", str(workers))
    with (data_dir.parent / "log").open("a+b") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "service.cli", "up", *options),
            cwd=ROOT,
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            try:
                line = process.stdout.readline()
                match = READY_LINE.match(line.strip())
                log.seek(0)
                assert match is not None, log.read().decode(errors="replace")[-4000:]
                yield Service(process, match[1])
            finally:
                process.kill()
                process.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((str(parts.hostname), int(parts.port or 0))) == 0


def check_film(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 24)
    assert len(frames) == 48
    assert {frame.shape for frame in frames} == {(256, 256, 3)}
    assert frames[0].std() > 5, "an empty picture"
    assert abs(frames[0].astype(int) - frames[-1]).mean() > 0.5, "nothing moves"


def test_prompt_becomes_a_film_and_the_service_ends_without_a_trace(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with up(data, workers=1) as service:
        with Client(service.url) as client:
            seen: list[Video] = []
            prompt = "a unicorn moving left over a sunset"
            video = client.create(prompt, seed=1, num_inference_steps=8)
            done = completed(client.follow(video, seen.append, 0.02))
            client.download(done["id"], tmp_path / "film.mp4")
        check_film(tmp_path / "film.mp4")
        progress = [now["progress"] for now in seen]
        assert progress == sorted(progress)
        assert len(set(progress)) > 3
        assert {"denoising", "done"} <= {now["stage"] for now in seen}

        processes, queue = service.descendants(), service.queue_socket()
        assert len(processes) == 6  # queue server, API, janitor, webhooks, worker and its child
        assert queue.exists()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(40) == 0
        assert not [pid for pid in processes if alive(pid)]
        assert not listening(service.url)
        assert not queue.parent.exists()

    with up(data, workers=0) as service, Client(service.url) as client:
        assert client.retrieve(done["id"])["status"] == "completed"
        client.download(done["id"], tmp_path / "again.mp4")
        assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "film.mp4").read_bytes()


def test_missing_weights_are_named_and_end_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    answer = subprocess.run(
        (sys.executable, "-m", "service.cli", "up", "--port", "0", "--data-dir", tmp_path / "data"),
        cwd=ROOT,
        env=plain_environment() | {"PRAXINO_WEIGHTS_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    assert str(folder) in answer.stderr
    assert "Error: worker-0 ended" in answer.stderr


def test_dead_processes_are_replaced_and_die_with_the_service(tmp_path: Path) -> None:
    with up(tmp_path / "data", workers=1) as service, Client(service.url) as client:
        before = {module_of(pid): pid for pid in service.descendants()}
        for module in ("service.cli", "worker"):
            os.kill(before[module], signal.SIGKILL)
        video = client.create("a fox moving right", size="64x64", fps=8, num_inference_steps=2)
        completed(client.follow(video, lambda _: None))
        after = {module_of(pid): pid for pid in service.descendants()}
        assert after.keys() == before.keys()
        replaced = {module for module in after if after[module] != before[module]}
        assert replaced == {"service.cli", "worker", "worker.child"}

        service.process.kill()
        service.process.wait()
        deadline = time.monotonic() + 10
        while left := [pid for pid in after.values() if alive(pid)]:
            assert time.monotonic() < deadline, f"still alive: {left}"
            time.sleep(0.05)


def module_of(pid: int) -> str:
    """What `python -m` runs in a process."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[words.index("-m") + 1] if "-m" in words else ""


def test_the_demonstration_leaves_a_film_and_its_frames_and_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    shown = subprocess.run(
        (sys.executable, "-m", "service.cli", "demo", "--out", tmp_path / "out"),
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout
    check_film(tmp_path / "out" / "demo.mp4")
    with Image.open(tmp_path / "out" / "demo.png") as sheet:
        assert min(sheet.size) > 6 * 64  # pixels: 48 frames in rows of seven
    assert "completed" in shown
    assert "100 %" in shown
    for told in ("demo.mp4", "demo.png", "make up", "praxino generate"):
        assert told in shown
