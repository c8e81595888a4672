"""The inference child: keeps models loaded and serves many runs. Never loads redis or rq.

The main thread computes; a reader thread takes orders meanwhile, so that a cancel arrives between
two steps and the end of the supervisor ends this process at once.
"""

import ctypes
import functools
import gc
import importlib
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import structlog

from models.catalog import registered_folder
from models.protocol import BatchableModel, VideoModel
from worker.channel import Channel, ChannelClosed, ChannelGarbled
from worker.checkpoints import can_resume
from worker.film import Equipment, make_film, read_failure
from worker.jobs.artifacts import ArtifactStore, open_store
from worker.jobs.contract import ErrorCode, Stage
from worker.jobs.costs import Sample
from worker.jobs.settings import StorageSettings
from worker.journal import configure_logging
from worker.launcher import ChildConfig
from worker.memory import capacity_mb, release_memory
from worker.messages import (
    MODELLESS,
    TO_CHILD,
    Failed,
    FromChild,
    Loading,
    Ready,
    Run,
    StageStarted,
    ToChild,
    Unloaded,
)
from worker.rack import Rack
from worker.rehearsal import rehearse
from worker.shelf import Shelf

log = structlog.get_logger()

EXIT_ORPHANED = 4
EXIT_UNUSABLE = 3
PR_SET_PDEATHSIG = 1

Loader = Callable[..., VideoModel]  # see `model_loader` among the settings


class Orders:
    """What the supervisor wants, as seen by the main thread."""

    def __init__(self, channel: Channel[ToChild]) -> None:
        self._channel = channel
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._leaving: set[str] = set()

    def listen(self) -> None:
        """Take orders on a thread of their own; the end of the channel ends the process."""
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def next_runs(self, limit_s: float | None = None) -> list[Run] | None:
        """Wait for the next run, and those to be made with it; none if the time is up before the
        first. None means leave."""
        runs: list[Run] = []
        while True:
            try:
                run = self._runs.get(timeout=None if runs else limit_s)
            except queue.Empty:
                return runs
            if run is None:
                return None
            runs.append(run)
            if not run.more:
                return runs

    def cancelled(self, token: str) -> bool:
        """Whether this attempt was told to stop."""
        return token in self._cancelled

    def leaving(self, token: str) -> bool:
        """Whether this attempt was told to write down what it has, and stop."""
        return token in self._leaving

    def forget(self) -> None:
        """The attempts are over."""
        self._cancelled.clear()
        self._leaving.clear()

    def _read(self) -> None:
        try:
            while True:
                order = self._channel.receive()
                if order is None:
                    continue
                if order.type == "run":
                    self._runs.put(order)
                elif order.type == "cancel":
                    self._cancelled.add(order.exec)
                elif order.type == "yield":
                    self._leaving.add(order.exec)
                else:
                    self._runs.put(None)
        except (ChannelClosed, ChannelGarbled):
            # Nobody would take a result any more: leave now, also in the middle of a step.
            os._exit(EXIT_ORPHANED)


def main(fd: int, config: ChildConfig) -> int:
    """Serve until told to leave; returns the exit status."""
    die_with_parent(config.parent_pid)
    limit_resources(config)
    configure_logging()
    channel = Channel(socket.socket(fileno=fd), TO_CHILD)
    orders = Orders(channel)
    orders.listen()
    try:
        workshop = Workshop(config, channel, orders)
        workshop.load(config.model, rehearsing=config.rehearse)
    except Exception as error:
        log.error("child.load_failed", model=config.model, exc_info=error)
        channel.send(load_failure(config, error))
        return EXIT_UNUSABLE
    status = workshop.serve()
    if config.ranks > 1:
        os._exit(status)  # the collectives' threads may wait for ranks that are gone
    return status


class Workshop:
    """The loaded models, and what films are made with besides."""

    def __init__(self, config: ChildConfig, channel: Channel[ToChild], orders: Orders) -> None:
        self._config = config
        self._channel = channel
        self._orders = orders
        self._equip = equip(config)
        self._rack = Rack(
            functools.partial(load_ranks, config),
            config.loaded_models,
            config.loaded_mb,
            config.idle_unload_s,
            lambda name: channel.send(Unloaded(model=name)),
        )

    def serve(self) -> int:
        """Make films one after the other, or as many at once as are asked for; the answer of each
        is its last message. Returns the exit status."""
        while (runs := self._orders.next_runs(self._rack.idle_in_s())) is not None:
            if runs:
                answers = self.answer(runs)
                structlog.contextvars.clear_contextvars()
                self._rack.used(runs[0].request.model)
                self._orders.forget()
                if any(isinstance(answer, Failed) and answer.fatal for answer in answers):
                    return EXIT_UNUSABLE
            self._rack.drop_idle()
        return 0

    def load(self, name: str, *, rehearsing: bool = False) -> VideoModel:
        """The model of this name, loaded if it was not; the supervisor is told of both.

        raises what `Rack.get` does
        """
        if name in self._rack:
            return self._rack.get(name)
        self._channel.send(Loading(model=name))
        started = time.monotonic()
        model = self._rack.get(name)
        load_s = round(time.monotonic() - started, 3)
        rehearsal = rehearse(self._equip(model)) if rehearsing else None
        self._channel.send(introduce(self._config, model, load_s, rehearsal))
        return model

    def answer(self, runs: Sequence[Run]) -> list[FromChild]:
        """Make films of one model; each is answered for as soon as it has ended."""
        for run in runs:
            self._channel.send(StageStarted(exec=run.exec, stage=Stage.LOADING))
        name = runs[0].request.model
        try:
            model = self.load(name)
        except Exception as error:
            log.error("child.load_failed", model=name, exc_info=error)
            failures: list[FromChild] = [modelless(run, error) for run in runs]
        else:
            return self._make_films(runs, model)
        release_memory()  # a traceback holds half a model
        for failure in failures:
            self._channel.send(failure)
        return failures

    def _make_films(self, runs: Sequence[Run], model: VideoModel) -> list[FromChild]:
        answers: list[FromChild] = []

        def make(run: Run, model: VideoModel) -> None:
            answer = self._make(run, model)
            if is_wanting(answer) and len(runs) == 1 and self._rack.drop_others(model.card.id):
                answer = self._make(run, model)  # other models had its memory
            if isinstance(answer, Failed):
                gc.collect()  # a traceback holds tensors in a circle
                crowded = is_wanting(answer) and len(runs) > 1
                answer = answer.model_copy(update={"crowded": crowded})
            answers.append(answer)
            self._channel.send(answer)

        if len(runs) == 1:
            make(runs[0], model)
        else:
            assert isinstance(model, BatchableModel)  # as the supervisor was told
            model.together([functools.partial(make, run) for run in runs])
        return answers

    def _make(self, run: Run, model: VideoModel) -> FromChild:
        structlog.contextvars.bind_contextvars(job_id=run.job_id, tenant=run.tenant)
        cancelled = functools.partial(self._orders.cancelled, run.exec)
        leaving = functools.partial(self._orders.leaving, run.exec)
        equipment = replace(self._equip(model), beside_mb=self._rack.beside_mb(model.card.id))
        return make_film(run, equipment, self._channel.send, cancelled, leaving)


