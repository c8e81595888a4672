"""The whole service on one machine: queue server, API, workers, janitor, webhooks as children.

It only starts, watches and stops; no job passes through it.
"""

import contextlib
import fcntl
import ipaddress
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx
import structlog
from redis import Redis
from redis.exceptions import RedisError

from service.children import Child, Command, StartError, wait_for_end
from service.valkey import address_file, queue_command

log = structlog.get_logger(__name__)

TICK_S = 0.1
QUEUE_START_S = 30.0  # a large append-only file takes a while to load
EARLY_DEATHS = 3  # of one child, before the service was ever ready: the start has failed
FINAL_CODES = (2, 3)  # bad settings, model does not load: another start would end the same


@dataclass(frozen=True)
class Plan:
    """What to start. Without `redis_url` the embedded queue server is started too."""

    host: str
    port: int  # 0 picks a free one
    data_dir: Path
    workers: int
    has_keys: bool  # whether API keys are configured
    redis_url: str | None = None
    stop_grace_s: float = 30.0  # from the first stop signal until children are killed
    environment: dict[str, str] = field(default_factory=dict)  # added to every child's
    devices: tuple[str, ...] = ()  # of the workers in turn, as cuda:0; empty: by setting


def run(plan: Plan, on_ready: Callable[[str], None]) -> None:
    """Start everything, call `on_ready` with the base URL once jobs can run, stop on a signal.

    Blocks until SIGINT or SIGTERM; must be called from the main thread.
    raises StartError if the bind is refused or taken, or a child cannot stay up
    """
    check_bind(plan.host, plan.has_keys)
    plan.data_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(plan.data_dir))
        listener = stack.enter_context(bind(plan.host, plan.port))
        stop = stack.enter_context(StopSignals())
        queue, redis_url = _start_queue(plan, stack, stop)
        children = [Child(command) for command in list_commands(plan, listener, redis_url)]
        stack.callback(_stop, children, listener, plan.stop_grace_s, stop)
        for child in children:
            child.start()
        _watch([*queue, *children], plan, base_url(listener), stop, on_ready)


def _watch(
    children: list[Child],
    plan: Plan,
    url: str,
    stop: "StopSignals",
    on_ready: Callable[[str], None],
) -> None:
    ready = False
    while not stop.count:
        for child in children:
            child.tend()
        if not ready:
            _refuse_hopeless(children)
            ready = _answers(url + ("/readyz" if plan.workers else "/healthz"))
            if ready:
                on_ready(url)
        time.sleep(TICK_S)


def _refuse_hopeless(children: list[Child]) -> None:
    for child in children:
        if child.deaths >= EARLY_DEATHS or (child.deaths and child.exit_code in FINAL_CODES):
            raise StartError(
                f"{child.command.name} ended with status {child.exit_code} while starting; "
                "its own message stands above"
            )


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _stop(
    children: list[Child], listener: socket.socket, grace_s: float, stop: "StopSignals"
) -> None:
    log.info("service.stopping")
    listener.close()
    deadline = time.monotonic() + grace_s
    asked = 0
    while time.monotonic() < deadline:
        if asked < max(1, stop.count):  # a repeated signal is passed on: workers then hurry
            asked += 1
            for child in children:
                child.ask_to_stop()
        if wait_for_end(children, time.monotonic() + TICK_S):
            break
    for child in children:
        child.kill()
    log.info("service.stopped")


class StopSignals:
    """Counts SIGINT and SIGTERM while it is entered; restores the handlers afterwards."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def check_bind(host: str, has_keys: bool) -> None:
    """Refuse to serve strangers without authentication.

    raises StartError if `host` is unknown, or reaches beyond this machine while no key is set
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StartError(f"host {host!r} is unknown: {error.strerror}") from error
    addresses = {str(entry[4][0]).split("%")[0] for entry in found}
    if has_keys or all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return
    raise StartError(
        f"host {host!r} is reachable from other machines, but no API key is configured: "
        "set PRAXINO_API_KEYS, or PRAXINO_REQUIRE_KEYS=1 and make keys with `praxino keys create`, "
        "or bind to 127.0.0.1"
    )


def published_host(published: str | None) -> str | None:
    """The host of `host:port`: 127.0.0.1:8000, [::1]:8000; every address for a bare port."""
    if published is None:
        return None
    host, mark, _ = published.rpartition(":")
    return host.strip("[]") if mark and host.strip("[]") else "0.0.0.0"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises StartError if the port is taken or not allowed."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def base_url(listener: socket.socket) -> str:
    """How a client on this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data folder alone; raises StartError if another service has it."""
    with (data_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(f"data folder {data_dir} is in use by another service") from error
        yield


def list_commands(plan: Plan, listener: socket.socket, redis_url: str) -> list[Command]:
    """What is started beside the queue server: API, janitor, webhook sender and workers."""
    environment = {
        **os.environ,
        **plan.environment,
        "PRAXINO_REDIS_URL": redis_url,
        "PRAXINO_DATA_DIR": str(plan.data_dir.resolve()),
    }
    if plan.workers > 1:
        share = max(1, (os.cpu_count() or 1) // plan.workers)
        environment.setdefault("OMP_NUM_THREADS", str(share))
    descriptor = listener.fileno()
    api = (sys.executable, "-m", "service.cli", "api", "--fd", str(descriptor))
    janitor = (sys.executable, "-m", "worker.janitor")
    webhooks = (sys.executable, "-m", "worker.webhooks")
    return [
        Command("api", api, environment, pass_fds=(descriptor,)),
        Command("janitor", janitor, environment),
        Command("webhooks", webhooks, environment),
        *(worker_command(plan, index, environment) for index in range(plan.workers)),
    ]


def worker_command(plan: Plan, index: int, environment: dict[str, str]) -> Command:
    """One worker of several, on the device whose turn it is."""
    if plan.devices:
        device = plan.devices[index % len(plan.devices)]
        environment = environment | {"PRAXINO_DEVICE": device}
    return Command(f"worker-{index}", (sys.executable, "-m", "worker"), environment)


def _start_queue(
    plan: Plan, stack: contextlib.ExitStack, stop: StopSignals
) -> tuple[list[Child], str]:
    if plan.redis_url is not None:
        return [], plan.redis_url
    # A socket path holds at most 107 bytes, so it lives in a short folder, open to us alone.
    folder = Path(tempfile.mkdtemp(prefix="praxino-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    data = plan.data_dir / "queue"
    data.mkdir(mode=0o700, exist_ok=True)
    address = folder / "queue.sock"
    child = Child(queue_command(data.resolve(), address))
    stack.callback(_stop_queue, child)
    child.start()
    _await_queue(child, address, stop)
    url = f"unix://{address}"
    note = address_file(plan.data_dir)
    stack.callback(note.unlink, missing_ok=True)
    note.write_text(url, encoding="utf-8")
    return [child], url


def _await_queue(child: Child, address: Path, stop: StopSignals) -> None:
    deadline = time.monotonic() + QUEUE_START_S
    with Redis(unix_socket_path=str(address), socket_timeout=1.0) as client:
        while not stop.count:
            with contextlib.suppress(RedisError):
                client.ping()
                return
            if not child.running() or time.monotonic() > deadline:
                raise StartError("the embedded queue server did not start; see valkey.log")
            time.sleep(0.02)


def _stop_queue(child: Child) -> None:
    child.ask_to_stop()
    wait_for_end([child], time.monotonic() + 10.0)
    child.kill()
