"""Starts, watches and ends the inference child, which dies with its parent.

The child is started by exec, never by fork alone: CUDA does not survive a fork. It gets its own
process group, so that one signal ends it and whatever it started.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict

from worker.channel import Channel, ChannelClosed, ChannelGarbled
from worker.memory import resident_mb
from worker.messages import FROM_CHILD, FromChild, Message, Ready
from worker.settings import WorkerSettings

log = structlog.get_logger()

CHILD_MODULE = "worker.child"
SEND_TIMEOUT_S = 5.0
REAP_TIMEOUT_S = 10.0
LOOKS, LOOK_S = 5, 0.1  # at the memory of a child that seems to have grown


class ChildConfig(BaseModel):
    """Everything a child needs to know, as one argument of its command line; no secrets. Where
    films are stored is in its environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent_pid: int
    loader: str  # "module:function"
    model: str  # the first to load
    weights_dir: Path | None  # None: each model's own folder
    device: str
    dtype: str
    data_dir: Path
    scratch_dir: Path
    shelf_dir: Path
    encoder: str
    storage_patience_s: float
    max_memory_mb: int = 0  # 0: no limit
    max_file_mb: int = 0
    rehearse: bool = True
    checkpoint_overhead: float = 0.01
    ranks: int = 1  # processes that make a film together; the child is the first
    ranks_by: str = "ulysses"
    fast_attention: str = "auto"
    fast_compile: str = "auto"
    loaded_models: int = 1  # kept at once
    loaded_mb: float = 0  # that they may hold together; 0: any
    idle_unload_s: float = 0  # 0: never


class LoadFailed(Exception):
    """The child could not load the model; starting it again would not help."""


class CrashLoop(Exception):
    """The child died too often in a row; something is wrong with this machine or model."""


class Child:
    """A running inference child as its supervisor sees it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel[FromChild]) -> None:
        self._process = process
        self._channel = channel
        self.loaded: dict[str, Ready] = {}  # its models, and what it said of each
        self.loading: str | None = None  # what it is about to load
        self.begun = False  # the first one was loaded
        self.news: list[Ready] = []  # what was loaded since somebody last looked
        self.settled_mb: dict[frozenset[str], float] = {}  # resident after its first job with these

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's id as well."""
        return self._process.pid

    def resumes(self, model: str) -> bool:
        """Whether a model that is loaded goes on with films that another attempt began."""
        return model in self.loaded and self.loaded[model].resumable

    def alive(self) -> bool:
        """Whether the process still runs; reaps it if not."""
        return self._process.poll() is None

    def send(self, message: Message) -> None:
        """Send, or raise ChannelClosed if the child is gone or takes nothing."""
        self._channel.send(message)

    def receive(self, timeout_s: float) -> FromChild | None:
        """The next message or None; raises ChannelClosed, ChannelGarbled."""
        message = self._channel.receive(timeout_s)
        if message is not None:
            self._note(message)
        return message

    def listen(self) -> None:
        """Hear what an idle child has to say, which is what it unloads. Its end is for others to
        notice."""
        with contextlib.suppress(ChannelClosed, ChannelGarbled):
            while self.receive(0.0) is not None:
                pass

    def _note(self, message: FromChild) -> None:
        if message.type == "loading":
            self.loading = message.model
        elif message.type == "ready":
            self.loading, self.begun = None, True
            self.loaded[message.model] = message
            self.news.append(message)
        elif message.type == "unloaded":
            self.loaded.pop(message.model, None)
        elif message.type == "error":
            self.loading = None

    def kill(self) -> None:
        """End the child and everything in its group at once, and reap it. May be repeated."""
        # Once reaped, the number may belong to somebody else's group.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(REAP_TIMEOUT_S)
        self._channel.close()

    def exit_reason(self) -> str:
        """How the process ended, for logs: `signal 9` or `status 3`."""
        code = self._process.poll()
        if code is None:
            return "still running"
        return f"signal {-code}" if code < 0 else f"status {code}"


def launch(config: ChildConfig, storage: Mapping[str, str], threads: int = 0) -> Child:
    """Start a child, which then loads its model; see `await_ready`.

    storage  environment that names the artifact store
    threads  for torch and BLAS, 0 leaves the choice to them
    raises   RuntimeError off the main thread: the kernel ends the child when the *thread* that
             started it ends
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("launch the child from the main thread: it dies with its thread")
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                CHILD_MODULE,
                str(theirs.fileno()),
                config.model_dump_json(),
            ],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=child_environment(dict(os.environ), threads) | dict(storage),
            process_group=0,
        )
    return Child(process, Channel(ours, FROM_CHILD, SEND_TIMEOUT_S))


def child_environment(environment: dict[str, str], threads: int) -> dict[str, str]:
    """The parent's environment without our settings and a collector's: the passwords of others are
    no child's affair."""
    ours = ("PRAXINO_", "OTEL_")
    kept = {name: value for name, value in environment.items() if not name.startswith(ours)}
    if threads:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


