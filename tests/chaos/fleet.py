"""The whole service on this machine as `praxino up` runs it, and a hand on each of its parts."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from redis import Redis

from service.children import tie_to_parent
from service.trial import READY_LINE
from service.valkey import address_file
from tests.outside import Receiver
from tests.worker.tiny import write_weights
from worker.jobs.artifacts import ArtifactStore, open_store
from worker.jobs.callers import CallerBook
from worker.jobs.connection import web_client
from worker.jobs.outcomes import WorkerInfo
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + "Y2hhb3MgaXMgYSBsYWRkZXIgZm9yIHdlYmhvb2tzIQ=="
TENANTS = ("acme", "borealis", "cinema")
PACE_S = 0.02  # that every pass of the network takes longer: jobs shall be met in the middle
STOP_S = 60.0
RENAME_EXCHANGE = 2
AT_FDCWD = -100

# Times short enough for a test; without them everything is as it is delivered.
SHORT_TIMES = {
    "LEASE_S": "3",
    "JANITOR_TICK_S": "0.2",
    "JANITOR_LOCK_S": "1",
    "RESCUE_AFTER_S": "2",
    "CANCEL_GRACE_S": "2",
    "REHEARSE": "0",
}
MODULES = {
    "service.cli": "api",
    "worker.janitor": "janitor",
    "worker.webhooks": "webhooks",
    "worker": "worker",
    "worker.child": "child",
}


class Fleet:
    """A running service with tenants, keys and somebody who is called. A context manager."""

    def __init__(
        self,
        folder: Path,
        workers: int,
        *,
        short_times: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """settings: further ones, by their names without `PRAXINO_`"""
        self.workers = workers
        self.data_dir = folder / "data"
        self.log = folder / "log"
        self.url = ""
        self.keys: dict[str, str] = {}
        self._called = folder / "called"
        self._called.mkdir()
        self.receiver = Receiver(self._called, None)
        self._weights = write_weights(folder / "weights", PACE_S)
        self._own = (SHORT_TIMES if short_times else {}) | dict(settings or {})
        self._process: subprocess.Popen[str] | None = None
        self._seen: dict[int, str] = {}  # every process that ever was, with its start
        self._redis: Redis | None = None

    def __enter__(self) -> "Fleet":
        self.receiver.reset()
        with self.log.open("wb") as log:
            options = ("--data-dir", str(self.data_dir), "--workers", str(self.workers))
            self._process = subprocess.Popen(
                (sys.executable, "-m", "service.cli", "up", "--port", "0", *options),
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=tie_to_parent(signal.SIGTERM),
            )
        assert self._process.stdout is not None
        try:
            self._meet(self._process.stdout.readline())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _meet(self, line: str) -> None:
        found = READY_LINE.match(line.strip())
        if found is None:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"the service did not start; its log ends:\n{tail}")
        self.url = found[1]
        self._redis = web_client(address_file(self.data_dir).read_text())
        book = CallerBook(self._redis)
        self.keys = {name: book.create(name, name, may_prioritise=True) for name in TENANTS}
        self.parts()

    def _environment(self) -> dict[str, str]:
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("PRAXINO_", "OTEL_"))}
        settings = {
            "MODEL_LOADER": "tests.chaos.frail:load_model",
            "WEIGHTS_DIR": str(self._weights),
            "OUTBOUND_NETWORKS": "127.0.0.0/8",
            "OUTBOUND_HTTP": "1",
            "WEBHOOK_SECRETS": SECRET,
            "WEBHOOK_RETRIES_S": "0.5,1,2,4,8,16,32",
        } | self._own
        named = {f"PRAXINO_{name}": value for name, value in settings.items()}
        return ours | {"OMP_NUM_THREADS": "1"} | named

    # What can be seen of it

    @property
    def settings(self) -> JobSettings:
        """Where its jobs and films are."""
        return JobSettings(
            redis_url=address_file(self.data_dir).read_text(),  # type: ignore[arg-type]
            data_dir=self.data_dir,
            webhook_secrets=(SECRET,),  # type: ignore[arg-type]
        )

    @property
    def redis(self) -> Redis:
        """Its queue server."""
        assert self._redis is not None
        return self._redis

    @property
    def store(self) -> JobStore:
        """Its rows."""
        return JobStore(self.redis, self.settings)

    @property
    def artifacts(self) -> ArtifactStore:
        """Its films."""
        return open_store(self.settings)

    def parts(self) -> dict[str, list[int]]:
        """Process ids by role: queue, api, janitor, webhooks, worker, child."""
        assert self._process is not None
        found: dict[str, list[int]] = {}
        for pid in sorted(descendants(self._process.pid)):
            with suppress(OSError, ValueError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                self._seen.setdefault(pid, started(pid))
                module = words[words.index("-m") + 1] if "-m" in words else ""
                queue = "valkey-server" in words[0]  # it writes its own command line over
                found.setdefault("queue" if queue else MODULES.get(module, "other"), []).append(pid)
        return found

    def child_of(self, pid: int) -> int | None:
        """The inference child of a supervisor."""
        with suppress(OSError):
            below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return int(below[0]) if below else None
        return None

    def serving(self) -> list[WorkerInfo]:
        """Workers that live and have their model loaded."""
        states = ("idle", "busy")
        return [w for w in self.store.workers() if w.state in states and is_running(w.pid)]

    # What can be done to it

    def swap_store(self) -> None:
        """Put a plain file in the place of the store's folder, as after a wrong mount; or back."""
        broken, folder = self.data_dir / "broken", self.data_dir / "artifacts"
        if not broken.exists():
            broken.write_text("no folder")
            folder.mkdir(exist_ok=True)
        library = ctypes.CDLL(None, use_errno=True)
        names = (os.fsencode(broken), os.fsencode(folder))
        if library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
            raise OSError(ctypes.get_errno(), "the folders cannot be exchanged")

    @contextmanager
    def spoiled_weights(self) -> Iterator[None]:
        """Half of the weights are gone for whoever loads them meanwhile."""
        weights = self._weights / "unet.safetensors"
        whole, half = weights.read_bytes(), weights.with_suffix(".half")
        # Renamed into place: a running child goes on with the file that it has mapped.
        half.write_bytes(whole[: len(whole) // 2])
        half.replace(weights)
        try:
            yield
        finally:
            half.write_bytes(whole)
            half.replace(weights)

    def stop(self) -> list[int]:
        """End everything in order; returns what had to be killed, which should be nobody."""
        self.receiver.stop()
        if self._process is None:
            return []
        if self._process.poll() is None:
            self.parts()
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._redis is not None:
            self._redis.close()
        time.sleep(0.5)  # the kernel's own signals to orphans
        left = [pid for pid, start in self._seen.items() if is_running(pid, start)]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process = None
        return left


def descendants(pid: int) -> set[int]:
    """Ids of all processes below one."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        with suppress(OSError):  # it ended meanwhile
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                below = {int(child) for child in (task / "children").read_text().split()}
                waiting += below - found
                found |= below
    return found


def started(pid: int) -> str:
    """When a process began, in the kernel's count: with its id, it names no other process."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def is_running(pid: int, start: str | None = None) -> bool:
    """Whether a process exists and is no zombie; the one that began then, if that is said."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z" and start in (None, fields[19])
