"""Checkpoints of one attempt: what it goes on from, and when the next one is worth its time.

A checkpoint is written whole under a name of its own and only then told to the supervisor, who
alone says which one counts. One that cannot be read or written costs time, never the job.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from models.protocol import Memory, ResumableModel, VideoModel
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.contract import Artifact, Checkpoint, VideoRequest
from worker.messages import CheckpointSaved, Run
from worker.provenance import read_versions

log = structlog.get_logger()

NAME = "state.safetensors"
KEPT = 2  # the one that counts, and the one that is about to
FIRST_COST_S = 0.02  # of writing one, before any was written

Tell = Callable[[CheckpointSaved], None]


class Checkpoints:
    """Writes down what an attempt has made, as often as it may cost.

    overhead  share of the time that writing may take: the interval follows from what the last one
              took. At 0 one is written only when the worker leaves
    """

    def __init__(
        self,
        run: Run,
        memory: Memory,
        store: ArtifactStore,
        folder: Path,
        overhead: float,
        tell: Tell,
    ) -> None:
        self._run = run
        self.memory = memory
        self._store = store
        self._folder = folder
        self._overhead = overhead
        self._tell = tell
        self._cost_s = FIRST_COST_S
        self._since = time.monotonic()
        self._steps = memory.steps  # that are safe
        self._count = 0
        self._kept = [] if run.resume is None else [run.resume.artifact.key]

    def note(self) -> None:
        """A step may be done: write a checkpoint if it is time."""
        if (time.monotonic() - self._since) * self._overhead >= self._cost_s:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, if there is anything new to write."""
        if self.memory.steps == self._steps:
            return
        began, steps = time.monotonic(), self.memory.steps
        try:
            artifact = self._put()
        except (OSError, MemoryError) as error:
            facts = {"job_id": self._run.job_id, "tenant": self._run.tenant}
            log.warning("checkpoint.failed", fault=type(error).__name__, **facts)
        else:
            self._steps = steps
            checkpoint = Checkpoint(artifact=artifact, steps=steps)
            self._tell(CheckpointSaved(exec=self._run.exec, checkpoint=checkpoint))
            self._drop_old(artifact.key)
        self._since = time.monotonic()
        self._cost_s = self._since - began

    def _put(self) -> Artifact:
        path = self._folder / f"{self._run.exec}.safetensors"
        self._count += 1
        try:
            path.write_bytes(self.memory.write())
            place = f"{self._run.checkpoint_prefix}{self._run.exec}-{self._count}/"
            return self._store.put_file(place + NAME, path)
        finally:
            path.unlink(missing_ok=True)

    def _drop_old(self, key: str) -> None:
        self._kept.append(key)
        while len(self._kept) > KEPT:
            with suppress(OSError):  # goes when the job has ended
                self._store.delete_prefix(self._kept.pop(0).removesuffix(NAME))


def open_checkpoints(
    run: Run,
    model: VideoModel,
    store: ArtifactStore,
    folder: Path,
    overhead: float,
    tell: Tell,
) -> Checkpoints | None:
    """The checkpoints of an attempt, its memory filled with what an earlier attempt has made; None
    if nobody could go on from them.

    folder  on this machine, to put a file together in
    """
    memory = open_memory(run, model, store)
    return None if memory is None else Checkpoints(run, memory, store, folder, overhead, tell)


def open_memory(run: Run, model: VideoModel, store: ArtifactStore) -> Memory | None:
    """What an attempt remembers its film in: with what an earlier attempt has made, if that can be
    read, else empty. None if nobody could go on from it."""
    if not can_resume(model) or not run.checkpoint_prefix:
        return None
    assert isinstance(model, ResumableModel)
    identity = identify(run.request)
    if run.resume is None:
        return model.remember(identity)
    facts = {"job_id": run.job_id, "tenant": run.tenant, "attempt": run.attempt}
    try:
        memory = model.remember(identity, read_bytes(run.resume.artifact, store))
    except (OSError, ValueError) as error:
        log.warning("checkpoint.refused", reason=str(error), **facts)
        return model.remember(identity)
    log.info("checkpoint.resumed", steps=memory.steps, **facts)
    return memory


def can_resume(model: VideoModel) -> bool:
    """Whether a film that one attempt began another goes on with."""
    return isinstance(model, ResumableModel) and model.card.resumable


def identify(request: VideoRequest) -> str:
    """Digest of what is to be made, and by which packages: what a film depends on besides the
    model. Inputs are in it by their own digests."""
    asked = request.model_dump(mode="json", exclude={"metadata", "user"})
    text = json.dumps([asked, read_versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_bytes(artifact: Artifact, store: ArtifactStore) -> bytes:
    """A stored file, whole. raises OSError; ValueError if it is not what was stored"""
    with store.open(artifact.key) as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise ValueError("a damaged checkpoint: not the bytes that were stored")
    return data
