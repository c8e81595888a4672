"""The inference child: loads one model once and serves many runs. Never loads redis or rq.

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
from worker.jobs.settings import StorageSettings
from worker.journal import configure_logging
from worker.launcher import ChildConfig
from worker.memory import capacity_mb
from worker.messages import TO_CHILD, Failed, FromChild, Ready, Run, StageStarted, ToChild
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

    def next_runs(self) -> list[Run] | None:
        """Wait for the next run, and those to be made with it; None means leave."""
        runs = []
        while (run := self._runs.get()) is not None:
            runs.append(run)
            if not run.more:
                return runs
        return None

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
    started = time.monotonic()
    try:
        tools = equip(config)
    except Exception as error:
        log.error("child.load_failed", model=config.model, exc_info=error)
        channel.send(load_failure(config, error))
        return EXIT_UNUSABLE
    load_s = round(time.monotonic() - started, 3)
    channel.send(introduce(config, tools, load_s))
    status = serve(channel, orders, tools)
    if config.ranks > 1:
        os._exit(status)  # the collectives' threads may wait for ranks that are gone
    return status


def introduce(config: ChildConfig, tools: Equipment, load_s: float) -> Ready:
    """What the supervisor gets to know of the loaded model."""
    memory_mb = capacity_mb(config.max_memory_mb)
    return Ready(
        pid=os.getpid(),
        model=tools.model.card.id,
        weights_sha256=tools.model.weights_sha256,
        load_s=load_s,
        cost=tools.model.card.cost,
        memory_mb=memory_mb,
        resumable=can_resume(tools.model),
        batchable=isinstance(tools.model, BatchableModel) and tools.model.card.batchable,
        rehearsal=rehearse(tools) if config.rehearse else None,
    )


def serve(channel: Channel[ToChild], orders: Orders, tools: Equipment) -> int:
    """Make films one after the other, or as many at once as are asked for; the answer of each is
    its last message."""
    while (runs := orders.next_runs()) is not None:
        for run in runs:
            channel.send(StageStarted(exec=run.exec, stage=Stage.LOADING))
        answers = make_films(runs, channel, orders, tools)
        structlog.contextvars.clear_contextvars()
        orders.forget()
        if any(isinstance(answer, Failed) and answer.fatal for answer in answers):
            return EXIT_UNUSABLE
    return 0


def make_films(
    runs: Sequence[Run], channel: Channel[ToChild], orders: Orders, tools: Equipment
) -> list[FromChild]:
    """Make films; each is answered for as soon as it has ended."""
    answers: list[FromChild] = []

    def make(run: Run, model: VideoModel) -> None:
        structlog.contextvars.bind_contextvars(job_id=run.job_id, tenant=run.tenant)
        cancelled = functools.partial(orders.cancelled, run.exec)
        leaving = functools.partial(orders.leaving, run.exec)
        equipment = replace(tools, model=model)
        answer = make_film(run, equipment, channel.send, cancelled, leaving)
        if isinstance(answer, Failed):
            gc.collect()  # a traceback holds tensors in a circle
            answer = answer.model_copy(update={"crowded": is_crowded(answer, runs)})
        answers.append(answer)
        channel.send(answer)

    if len(runs) == 1:
        make(runs[0], tools.model)
    else:
        assert isinstance(tools.model, BatchableModel)  # as the supervisor was told
        tools.model.together([functools.partial(make, run) for run in runs])
    return answers


def is_crowded(failure: Failed, runs: Sequence[Run]) -> bool:
    """Whether a film that failed may have the memory it wants when it is made alone."""
    return failure.code is ErrorCode.OUT_OF_MEMORY and len(runs) > 1


def equip(config: ChildConfig) -> Equipment:
    """Load the model and open the store; raises what `load_model` does."""
    return Equipment(
        model=load_ranks(config),
        store=open_results(config.data_dir),
        shelf=Shelf(config.shelf_dir),
        scratch_dir=config.scratch_dir,
        encoder=config.encoder,
        storage_patience_s=config.storage_patience_s,
        checkpoint_overhead=config.checkpoint_overhead,
    )


def load_ranks(config: ChildConfig) -> VideoModel:
    """Load the model, in as many processes as make films together."""
    if config.ranks == 1:
        return load_model(config)
    from worker.ranks import lead  # loads torch, which a loader need not

    return lead(config, load_model)


def load_model(config: ChildConfig) -> VideoModel:
    """Call the loader named `module:function` in the settings.

    raises ValueError if the name does not resolve; whatever the loader raises
    """
    module, _, function = config.loader.partition(":")
    try:
        loader = cast(Loader, getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model_loader {config.loader!r} names no function: {error}") from error
    folder = config.weights_dir or registered_folder(config.data_dir, config.model)
    asked = {"attention": config.fast_attention, "compiled": config.fast_compile}
    options = {name: value for name, value in asked.items() if value != "auto"}
    return loader(config.model, folder, config.device, config.dtype, **options)


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
