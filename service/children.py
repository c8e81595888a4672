"""Child processes that are started again when they die and that never outlive their parent.

It does not know what the children do; `standalone` does.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

PR_SET_PDEATHSIG = 1
STEADY_S = 30.0  # a child that lived this long has recovered: its back-off starts anew
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0


class StartError(Exception):
    """The service cannot be started as asked; the message says why and what to change."""


@dataclass(frozen=True)
class Command:
    """How to start one child; `environment` is its whole environment."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    orphan_signal: signal.Signals = signal.SIGKILL  # sent by the kernel when the parent dies


def backoff_s(deaths: int) -> float:
    """Seconds to wait before the start that follows the given number of early deaths in a row."""
    if deaths <= 1:
        return 0.0
    return float(min(FIRST_DELAY_S * 2 ** (deaths - 2), LONGEST_DELAY_S))


class Child:
    """One supervised process, in a session of its own, so that Ctrl-C reaches only the parent.

    Start it from the main thread: the kernel ties a child's death to the thread that spawned it.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.deaths = 0  # early deaths in a row
        self.exit_code: int | None = None  # of the last death; negative: the signal
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._due_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; raises OSError if the program cannot be run."""
        command = self.command
        self._process = subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            pass_fds=command.pass_fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=tie_to_parent(command.orphan_signal),
        )
        self._started_at = time.monotonic()
        log.info("child.started", child=command.name, pid=self._process.pid)

    def tend(self) -> None:
        """Notice a death, and start the process again once its back-off has passed."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._note_death(code, now)
        if now >= self._due_at:
            self.start()

    def _note_death(self, code: int, now: float) -> None:
        lived_s = now - self._started_at
        self.deaths = 1 if lived_s >= STEADY_S else self.deaths + 1
        self._due_at = now + backoff_s(self.deaths)
        self._process = None
        self.exit_code = code
        log.warning(
            "child.died",
            child=self.command.name,
            exit_code=code,
            lived_s=round(lived_s, 1),
            again_in_s=backoff_s(self.deaths),
        )

    def running(self) -> bool:
        """Whether the process is alive right now."""
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Send SIGTERM; harmless once the process has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process with all of its session, and reap it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            log.warning("child.killed", child=self.command.name, pid=self._process.pid)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def wait_for_end(children: list[Child], deadline: float) -> bool:
    """Whether all children ended before `deadline` on the monotonic clock."""
    while any(child.running() for child in children):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def tie_to_parent(orphan_signal: signal.Signals) -> "_Tie | None":
    """A `preexec_fn` by which the kernel sends a child this signal when its parent thread ends."""
    return _Tie(orphan_signal) if sys.platform == "linux" else None


class _Tie:
    """Runs between fork and exec; everything that allocates is done before the fork."""

    def __init__(self, orphan_signal: signal.Signals) -> None:
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._signal = int(orphan_signal)
        self._parent = os.getpid()

    def __call__(self) -> None:
        self._prctl(PR_SET_PDEATHSIG, self._signal, 0, 0, 0)
        if os.getppid() != self._parent:  # the parent died before the tie was made
            os._exit(1)
