"""The embedded queue server and the supervision of child processes, with real processes."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from service import children
from service.children import Child, Command, StartError, backoff_s
from service.standalone import (
    Plan,
    base_url,
    bind,
    check_bind,
    list_commands,
    locked,
    published_host,
)
from service.valkey import queue_command

ROOT = Path(__file__).parents[2]


def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def python_child(code: str, name: str = "sleeper") -> Child:
    return Child(Command(name, (sys.executable, "-c", code), dict(os.environ)))


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[tuple[Child, Redis]]:
    data = tmp_path / "queue"
    data.mkdir()
    folder = Path("/tmp") / f"praxino-test-{os.getpid()}"
    folder.mkdir(mode=0o700)
    child = Child(queue_command(data, folder / "queue.sock"))
    child.start()
    client = Redis(unix_socket_path=str(folder / "queue.sock"))
    try:
        eventually(lambda: answers(client))
        yield child, client
    finally:
        client.close()
        child.kill()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except Exception:
        return False


def test_embedded_queue_keeps_everything_and_evicts_nothing(queue: tuple[Child, Redis]) -> None:
    _, client = queue
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
    assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_embedded_queue_listens_on_no_port(queue: tuple[Child, Redis]) -> None:
    child, client = queue
    assert client.config_get("port")["port"] == "0"
    mode = stat.S_IMODE(os.stat(client.config_get("unixsocket")["unixsocket"]).st_mode)
    assert mode & 0o077 == 0
    listening = Path(f"/proc/{child.pid}/net/tcp").read_text().splitlines()[1:]
    inodes = {line.split()[9] for line in listening if line.split()[3] == "0A"}
    sockets = {os.readlink(fd) for fd in Path(f"/proc/{child.pid}/fd").iterdir()}
    assert not {f"socket:[{inode}]" for inode in inodes} & sockets


def test_killed_queue_server_returns_with_every_row(queue: tuple[Child, Redis]) -> None:
    child, client = queue
    client.set("px:row", "kept")
    time.sleep(1.1)  # everysec: what is older than a second is on disk
    before = child.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: not child.running())
    began = time.monotonic()
    eventually(lambda: (child.tend(), answers(client))[1], 3.0)
    assert time.monotonic() - began < 3.0
    assert child.pid != before
    assert client.get("px:row") == b"kept"


def test_stopped_queue_server_has_written_its_last_command(
    queue: tuple[Child, Redis], tmp_path: Path
) -> None:
    child, client = queue
    client.set("px:last", "kept")
    child.ask_to_stop()  # at once: less than a second after the write
    eventually(lambda: not child.running())
    child.start()
    eventually(lambda: answers(client))
    assert client.get("px:last") == b"kept"


def test_dead_child_is_started_again_at_once_then_later_and_later() -> None:
    assert [backoff_s(deaths) for deaths in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 2.0]
    assert backoff_s(50) == children.LONGEST_DELAY_S
    child = python_child("raise SystemExit(3)")
    child.start()
    seen: list[tuple[int | None, float]] = [(child.pid, time.monotonic())]  # changes of process

    def third() -> bool:
        child.tend()
        if child.pid != seen[-1][0]:
            seen.append((child.pid, time.monotonic()))
        return len(seen) == 4

    eventually(third, 60.0)
    child.kill()
    assert [pid is None for pid, _ in seen] == [False, False, True, False]
    assert seen[3][1] - seen[2][1] >= backoff_s(2) / 2
    assert child.deaths == 2


def test_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from service.children import Child, Command\n"
        "child = Child(Command('c', (sys.executable, '-c', 'import time; time.sleep(60)'),"
        " dict(os.environ)))\n"
        "child.start(); print(child.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        (sys.executable, "-c", code),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    lines = (line for line in parent.stdout if line.strip().isdigit())
    pid = int(next(lines))
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not alive(pid), 5.0)


def test_interrupt_reaches_only_the_parent() -> None:
    child = python_child("import time; time.sleep(60)")
    child.start()
    try:
        assert child.pid is not None
        assert os.getsid(child.pid) != os.getsid(0)
    finally:
        child.kill()
    assert not child.running()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_keys_nobody_else_may_reach_the_service(host: str) -> None:
    with pytest.raises(StartError, match="no API key is configured"):
        check_bind(host, has_keys=False)
    check_bind(host, has_keys=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_bind(host, has_keys=False)


@pytest.mark.parametrize(
    ("published", "host"),
    [
        (None, None),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("8000", "0.0.0.0"),
        (":8000", "0.0.0.0"),
    ],
)
def test_a_forwarded_port_counts_as_the_address_it_is_reached_at(
    published: str | None, host: str | None
) -> None:
    assert published_host(published) == host


def test_unknown_host_is_named() -> None:
    with pytest.raises(StartError, match=r"nowhere\.invalid"):
        check_bind("nowhere.invalid", has_keys=True)


def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=str(port)):
            bind("127.0.0.1", port)


def test_any_address_is_reached_through_loopback() -> None:
    with bind("0.0.0.0", 0) as listener:
        assert base_url(listener).startswith("http://127.0.0.1:")


def test_two_services_cannot_share_a_data_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StartError, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("devices", "workers", "expected"),
    [
        (("cuda:0", "cuda:1"), 3, ["cuda:0", "cuda:1", "cuda:0"]),
        ((), 2, ["cpu", "cpu"]),
    ],
)
def test_workers_are_dealt_out_to_the_devices_in_turn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: tuple[str, ...],
    workers: int,
    expected: list[str],
) -> None:
    monkeypatch.setenv("PRAXINO_DEVICE", "cpu")
    plan = Plan("127.0.0.1", 0, tmp_path, workers, has_keys=False, devices=devices)
    with bind("127.0.0.1", 0) as listener:
        commands = list_commands(plan, listener, "redis://host")
    found = [each.environment["PRAXINO_DEVICE"] for each in commands if "worker-" in each.name]
    assert found == expected
