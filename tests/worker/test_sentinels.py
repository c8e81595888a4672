"""A queue server with a replica and sentinels: whoever waits for the primary finds the new one."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import pytest
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tests.conftest import Valkey, valkey_binary
from tests.worker.conftest import Studio, until
from worker.jobs import transport
from worker.jobs.connection import web_client, worker_client
from worker.jobs.contract import Status
from worker.jobs.sentinels import read_sentinels
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

NAME = "films"
PASSWORD = "kept"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Peer(Valkey):
    """A server that is one of several, so that it listens on a port."""

    def __init__(self, folder: Path, of: int | None = None) -> None:
        folder.mkdir()
        super().__init__(folder, valkey_binary())
        self.port = free_port()
        self.options = {"port": str(self.port), "requirepass": PASSWORD, "masterauth": PASSWORD}
        self.options |= {"replicaof": f"127.0.0.1 {of}"} if of else {}
        self.options |= {"repl-diskless-sync-delay": "0"}
        self.url = f"unix://:{PASSWORD}@{self.socket}"


SENTINEL = """
port {port}
dir {folder}
sentinel monitor films 127.0.0.1 {primary} 2
sentinel auth-pass films {password}
sentinel down-after-milliseconds films 2000
sentinel failover-timeout films 3000
"""


class Trio:
    """A primary, a replica of it, and two sentinels that agree on who is what."""

    def __init__(self, folder: Path) -> None:
        self.primary = Peer(folder / "a")
        self.replica = Peer(folder / "b", self.primary.port)
        self._folder = folder
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []

    @property
    def url(self) -> str:
        """One of those it names is nobody."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *self._ports))
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{NAME}"

    def start(self) -> None:
        self.primary.start()
        self.replica.start()
        for number in range(2):
            port, folder = free_port(), self._folder / f"s{number}"
            folder.mkdir()
            config = folder / "sentinel.conf"
            facts = {"port": port, "folder": folder, "primary": self.primary.port}
            config.write_text(SENTINEL.format(**facts, password=PASSWORD))
            command = (str(valkey_binary()), str(config), "--sentinel")
            with (folder / "log").open("wb") as log:
                self._sentinels.append(subprocess.Popen(command, stdout=log))
            self._ports.append(port)
        until(self._settled, what="sentinels that know each other and the replica")

    def _settled(self) -> bool:
        try:
            found = [self._ask(port) for port in self._ports]
        except OSError:
            return False
        return all(each["num-slaves"] == each["num-other-sentinels"] == 1 for each in found)

    def _ask(self, port: int) -> dict[str, object]:
        with socket.create_connection(("127.0.0.1", port), 1):
            pass
        with Redis(port=port) as redis:
            masters: dict[str, dict[str, object]] = redis.sentinel_masters()
        return masters[NAME]

    def replicated(self) -> None:
        """Wait until the replica holds what the primary does."""
        with Redis.from_url(self.primary.url) as redis:
            assert redis.wait(1, 30_000) == 1

    def fail_over(self) -> None:
        """Have the replica take the primary's place, which becomes its replica."""
        until(self._told, what="a fail-over that sentinels agree to")

    def _told(self) -> bool:
        with Redis(port=self._ports[0]) as redis:
            try:
                redis.execute_command("SENTINEL", "FAILOVER", NAME)
            except ResponseError:  # it does not know yet whether the replica is good
                return False
        return True

    def promoted(self) -> None:
        """Wait until the replica is the primary."""
        until(self._leads, what="another primary")

    def _leads(self) -> bool:
        try:
            with Redis.from_url(self.replica.url) as redis:
                return bool(redis.role()[0] == b"master")
        except RedisConnectionError:  # whoever takes over ends all connections
            return False

    def stop(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait(10)
        for peer in (self.primary, self.replica):
            peer.kill()


@pytest.fixture
def trio() -> Iterator[Trio]:
    folder = Path(tempfile.mkdtemp(prefix="praxino-"))
    found = Trio(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("how", ["killed", "demoted"])
def test_jobs_that_run_and_wait_survive_their_primary(trio: Trio, tmp_path: Path, how: str) -> None:
    settings = JobSettings(redis_url=trio.url, data_dir=tmp_path / "data")  # type: ignore[arg-type]
    with ExitStack() as stack:
        redis = stack.enter_context(worker_client(trio.url))
        studio = Studio(JobStore(redis, settings), settings, tmp_path)
        stack.callback(studio.close)
        studio.worker(lease_s=20)
        studio.start("worker.janitor", lease_s=20)
        running, waiting = studio.submit("pace=1"), studio.submit("a square")
        studio.denoising(running)
        trio.replicated()
        trio.primary.kill() if how == "killed" else trio.fail_over()
        trio.promoted()
        for job_id in (running, waiting):
            job = studio.ended(job_id, 120)
            assert (job.status, job.attempt) == (Status.COMPLETED, 1)
            assert studio.completions(job_id) == 1
            assert len(studio.videos(job_id)) == 1
        assert studio.ended(studio.submit(), 60).status is Status.COMPLETED


def test_an_idle_worker_outlives_the_demotion_of_its_primary(trio: Trio, tmp_path: Path) -> None:
    settings = JobSettings(redis_url=trio.url, data_dir=tmp_path / "data")  # type: ignore[arg-type]
    with ExitStack() as stack:
        redis = stack.enter_context(worker_client(trio.url))
        studio = Studio(JobStore(redis, settings), settings, tmp_path)
        stack.callback(studio.close)
        worker = studio.worker()
        trio.replicated()
        trio.fail_over()
        trio.promoted()
        assert studio.ended(studio.submit(), 60).status is Status.COMPLETED
        assert studio.info(worker).loads == 1


def test_who_waits_at_a_server_that_becomes_a_replica_looks_for_another(valkey: Valkey) -> None:
    """As an operator's REPLICAOF does it, without a sentinel to end the connections."""
    with worker_client(valkey.url) as waiting, Redis.from_url(valkey.url) as redis:
        queues = [transport.JsonQueue(transport.queue_name("pocket"), waiting)]
        timer = Timer(0.5, redis.replicaof, ("127.0.0.1", free_port()))
        timer.start()
        try:
            with pytest.raises(RedisConnectionError, match="no longer the primary"):
                transport.JsonQueue.dequeue_any(queues, 30, waiting)
        finally:
            timer.join()
            redis.replicaof("NO", "ONE")


def test_the_web_side_gives_up_soon_when_nobody_is_primary() -> None:
    hosts = ",".join(f"127.0.0.1:{free_port()}" for _ in range(3))
    began = time.monotonic()
    with (
        web_client(f"redis+sentinel://{hosts}/{NAME}") as redis,
        pytest.raises(RedisConnectionError),
    ):
        redis.ping()
    assert time.monotonic() - began < 10


def test_a_url_of_sentinels_is_read() -> None:
    found = read_sentinels(
        "rediss+sentinel://me:p%40ss@one:1,[::1],three/films/2"
        "?sentinel_password=other&ssl_ca_certs=/ca.pem"
    )
    assert found is not None
    assert found.hosts == (("one", 1), ("::1", 26379), ("three", 26379))
    assert found.name == "films"
    assert found.credentials == {"password": "other"}
    assert found.server == "rediss://me:p%40ss@primary/2?ssl_ca_certs=%2Fca.pem"
    assert read_sentinels("redis://host") is None
    with web_client("rediss+sentinel://one/films?ssl_ca_certs=/ca.pem") as client:
        assert client.connection_pool.connection_kwargs["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize("rest", ["", "host", "host/", "/name", "host:x/name", "h,/name", "h/n/x"])
def test_a_url_that_names_no_sentinels_is_refused_without_being_quoted(rest: str) -> None:
    with pytest.raises(ValidationError, match="must name") as caught:
        JobSettings(redis_url=f"redis+sentinel://:hunter2@{rest}")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