def await_ready(child: Child, timeout_s: float, keep_alive: Callable[[], None]) -> Ready:
    """Wait until the first model is loaded.

    keep_alive  called at least once a second meanwhile; what it raises passes through
    raises      LoadFailed    the child said why it cannot load, or took too long
                ChannelClosed the child died
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        message = child.receive(min(1.0, max(0.0, deadline - time.monotonic())))
        if message is None:
            keep_alive()
        elif message.type == "ready":
            return message
        elif message.type == "error":
            raise LoadFailed(message.message)
    raise LoadFailed(f"the model did not load within {timeout_s:g} s")


def growth_mb(child: Child) -> float:
    """MiB that a child holds over what it held at first with the same models; 0 if it is gone."""
    resident = resident_mb(child.pid)
    if resident is None:
        return 0.0
    settled_mb = child.settled_mb.setdefault(frozenset(child.loaded), resident)
    return round(resident - settled_mb, 1)


class Launcher:
    """Keeps one child alive and loaded: starts it, and again when it died, but not for ever."""

    def __init__(self, settings: WorkerSettings, scratch_dir: Path) -> None:
        self._settings = settings
        self._scratch_dir = scratch_dir
        self._child: Child | None = None
        self.loads = 0  # times a model was loaded
        self.crashes = 0  # in a row, without a job going well in between

    @property
    def loaded(self) -> Mapping[str, Ready]:
        """The models that the running child holds, and what it said of each."""
        return {} if self._child is None else self._child.loaded

    def news(self) -> list[Ready]:
        """What was loaded since this was last asked."""
        if self._child is None:
            return []
        self._child.listen()
        fresh, self._child.news = self._child.news, []
        for ready in fresh:
            self.loads += 1
            log.info("child.ready", pid=ready.pid, model=ready.model, loads=self.loads)
        return fresh

    def has_child(self) -> bool:
        """Whether a child runs."""
        return self._child is not None and self._child.alive()

    def ensure(self, model: str, keep_alive: Callable[[], None]) -> Child:
        """The child, started anew if there is none, and then with this model loaded.

        keep_alive  called about once a second while waiting; what it raises passes through
        raises      LoadFailed, CrashLoop
        """
        while True:
            if self._child is not None and self._child.alive():
                return self._child
            self._bury(keep_alive)
            storage = self._settings.storage_environment()
            self._child = launch(self._config(model), storage, self._settings.torch_threads)
            try:
                await_ready(self._child, self._settings.load_timeout_s, keep_alive)
            except (ChannelClosed, ChannelGarbled):
                self._child.kill()  # it died while loading, but may not be over yet
            except LoadFailed:
                self.close()
                raise

    def went_well(self) -> None:
        """A job ended with the child in good health: unless it has grown too much, it stays."""
        self.crashes = 0
        child, limit_mb = self._child, self._settings.child_growth_mb
        if child is None:
            return
        grown_mb = growth_mb(child)
        for _ in range(LOOKS if limit_mb else 0):
            if grown_mb <= limit_mb:
                break
            time.sleep(LOOK_S)  # it gives memory back just after it has answered
            grown_mb = growth_mb(child)
        if limit_mb and grown_mb > limit_mb:
            log.warning("child.recycled", pid=child.pid, grown_mb=grown_mb, limit_mb=limit_mb)
            child.kill()
            self._child = None  # no crash: the next one is started at once

    def close(self) -> None:
        """Ask the child to leave, and see that it does."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        shutil.rmtree(self._scratch_dir, ignore_errors=True)

    def _bury(self, keep_alive: Callable[[], None]) -> None:
        if self._child is None:
            return
        self._child.kill()
        child, self._child = self._child, None
        reason = child.exit_reason()
        if not (child.begun and child.loading):  # else one of its models is to blame, and rests
            self.crashes += 1
        log.warning("child.died", reason=reason, loading=child.loading, crashes=self.crashes)
        if self.crashes >= self._settings.crash_limit:
            raise CrashLoop(f"the inference process died {self.crashes} times in a row ({reason})")
        shutil.rmtree(self._scratch_dir, ignore_errors=True)
        deadline = time.monotonic() + backoff_s(self.crashes)
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(0.2, left_s))
            keep_alive()

    def _config(self, model: str) -> ChildConfig:
        settings = self._settings
        return ChildConfig(
            parent_pid=os.getpid(),
            loader=settings.model_loader,
            model=model,
            weights_dir=settings.weights_dir,
            device=settings.device,
            dtype=settings.dtype,
            data_dir=settings.data_dir.resolve(),
            scratch_dir=self._scratch_dir,
            shelf_dir=settings.shelf_dir.resolve(),
            encoder=settings.encoder,
            storage_patience_s=settings.storage_patience_s,
            max_memory_mb=settings.max_child_memory_mb,
            max_file_mb=settings.max_file_mb,
            rehearse=settings.rehearse,
            checkpoint_overhead=settings.checkpoint_overhead,
            ranks=settings.ranks,
            ranks_by=settings.ranks_by,
            fast_attention=settings.fast_attention,
            fast_compile=settings.fast_compile,
            loaded_models=settings.loaded_models,
            loaded_mb=settings.loaded_mb,
            idle_unload_s=settings.idle_unload_s,
        )


def backoff_s(crashes: int) -> float:
    """The first restart is at once, the others wait longer and longer, at most 30 s."""
    return 0.0 if crashes < 2 else float(min(30.0, 0.5 * 2 ** (crashes - 2)))