def introduce(
    config: ChildConfig, model: VideoModel, load_s: float, rehearsal: Sample | None
) -> Ready:
    """What the supervisor gets to know of a loaded model."""
    return Ready(
        pid=os.getpid(),
        model=model.card.id,
        weights_sha256=model.weights_sha256,
        load_s=load_s,
        cost=model.card.cost,
        memory_mb=capacity_mb(config.max_memory_mb),
        resumable=can_resume(model),
        batchable=isinstance(model, BatchableModel) and model.card.batchable,
        rehearsal=rehearsal,
    )


def is_wanting(answer: FromChild) -> bool:
    """Whether a film failed for want of memory, which it may have when it is made alone."""
    return isinstance(answer, Failed) and answer.code is ErrorCode.OUT_OF_MEMORY


def equip(config: ChildConfig) -> Callable[[VideoModel], Equipment]:
    """What films are made with, but for the model."""
    return functools.partial(
        Equipment,
        store=open_results(config.data_dir),
        shelf=Shelf(config.shelf_dir),
        scratch_dir=config.scratch_dir,
        encoder=config.encoder,
        storage_patience_s=config.storage_patience_s,
        checkpoint_overhead=config.checkpoint_overhead,
    )


def load_ranks(config: ChildConfig, name: str) -> VideoModel:
    """Load a model, in as many processes as make films together."""
    if config.ranks == 1:
        return load_model(config, name)
    from worker.ranks import lead  # loads torch, which a loader need not

    return lead(config, load_first)


def load_first(config: ChildConfig) -> VideoModel:
    """The model that a child begins with; raises what `load_model` does."""
    return load_model(config, config.model)


def load_model(config: ChildConfig, name: str) -> VideoModel:
    """Call the loader named `module:function` in the settings.

    raises ValueError if the name does not resolve; whatever the loader raises
    """
    module, _, function = config.loader.partition(":")
    try:
        loader = cast(Loader, getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model_loader {config.loader!r} names no function: {error}") from error
    folder = config.weights_dir or registered_folder(config.data_dir, name)
    asked = {"attention": config.fast_attention, "compiled": config.fast_compile}
    options = {name: value for name, value in asked.items() if value != "auto"}
    return loader(name, folder, config.device, config.dtype, **options)


def open_results(data_dir: Path) -> ArtifactStore:
    """Where the films go, as the supervisor put it into the environment."""
    return open_store(StorageSettings(data_dir=data_dir))


def load_failure(config: ChildConfig, error: Exception) -> Failed:
    """For the operator, so with the path and the cause."""
    failure = read_failure(error, None)
    reason = f"{type(error).__name__}: {error}"[:2000]
    folder = config.weights_dir or "its own folder"
    message = f"model {config.model!r} does not load from {folder}: {reason}"
    return failure.model_copy(update={"message": message, "fatal": True, "retryable": False})


def modelless(run: Run, error: Exception) -> Failed:
    """For the owner of a job whose model does not load; another worker, or later this one, may."""
    failure = read_failure(error, run.exec)
    facts = {"code": ErrorCode.INTERNAL_ERROR, "message": MODELLESS, "retryable": True}
    return failure.model_copy(update=facts | {"modelless": True, "full": False})


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the supervisor ends, and leave its signals to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the kernel was asked
        os._exit(EXIT_ORPHANED)


def limit_resources(config: ChildConfig) -> None:
    """No core dumps, they would hold prompts; memory and file size as configured."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, limit_mb in (
        (resource.RLIMIT_AS, config.max_memory_mb),
        (resource.RLIMIT_FSIZE, config.max_file_mb),
    ):
        if limit_mb:
            resource.setrlimit(kind, (limit_mb << 20, limit_mb << 20))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), ChildConfig.model_validate_json(sys.argv[2])))
