"""One attempt of one job, end to end and in order, inside the inference child.

Generate, encode, put on the shelf, store. Also the one ladder from an exception to an error
code and a sentence that is safe to show. Nothing here knows the queue.
"""

import errno
import resource
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from models.protocol import (
    Cancelled,
    Frames,
    LongPrompt,
    ResumableModel,
    StreamingModel,
    Task,
    VideoModel,
    lacks_memory,
)
from models.ranks import RanksApart
from worker import media
from worker.checkpoints import open_checkpoints
from worker.inputs import InputLost, read_task
from worker.jobs.artifacts import (
    FILES,
    LAST_FRAME,
    SIDECAR,
    SPRITESHEET,
    THUMBNAIL,
    VIDEO,
    ArtifactStore,
)
from worker.jobs.contract import Artifact, ErrorCode, JobResult, Stage
from worker.memory import peak_memory_mb, reset_peak_memory
from worker.messages import CancelledMessage, Done, Failed, FromChild, Run
from worker.provenance import read_provenance
from worker.reel import Reel
from worker.shelf import Film, Shelf, Unstored, outwait, persist
from worker.stopwatch import Stopwatch, Tell, never

log = structlog.get_logger()

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Equipment:
    """What a child makes films with, the same for every run."""

    model: VideoModel
    store: ArtifactStore
    shelf: Shelf
    scratch_dir: Path
    encoder: str
    storage_patience_s: float  # how long a finished film waits for the store
    checkpoint_overhead: float = 0.01  # share of an attempt's time
    beside_mb: float = 0.0  # what other models hold that are loaded as well


