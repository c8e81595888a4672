"""The API over a real socket, and a hand that plays the worker with real files."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import av
import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from pydantic import SecretStr
from redis import Redis

from service.app import create_app
from service.settings import ServiceSettings
from tests.cards import plain_card, plain_catalog
from tests.service.sdks import NEWER, OLDEST, Sdk, install
from worker.jobs import transport
from worker.jobs.artifacts import (
    LAST_FRAME,
    SIDECAR,
    SPRITESHEET,
    THUMBNAIL,
    VIDEO,
    artifact_prefix,
    open_store,
)
from worker.jobs.catalog import TASKS, InputLimits, ModelCard, Span
from worker.jobs.contract import ErrorCode, Job, JobError, JobResult, Progress, Stage, Status
from worker.jobs.outcomes import Serving as ServedModel
from worker.jobs.outcomes import WorkerInfo
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore


class Valkey(Protocol):
    """What is used here of the queue server under test."""

    url: str


@dataclass
class Running:
    """An API on a loopback port."""

    url: str
    port: int
    settings: ServiceSettings

    def client(self, key: str | None = None, **options: Any) -> httpx.Client:
        """An HTTP client of this API; close it."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False, **options
        )


@contextlib.contextmanager
def serve(settings: ServiceSettings, cards: Mapping[str, ModelCard] | None) -> Iterator[Running]:
    config = uvicorn.Config(
        create_app(settings, plain_catalog() if cards is None else cards),
        log_level="critical",
        lifespan="on",
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    port = listener.getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", port, settings)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        listener.close()
        assert not thread.is_alive()


Serving = Callable[..., Running]


@pytest.fixture
def serving(job_settings: JobSettings) -> Iterator[Serving]:
    """Starts APIs: keywords are settings, `cards` replaces the catalog."""
    with contextlib.ExitStack() as stack:

        def start(cards: Mapping[str, ModelCard] | None = None, **fields: Any) -> Running:
            basics = {"redis_url": job_settings.redis_url, "data_dir": job_settings.data_dir}
            settings = ServiceSettings(**(basics | fields))
            return stack.enter_context(serve(settings, cards))

        yield start


@pytest.fixture(scope="session")
def shared_api(
    valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """One API without keys for the whole session: starting one takes longer than most tests."""
    data_dir = tmp_path_factory.mktemp("data")
    settings = ServiceSettings(redis_url=SecretStr(valkey_server.url), data_dir=data_dir)
    with serve(settings, None) as running:
        yield running


@pytest.fixture
def job_settings(valkey: Valkey, shared_api: Running) -> JobSettings:
    """Settings of the shared API, on an empty queue server."""
    return shared_api.settings


@pytest.fixture
def api(valkey: Valkey, shared_api: Running) -> Running:
    """An API without keys, on an empty queue server."""
    return shared_api


@pytest.fixture
def client(api: Running) -> Iterator[httpx.Client]:
    """A client of `api`."""
    with api.client() as found:
        yield found


@pytest.fixture
def two_cards() -> dict[str, ModelCard]:
    """The catalog, and a model with more sizes, a coarser frame rule and its own samplers."""
    cards = plain_catalog()
    wide = replace(
        cards["pocket"],
        id="wide",
        sizes=("832x480", "480x832", "1280x720"),
        frames=replace(cards["pocket"].frames, offset=1, step=4, minimum=17, maximum=81),
        default_frames=81,
        fps=(16,),
        samplers=("ddim",),
        max_prompt_chars=50,
    )
    return cards | {"wide": wide}


@pytest.fixture(scope="session")
def able_card() -> ModelCard:
    """A model that says that it can do every kind of job, in two sizes."""
    limits = InputLimits(
        max_references=4,
        max_shots=4,
        max_total_frames=100,
        first_frame_strength=Span(1, 1, 1),
        last_frame_strength=Span(0, 1, 1),
        upscale_factors=(2, 4),
        target_fps=Span(1, 60, 24),
        edits_by_words=True,
    )
    sizes, kinds = ("64x64", "128x128"), frozenset(TASKS)
    return replace(plain_card(), id="able", tasks=kinds, sizes=sizes, inputs=limits)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real MP4: 16 frames of noise that moves, 64 by 64, 8 frames a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(16):
            pixels = np.ascontiguousarray(np.roll(noise, index, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def thumbnail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real WebP picture."""
    path = tmp_path_factory.mktemp("thumbnail") / "thumbnail.webp"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(path)
    return path


class Hand:
    """Plays the worker: claims through the store and publishes real files."""

    def __init__(
        self, store: JobStore, redis: Redis, settings: JobSettings, clip: Path, thumbnail: Path
    ) -> None:
        self.store = store
        self.redis = redis
        self.artifacts = open_store(settings)
        self.clip = clip
        self.thumbnail = thumbnail

    def start(self, job_id: str) -> tuple[Job, str]:
        """Claim a queued job. returns it running, and its attempt token"""
        exec = uuid4().hex
        queue = transport.queue_name(self.store.get(job_id).request.model)
        self.redis.lrem(transport.queue_key(queue), 0, job_id)
        self.redis.zadd(transport.wip_key(queue), {f"{job_id}:{exec}": time.time() + 60})
        claim = self.store.claim(job_id, exec, "hand", transport.wip_key(queue))
        assert claim.job is not None, claim.refused
        return claim.job, exec

    def step(self, job_id: str, exec: str, step: int, total: int) -> None:
        """Report denoising progress."""
        progress = Progress(stage=Stage.DENOISING, step=step, total=total, eta_s=1.5)
        assert self.store.report(job_id, exec, progress)

    def finish(self, job_id: str) -> Job:
        """Claim and complete a queued job."""
        assert self.publish(*self.start(job_id))
        return self.store.get(job_id)

    def publish(self, job: Job, exec: str) -> bool:
        """Complete a running job; returns whether the attempt still owned it."""
        prefix = artifact_prefix(job, exec)
        sidecar = self.clip.with_name("sidecar.json")
        sidecar.write_text("{}")
        sheet, last = self.clip.with_name(SPRITESHEET), self.clip.with_name(LAST_FRAME)
        for path in (sheet, last):
            Image.new("RGB", (64, 64), (20, 40, 200)).save(path)
        wanted = job.request.return_last_frame
        result = JobResult(
            video=self.artifacts.put_file(prefix + VIDEO, self.clip),
            thumbnail=self.artifacts.put_file(prefix + THUMBNAIL, self.thumbnail),
            spritesheet=self.artifacts.put_file(prefix + SPRITESHEET, sheet),
            last_frame=self.artifacts.put_file(prefix + LAST_FRAME, last) if wanted else None,
            sidecar=self.artifacts.put_file(prefix + SIDECAR, sidecar),
            model_sha256="ab" * 32,
            stage_seconds={"denoising": 1.25, "decoding": 0.25},
            peak_memory_mb=321.5,
        )
        return self.store.complete(job.id, exec, result)

    def fail(self, job_id: str, code: ErrorCode, message: str) -> None:
        """Claim and fail a queued job."""
        _, exec = self.start(job_id)
        assert self.store.fail(job_id, exec, JobError(code=code, message=message))

    def announce(self, state: str, model: str = "pocket") -> None:
        """Put a worker on the roster."""
        info = WorkerInfo(
            name=f"hand-{model}-{state}",
            model=model,
            state=state,
            pid=os.getpid(),
            serving=(ServedModel(model=model, loaded=True),),
        )
        self.store.put_worker(info, ttl_s=30)

    @contextlib.contextmanager
    def working(self, besides: str | None = None) -> Iterator[None]:
        """Complete whatever is queued, as it comes, until the block ends.

        besides  a prompt whose jobs are left alone
        """
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.05):
                for job_id in self.store.live_ids():
                    job = self.store.get(job_id)
                    if job.status is Status.QUEUED and job.request.prompt != besides:
                        self.finish(job_id)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def hand(
    store: JobStore, redis: Redis, job_settings: JobSettings, clip: Path, thumbnail: Path
) -> Hand:
    """The worker's part, played by hand."""
    return Hand(store, redis, job_settings, clip, thumbnail)


def installed(language: str, version: str) -> Sdk:
    """An unmodified OpenAI SDK in the user's cache; offline without it skips, but not in CI."""
    try:
        return install(language, version)
    except subprocess.CalledProcessError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"the SDK cannot be installed here: {error.stderr[-300:]}")


@pytest.fixture(scope="session", params=[OLDEST, *NEWER], ids=" ".join)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Every SDK that must work, one after the other."""
    return installed(*request.param)
