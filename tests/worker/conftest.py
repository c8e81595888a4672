"""Real workers for tests: a supervisor process with its child, and a janitor process."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.conftest import Valkey
from tests.worker.shapes import write_weights
from worker.jobs.artifacts import open_store
from worker.jobs.connection import web_client
from worker.jobs.contract import TERMINAL, Job, Stage, VideoRequest
from worker.jobs.outcomes import Submission, WorkerInfo
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

ROOT = Path(__file__).parents[2]
LEASE_S = 2


def until(condition: Callable[[], Any], limit_s: float = 60.0, what: str = "") -> Any:
    """Wait for a true value and return it."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s: {what or condition}")


class Process:
    """A `python -m …` of ours, its log in a file."""

    def __init__(self, module: str, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], stderr=sink, cwd=ROOT, env=environment
            )
        self.pid = self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, limit_s: float = 60.0) -> int:
        """Wait for the end; the exit status."""
        return self._process.wait(limit_s)

    def child_pid(self) -> int:
        """The inference child's process id."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        assert len(text) == 1, text
        return int(text[0])

    def end(self) -> None:
        """Kill, also when stopped."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(10)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Studio:
    """Everything of one test: the store, and processes that work on it."""

    def __init__(self, store: JobStore, settings: JobSettings, folder: Path) -> None:
        self.store = store
        self.settings = settings
        self.artifacts = open_store(settings)
        self.weights = folder / "weights"
        write_weights(self.weights)
        self._folder = folder
        self._processes: list[Process] = []

    def start(self, module: str = "worker", **settings: Any) -> Process:
        """Start a process without waiting for it; keywords are settings."""
        chosen: dict[str, Any] = {
            "redis_url": self.settings.redis_url.get_secret_value(),
            "data_dir": self.settings.data_dir,
            "model_loader": "tests.worker.shapes:load_model",
            "weights_dir": self.weights,
            "lease_s": LEASE_S,
            "cancel_grace_s": 1,
            "janitor_tick_s": 0.2,
            "janitor_lock_s": 1,
            "rescue_after_s": 2,
            "rehearse": False,  # few tests ask how fast the model is
        } | settings
        environment = os.environ | {
            f"PRAXINO_{name.upper()}": str(value) for name, value in chosen.items()
        }
        log = self._folder / f"{module}-{len(self._processes)}.log"
        process = Process(module, log, environment)
        self._processes.append(process)
        return process

    def worker(self, **settings: Any) -> Process:
        """Start a worker and wait until it is ready."""
        process = self.start("worker", **settings)
        until(lambda: self.info(process).state == "idle", 120.0, "worker ready")
        return process

    def info(self, process: Process) -> WorkerInfo:
        """What the worker last said about itself."""
        assert is_running(process.pid), process.log.read_text()
        found = [worker for worker in self.store.workers() if worker.pid == process.pid]
        return (
            found[0]
            if found
            else WorkerInfo(name="", model="", state="", pid=process.pid, serving=())
        )

    def submit(self, prompt: str = "a square", **fields: Any) -> str:
        """Admit a job; its id."""
        return self.store.submit(read_submission({"prompt": prompt} | fields)).job.id

    def job(self, job_id: str) -> Job:
        return self.store.get(job_id)

    def ended(self, job_id: str, limit_s: float = 60.0) -> Job:
        """The job once it has ended."""
        until(lambda: self.job(job_id).status in TERMINAL, limit_s, f"end of {self.job(job_id)}")
        return self.job(job_id)

    def denoising(self, job_id: str, step: int = 1) -> Job:
        """The job once it is in the middle of denoising."""

        def begun() -> bool:
            job = self.job(job_id)
            return job.stage is Stage.DENOISING and job.step >= step

        until(begun, what=f"denoising of {job_id}")
        return self.job(job_id)

    def videos(self, job_id: str = "*") -> list[Path]:
        """Every stored film of a job or all, published or not."""
        return sorted((self.settings.data_dir / "artifacts").glob(f"*/{job_id}/**/*.mp4"))

    def completions(self, job_id: str) -> int:
        """How many `completed` events the job has."""
        events = self.store.events.read(job_id, None).events
        return [event.type for event in events].count("completed")

    def close(self) -> None:
        for process in self._processes:
            process.end()


REQUEST: dict[str, Any] = {
    "model": "pocket",
    "task_type": "text",
    "width": 64,
    "height": 64,
    "num_frames": 15,
    "fps": 8,
    "seed": 7,
    "num_inference_steps": 4,
    "guidance_scale": 4.0,
    "sampler": "dpmpp_2m",
}


def read_submission(fields: dict[str, Any]) -> Submission:
    """A submission from fields of either kind; the request's have defaults."""
    of_submission = {field.name for field in dataclasses.fields(Submission)}
    own = {name: fields.pop(name) for name in list(fields) if name in of_submission}
    request = VideoRequest(**REQUEST | fields)
    basics: dict[str, Any] = {"tenant": "studio", "fingerprint": os.urandom(16).hex()}
    return Submission(request=request, **basics | own)


@pytest.fixture
def studio(
    store: JobStore, redis: Redis, job_settings: JobSettings, tmp_path: Path
) -> Iterator[Studio]:
    """A store and a starter of workers; all are killed at the end."""
    opened = Studio(store, job_settings, tmp_path)
    yield opened
    opened.close()


Running = tuple[Studio, Process]


@pytest.fixture(scope="module")
def running(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker for all tests of a module; none of them may need an empty server."""
    folder = tmp_path_factory.mktemp("studio")
    settings = JobSettings(
        redis_url=valkey_server.url,  # type: ignore[arg-type]
        data_dir=folder / "data",
    )
    redis = web_client(valkey_server.url)
    redis.flushall()
    opened = Studio(JobStore(redis, settings), settings, folder)
    yield opened, opened.worker()
    opened.close()
    redis.close()