def make_film(
    run: Run,
    tools: Equipment,
    tell: Tell,
    cancelled: Callable[[], bool],
    leaving: Callable[[], bool] = never,
) -> FromChild:
    """Make and store one film; never raises an `Exception`.

    tell       called with each stage and step, and with signs of life between them
    cancelled  asked at every step and frame; true stops the attempt and keeps the model
    leaving    likewise; true stops it with a checkpoint, so that another attempt can go on
    returns    Done, CancelledMessage or Failed
    """
    watch = Stopwatch(run.exec, tell, cancelled, leaving)
    tools = replace(tools, store=tools.store.telling(watch.pulse))
    try:
        result = _make(run, tools, watch)
        return Done(exec=run.exec, result=result)
    except Cancelled:
        return CancelledMessage(exec=run.exec)
    except Exception as error:
        failure = read_failure(error, run.exec)
        log.error(
            "film.failed",
            job_id=run.job_id,
            tenant=run.tenant,
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

    if isinstance(error, Unstored):
        message = "The clip is finished, but the storage did not take it."
        waiting = failed(ErrorCode.INTERNAL_ERROR, message, again=True)
        return waiting.model_copy(update={"finished": True})

    if lacks_memory(error):
        return failed(
            ErrorCode.OUT_OF_MEMORY,
            "The worker has not enough memory for a clip of this size and length.",
        )
    if isinstance(error, InputLost):
        return failed(
            ErrorCode.INVALID_INPUT_MEDIA, "An input of this job is gone or cannot be read."
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        message = "The worker's disk is full, so the clip could not be stored."
        roomless = failed(ErrorCode.INTERNAL_ERROR, message, again=True)
        return roomless.model_copy(update={"full": not exceeds_own_limit(error)})
    # Sticky: every later call of this process fails as well.
    if isinstance(error, RanksApart) or "CUDA error" in str(error):
        return failed(
            ErrorCode.INTERNAL_ERROR, "The worker's accelerator failed.", again=True, fatal=True
        )
    if isinstance(error, OSError):
        return failed(ErrorCode.INTERNAL_ERROR, "The worker could not store the clip.", again=True)
    if isinstance(error, media.EncoderUnavailable):
        return failed(ErrorCode.INTERNAL_ERROR, "The worker has no usable video encoder.")
    if isinstance(error, ValueError):
        reason = "The model does not accept this request."
        told = f"{error}.".capitalize() if isinstance(error, LongPrompt) else reason
        return failed(ErrorCode.INTERNAL_ERROR, told)
    return failed(ErrorCode.INTERNAL_ERROR, "The model failed on this request.")


def exceeds_own_limit(error: OSError) -> bool:
    """Whether a file is larger than this process may ever write: another attempt meets the same."""
    own_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return error.errno == errno.EFBIG and own_limit != resource.RLIM_INFINITY


def read_places(error: Exception) -> list[str]:
    """Where it happened, innermost last; never its text, which may quote a prompt."""
    calls = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls]


def _make(run: Run, tools: Equipment, watch: Stopwatch) -> JobResult:
    film = tools.shelf.find(run.job_id)  # an attempt before may have lacked only the store
    if film is None:
        film = _finish(run, tools, watch)
    return _store(film, run, tools, watch)


def _finish(run: Run, tools: Equipment, watch: Stopwatch) -> Film:
    """Generate and encode; what comes out is on the shelf."""
    reset_peak_memory()
    patience_s = tools.storage_patience_s
    task = outwait(lambda: read_task(run.request, tools.store), patience_s, watch.check)
    request = run.request
    reel = Reel(request.num_frames, request.height, request.width)
    tools.scratch_dir.mkdir(parents=True, exist_ok=True)
    watch.checkpoints = open_checkpoints(
        run, tools.model, tools.store, tools.scratch_dir, tools.checkpoint_overhead, watch.tell
    )
    with tempfile.TemporaryDirectory(dir=tools.scratch_dir) as scratch:
        folder = Path(scratch) / "film"
        folder.mkdir()
        provenance = read_provenance(run, tools.model)
        # Closed at once when it is stopped, so that the model lets go of what it was making.
        with closing(_made(tools.model, task, watch)) as made:
            film = reel.pieces(made)
            encoding = media.write_mp4(
                film,
                folder / VIDEO,
                request.fps,
                provenance,
                tools.encoder,
                lambda _: watch.check(),
            )
        watch.enter(Stage.POST_PROCESSING)
        media.write_thumbnail(reel.middle, folder / THUMBNAIL)
        media.write_spritesheet(reel.stills, folder / SPRITESHEET)
        if request.return_last_frame:
            media.write_last_frame(reel.last, folder / LAST_FRAME)
        watch.leave()
        facts = {
            "notes": provenance | {"encoder": encoding.encoder},
            "model_sha256": tools.model.weights_sha256,
            "stage_seconds": watch.seconds,
            "peak_memory_mb": max(0.0, peak_memory_mb() - tools.beside_mb),
        }
        return tools.shelf.keep(folder, run.job_id, run.exec, facts)


def _made(model: VideoModel, task: Task, watch: Stopwatch) -> Generator[Frames]:
    """The film as the model hands it over: piece by piece if it can, so that its length costs no
    memory, else whole."""
    if watch.checkpoints is not None and isinstance(model, ResumableModel):
        yield from watch.aside(model.stream(task, watch.step, watch.checkpoints.memory))
        return
    if isinstance(model, StreamingModel):
        yield from watch.aside(model.stream(task, watch.step))
        return
    frames = model.generate(task, watch.step)
    watch.enter(Stage.POST_PROCESSING)
    yield frames


def _store(film: Film, run: Run, tools: Equipment, watch: Stopwatch) -> JobResult:
    """Store a finished film, however long the store is away."""

    def put(name: str) -> Artifact:
        key, path = run.artifact_prefix + name, film.folder / name
        return persist(tools.store, key, path, tools.storage_patience_s, watch.check)

    watch.enter(Stage.UPLOADING)
    kept = {role: put(name) for role, name in FILES.items() if name in film.facts.digests}
    watch.leave()
    seconds = dict(film.facts.stage_seconds) | watch.seconds
    added = {"video_sha256": kept["video"].sha256, "stage_seconds": seconds}
    media.write_json({**film.facts.notes, **added}, film.folder / SIDECAR)
    return JobResult(
        **kept,
        sidecar=put(SIDECAR),
        model_sha256=film.facts.model_sha256,
        stage_seconds=seconds,
        peak_memory_mb=film.facts.peak_memory_mb,
    )
