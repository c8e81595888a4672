"""Decodes strangers' files in bounded processes, and few at a time.

A hostile file can end its own process and nothing else: not this one, and not its threads, of
which only so many ever wait for a decoder.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

import structlog

from service.errors import InvalidInputMedia, Unavailable
from service.settings import ServiceSettings

log = structlog.get_logger(__name__)

DARKROOM = "service.darkroom"
MAX_OUTPUT_BYTES = 2 << 30
READ_BYTES = 65536
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
WAITING_PER_SLOT = 4  # requests that may wait for each decoder that runs


class Busy(Unavailable):
    """Too many requests with files at once."""

    code = "decoders_busy"


@dataclass(frozen=True)
class DecodeLimits:
    """What a file may be, and what decoding it may take."""

    image_pixels: int
    clip_pixels: int
    clip_seconds: float
    clip_frames: int
    memory_bytes: int
    seconds: float  # for all files of a request together

    @property
    def clip(self) -> dict[str, float]:
        """The part that the clip decoder is told."""
        return {
            "seconds": self.clip_seconds,
            "pixels": self.clip_pixels,
            "frames": self.clip_frames,
        }


def read_limits(settings: ServiceSettings) -> DecodeLimits:
    """The limits that the settings name."""
    return DecodeLimits(
        image_pixels=settings.max_image_pixels,
        clip_pixels=settings.max_video_pixels,
        clip_seconds=settings.max_video_s,
        clip_frames=round(settings.max_video_s * 120),
        memory_bytes=settings.decode_memory_mb << 20,
        seconds=settings.decode_timeout_s,
    )


class Decoders:
    """Hands out decoding processes: a few run, a few more requests wait, the rest are refused."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.limits = read_limits(settings)
        self._slots = settings.max_decoders
        self._running = 0
        self._admitted: Counter[str] = Counter()
        self._changed = Condition()

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """A place among the requests with files. No tenant ever has more than half of them.

        raises Busy if there is none
        """
        places = self._slots * (1 + WAITING_PER_SLOT)
        with self._changed:
            if self._admitted.total() >= places or self._admitted[tenant] * 2 >= places:
                raise Busy("Too many files are being read at the moment; try again shortly")
            self._admitted[tenant] += 1
        try:
            yield
        finally:
            with self._changed:
                self._admitted[tenant] -= 1
                self._admitted += Counter()  # forgets whom it counts zero for

    @contextmanager
    def decoder(self) -> Iterator["Decoder"]:
        """A decoding process of one's own, once one is free. Hold a place first."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self._slots)
            self._running += 1
        try:
            with Decoder(self.limits) as found:
                yield found
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()


class Decoder:
    """One decoding process. It starts with the first order and serves one thread."""

    def __init__(self, limits: DecodeLimits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0

    @property
    def pid(self) -> int | None:
        """The process, once it has started."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # an order it never read is flushed again
                        pipe.close()

    def ask(self, param: str, do: str, **order: Any) -> dict[str, Any]:
        """Have one order carried out; its facts.

        param   the field that the file came in, for refusals
        raises  InvalidInputMedia if the file is unusable, or decoding it broke a bound
        """
        process = self._started()
        line = json.dumps({"do": do} | order, default=str).encode() + b"\n"
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = self._read_line(process)
        except (TimeoutError, EOFError, BrokenPipeError) as error:
            status = process.poll()
            log.warning("decoder.ended", order=do, status=status, fault=type(error).__name__)
            raise InvalidInputMedia(f"{param}: {self._sentence(error)}", param) from error
        answer: dict[str, Any] = json.loads(reply)
        if "unusable" in answer:
            raise InvalidInputMedia(f"{param}: the file {answer['unusable']}", param)
        facts: dict[str, Any] = answer["facts"]
        return facts

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"the file takes longer than {self.limits.seconds:g} s to decode"
        return "the file cannot be decoded within the limits on memory and time"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._deadline = time.monotonic() + self.limits.seconds
            self._process = start(self.limits)
        return self._process

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes:
        """One line of at most READ_BYTES. raises TimeoutError, EOFError"""
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            left_ms = (self._deadline - time.monotonic()) * 1000
            if left_ms <= 0 or not poll.poll(left_ms):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), READ_BYTES)
            if not chunk or len(line) > READ_BYTES:
                raise EOFError
            line += chunk
        return line


def start(limits: DecodeLimits) -> subprocess.Popen[bytes]:
    """The process, bounded by itself before it reads anything. raises Unavailable"""
    bounds = {
        "memory_bytes": limits.memory_bytes,
        "cpu_s": max(1, round(limits.seconds)),
        "file_bytes": MAX_OUTPUT_BYTES,
        "parent_pid": os.getpid(),
    }
    # Not our environment: it holds passwords. One thread: each would reserve memory of its own.
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    try:
        return subprocess.Popen(
            (sys.executable, "-m", DARKROOM, json.dumps(bounds)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            process_group=0,
        )
    except OSError as error:
        raise Unavailable("Files cannot be read at the moment; try again shortly") from error


def size_of(facts: dict[str, Any]) -> tuple[int, int]:
    """Width and height among an answer's facts."""
    return facts["width"], facts["height"]


def paths(source: Path, target: Path) -> dict[str, str]:
    """Where an order reads and writes."""
    return {"source": str(source), "target": str(target)}
