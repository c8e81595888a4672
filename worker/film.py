"""One attempt of one job, end to end and in order, inside the inference child.

Generate, encode, thumbnail, sidecar, store. Also the one ladder from an exception to an error
code and a sentence that is safe to show. Nothing here knows the queue.
"""

import errno
import importlib.metadata
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from models.protocol import Cancelled, Frames, Step, VideoModel
from worker import media
from worker.inputs import InputLost, read_task
from worker.jobs.artifacts import SIDECAR, THUMBNAIL, VIDEO, ArtifactStore
from worker.jobs.contract import ErrorCode, JobResult, Stage
from worker.memory import peak_memory_mb, reset_peak_memory
from worker.messages import (
    CancelledMessage,
    Done,
    Failed,
    FromChild,
    Run,
    StageStarted,
    StepDone,
)

log = structlog.get_logger()

Tell = Callable[[FromChild], None]

PACKAGES = ("praxino", "torch", "numpy", "av")  # whose versions decide what a film looks like
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Stopwatch:
    """Announces each stage and the steps within it, and adds up the seconds of each."""

    def __init__(self, token: str, tell: Tell, cancelled: Callable[[], bool]) -> None:
        self._token = token
        self._tell = tell
        self._cancelled = cancelled
        self._stage: Stage | None = None
        self._since = 0.0
        self.seconds: dict[str, float] = {}

    def enter(self, stage: Stage) -> None:
        """Close the stage before and begin this one; raises Cancelled if told to stop."""
        self.check()
        if stage is self._stage:
            return
        self.leave()
        self._stage, self._since = stage, time.monotonic()
        self._tell(StageStarted(exec=self._token, stage=stage))

    def leave(self) -> None:
        """Close the current stage."""
        if self._stage is not None:
            spent = time.monotonic() - self._since
            self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + spent, 4)
        self._stage = None

    def step(self, step: Step) -> None:
        """The model's callback: reports, and raises Cancelled if told to stop."""
        self.enter(Stage(step.stage))
        self._tell(StepDone(exec=self._token, index=step.index, total=step.total))

    def check(self) -> None:
        """Raise Cancelled if told to stop."""
        if self._cancelled():
            raise Cancelled


def make_film(
    run: Run,
    model: VideoModel,
    store: ArtifactStore,
    scratch_dir: Path,
    encoder: str,
    tell: Tell,
    cancelled: Callable[[], bool],
) -> FromChild:
    """Make and store one film; never raises an `Exception`.

    tell       called with each stage and step
    cancelled  asked at every step and frame; true stops the attempt and keeps the model
    returns    Done, CancelledMessage or Failed
    """
    watch = Stopwatch(run.exec, tell, cancelled)
    try:
        result = _make(run, model, store, scratch_dir, encoder, watch)
        return Done(exec=run.exec, result=result)
    except Cancelled:
        return CancelledMessage(exec=run.exec)
    except Exception as error:
        failure = read_failure(error, run.exec)
        log.error(
            "film.failed",
            job_id=run.job_id,
            attempt=run.attempt,
            code=str(failure.code),
            fault=type(error).__name__,
            where=read_places(error),
        )
        return failure


def read_failure(error: Exception, token: str | None) -> Failed:
    """The ladder: what an exception means, whether another attempt could help, and whether this
    process can go on. The sentences hold no path, no prompt and nothing of the traceback."""

    def failed(
        code: ErrorCode, message: str, *, again: bool = False, fatal: bool = False
    ) -> Failed:
        return Failed(exec=token, code=code, message=message, retryable=again, fatal=fatal)

    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return failed(
            ErrorCode.OUT_OF_MEMORY,
            "The worker has not enough memory for a clip of this size and length.",
        )
    if isinstance(error, InputLost):
        return failed(
            ErrorCode.INVALID_INPUT_MEDIA, "An input of this job is gone or cannot be read."
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return failed(
            ErrorCode.INTERNAL_ERROR,
            "The worker's disk is full, so the clip could not be stored.",
            again=True,
        )
    if "CUDA error" in str(error):  # sticky: every later call of this process fails as well
        return failed(
            ErrorCode.INTERNAL_ERROR, "The worker's accelerator failed.", again=True, fatal=True
        )
    if isinstance(error, OSError):
        return failed(ErrorCode.INTERNAL_ERROR, "The worker could not store the clip.", again=True)
    if isinstance(error, media.EncoderUnavailable):
        return failed(ErrorCode.INTERNAL_ERROR, "The worker has no usable video encoder.")
    if isinstance(error, ValueError):
        return failed(ErrorCode.INTERNAL_ERROR, "The model does not accept this request.")
    return failed(ErrorCode.INTERNAL_ERROR, "The model failed on this request.")


def read_places(error: Exception) -> list[str]:
    """Where it happened, innermost last; never its text, which may quote a prompt."""
    calls = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls]


def _make(
    run: Run,
    model: VideoModel,
    store: ArtifactStore,
    scratch_dir: Path,
    encoder: str,
    watch: Stopwatch,
) -> JobResult:
    reset_peak_memory()
    frames = model.generate(read_task(run.request, store), watch.step)
    watch.enter(Stage.POST_PROCESSING)
    scratch_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_dir) as folder:
        video, thumbnail = Path(folder) / VIDEO, Path(folder) / THUMBNAIL
        provenance = read_provenance(run, model)
        encoding = _write(frames, video, run, provenance, watch, encoder)
        media.write_thumbnail(frames, thumbnail)
        watch.enter(Stage.UPLOADING)
        kept = {
            name: store.put_file(run.artifact_prefix + path.name, path)
            for name, path in (("video", video), ("thumbnail", thumbnail))
        }
        watch.leave()
        sidecar = Path(folder) / SIDECAR
        media.write_json(
            provenance
            | {
                "encoder": encoding.encoder,
                "video_sha256": kept["video"].sha256,
                "stage_seconds": watch.seconds,
            },
            sidecar,
        )
        return JobResult(
            **kept,
            sidecar=store.put_file(run.artifact_prefix + SIDECAR, sidecar),
            model_sha256=model.weights_sha256,
            stage_seconds=watch.seconds,
            peak_memory_mb=peak_memory_mb(),
        )


def _write(
    frames: Frames,
    path: Path,
    run: Run,
    provenance: dict[str, Any],
    watch: Stopwatch,
    encoder: str,
) -> media.Encoding:
    request = run.request
    expected = (request.num_frames, request.height, request.width, 3)
    if frames.shape != expected:
        raise ValueError(f"the model made frames {frames.shape}, asked were {expected}")
    timings = {"stage_seconds": dict(watch.seconds)}
    return media.write_mp4(
        frames, path, request.fps, provenance | timings, encoder, lambda _: watch.check()
    )


def read_provenance(run: Run, model: VideoModel) -> dict[str, Any]:
    """What made this film: request, seed, model hash, versions. Goes into the MP4 and sidecar."""
    request = run.request.model_dump(mode="json", exclude={"metadata", "user"})
    request = without_keys(request)
    return {
        "generator": "praxino",
        "digital_source_type": "trainedAlgorithmicMedia",
        "job_id": run.job_id,
        "attempt": run.attempt,
        "request": request,
        "model_sha256": model.weights_sha256,
        "versions": read_versions(),
    }


def without_keys(value: Any) -> Any:
    """The same without the storage keys of inputs: they hold the tenant's name, and say nothing
    that the digest beside them does not."""
    if isinstance(value, dict):
        return {name: without_keys(item) for name, item in value.items() if name != "key"}
    return [without_keys(item) for item in value] if isinstance(value, list) else value


def read_versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a film looks like."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
