"""The queue server behind TLS, with the users of `deploy/users.acl` and no other rights.

Every process runs, so that a command which nobody granted is found before an operator finds it.
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from tests.conftest import Valkey, valkey_binary
from tests.outside import Authority, Receiver
from tests.senders import SECRET, sender_settings, until
from tests.tunnel import tunnel
from tests.worker.shapes import write_weights
from worker.jobs import keys
from worker.jobs.connection import web_client, worker_client

ROOT = Path(__file__).parents[1]
USERS = ROOT / "deploy" / "users.acl"
PASSWORDS = {"service": "kept-by-the-service", "worker": "kept-by-the-worker"}
API_KEY = "sk-a-key-that-nobody-else-knows"
PROMPT = "an unannounced zeppelin pace=0.01"
BASE = {"size": "64x64", "fps": 8}  # films of the base alone
# What a worker has no business with: who may call, and what is signed with.
WITHHELD = {
    keys.API_KEY,
    keys.API_KEYS,
    keys.SECRETS,
    keys.LINK_SECRET,
    keys.GONE,
    keys.DEAD,
    keys.DELIVERIES,
    keys.IDEMPOTENCY,
    keys.FINGERPRINT,
}


def users() -> str:
    """The file with passwords put in, and a user for the test itself."""
    text = USERS.read_text(encoding="utf-8")
    for role, password in PASSWORDS.items():
        digest = hashlib.sha256(password.encode()).hexdigest()
        text = text.replace(f"#{role.upper()}_SHA256", f"#{digest}")
    return text + "user test on nopass ~* &* +@all\n"


class Guarded(Valkey):
    """A server that knows only the users of a file."""

    def __init__(self, folder: Path, acl: str) -> None:
        super().__init__(folder, valkey_binary())
        (folder / "users.acl").write_text(acl)
        self.options = {"aclfile": str(folder / "users.acl")}
        self.url = f"unix://test@{self.socket}"

    def as_user(self, role: str) -> str:
        """How a role reaches it without TLS."""
        return f"unix://praxino-{role}:{PASSWORDS[role]}@{self.socket}"


@dataclass(frozen=True)
class Place:
    """A guarded server and the TLS in front of it."""

    valkey: Guarded
    port: int
    ca_file: Path

    def url(self, role: str) -> str:
        """How a process of a role reaches the server."""
        user = f"praxino-{role}:{PASSWORDS[role]}"
        return f"rediss://{user}@127.0.0.1:{self.port}/0?ssl_ca_certs={self.ca_file}"


@pytest.fixture(scope="module")
def place(authority: Authority) -> Iterator[Place]:
    """A guarded server behind TLS."""
    folder = Path(tempfile.mkdtemp(prefix="praxino-"))
    server = Guarded(folder, users())
    server.start()
    try:
        with tunnel(server.socket, authority.certificate) as port:
            yield Place(server, port, authority.ca_file)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Fleet:
    """Processes of a whole service, each with the user and the settings of its role."""

    def __init__(self, place: Place, folder: Path, authority: Authority) -> None:
        self.place = place
        self.folder = folder
        weights = folder / "weights"
        write_weights(weights)
        self._common = {
            "data_dir": folder / "data",
            "model_loader": "tests.worker.shapes:load_model",
            "weights_dir": weights,
            "rehearse": False,
            "drain_s": 1,  # less than a film takes
            "janitor_tick_s": 0.2,
            "sweep_every_s": 0.3,
            "api_keys": f"studio:{API_KEY}",
            **sender_settings(authority),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, role: str, *words: str, fds: tuple[int, ...] = ()) -> None:
        fields = self._common | {"redis_url": self.place.url(role)}
        environment = {f"PRAXINO_{name.upper()}": str(value) for name, value in fields.items()}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *words],
                env=os.environ | environment,
                pass_fds=fds,
                stderr=log,
                cwd=ROOT,
            )

    def stop(self, name: str) -> int:
        process = self.processes[name]
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait(30)

    def written(self) -> str:
        """All that they logged."""
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def arguments(self) -> str:
        """The command lines of all processes and their children."""
        found, waiting = b"", [process.pid for process in self.processes.values()]
        for pid in waiting:
            found += Path(f"/proc/{pid}/cmdline").read_bytes()
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found.decode()


@pytest.fixture
def fleet(place: Place, authority: Authority, tmp_path: Path) -> Iterator[Fleet]:
    opened = Fleet(place, tmp_path, authority)
    yield opened
    opened.close()


def test_a_whole_service_works_behind_tls_with_no_more_than_its_rights(
    fleet: Fleet, place: Place, receiver: Receiver
) -> None:
    with Redis.from_url(place.valkey.url) as redis:
        redis.acl_log_reset()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        number = listener.fileno()
        api = ("service.cli", "api", "--fd", str(number))
        fleet.start("api", "service", *api, fds=(number,))
        for name in ("janitor", "webhooks"):
            fleet.start(name, "service", f"worker.{name}")
        fleet.start("worker", "worker", "worker")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = stack.enter_context(httpx.Client(base_url=url, timeout=120, trust_env=False))
        client.headers["Authorization"] = f"Bearer {API_KEY}"
        until(lambda: client.get("/readyz").status_code == 200, 120)
        exercise(client, receiver)
        shown = fleet.arguments()
        requeued = client.post("/v1/videos", json=BASE | {"prompt": "pace=1"}).json()["id"]
        until(lambda: stage(client, requeued) == "denoising")
        assert fleet.stop("worker") == 0
        until(lambda: stage(client, requeued) == "queued")
        assert client.delete(f"/v1/videos/{requeued}").status_code == 200
        assert operate(place, "keys", "create", "studio").startswith("praxino_")
        assert requeued not in operate(place, "jobs", "--everyone", "--json")
        operate(place, "queue", "pause")
        operate(place, "queue", "resume")
        for name in ("api", "janitor", "webhooks"):
            assert fleet.stop(name) in (0, -signal.SIGTERM), name
    with Redis.from_url(place.valkey.url) as redis:
        denied = [(e["username"], e["reason"], e["object"]) for e in redis.acl_log()]
    assert denied == []
    for secret in (*PASSWORDS.values(), API_KEY, SECRET, PROMPT, "zeppelin"):
        assert secret not in shown, "an argument"
        assert secret not in fleet.written(), "a log"


def operate(place: Place, *words: str) -> str:
    """What an operator's command says."""
    command = (sys.executable, "-m", "service.cli", *words)
    environment = os.environ | {"PRAXINO_REDIS_URL": place.url("service")}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return answer.stdout


def exercise(client: httpx.Client, receiver: Receiver) -> None:
    """Nearly everything that callers do."""
    order = BASE | {"prompt": PROMPT, "seed": 5, "callback_url": receiver.url()}
    done = client.post("/v1/videos", json=order, headers={"Idempotency-Key": "k"}).json()["id"]
    assert client.post("/v1/videos", json=order, headers={"Idempotency-Key": "k"}).is_success
    with client.stream("GET", f"/v1/videos/{done}/events") as stream:
        assert "data: [DONE]" in list(stream.iter_lines())
    assert client.get(f"/v1/videos/{done}").json()["status"] == "completed"
    assert client.get(f"/v1/videos/{done}/content").content[4:8] == b"ftyp"
    assert client.post("/v1/videos", json=order).json()["cached"]
    running = client.post("/v1/videos", json=BASE | {"prompt": "pace=0.3"}).json()["id"]
    until(lambda: stage(client, running) == "denoising")
    assert client.post(f"/v1/videos/{running}/cancel").is_success
    until(lambda: stage(client, running) == "done")
    assert client.delete(f"/v1/videos/{running}").is_success
    picture = BytesIO()
    Image.new("RGB", (64, 64), (20, 40, 200)).save(picture, "PNG")
    sent = {"file": ("a.png", picture.getvalue(), "image/png")}
    kept = client.post("/v1/files", files=sent, data={"purpose": "user_data"})
    assert kept.is_success, kept.text
    assert client.delete(f"/v1/files/{kept.json()['id']}").is_success
    for path in ("/v1/videos?limit=2", "/v1/files", "/v1/videos/models", "/metrics"):
        assert client.get(path).is_success, path
    until(receiver.requests)


def stage(client: httpx.Client, job_id: str) -> str:
    return str(client.get(f"/v1/videos/{job_id}").json()["stage"])


FORBIDDEN = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET dir", "CONFIG SET dir /tmp", "KEYS *",
    "SHUTDOWN NOSAVE", "MONITOR", "ACL LIST", "ACL WHOAMI", "CLIENT LIST",
    "CLIENT KILL TYPE normal", "SAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "FUNCTION LIST",
    "SCRIPT FLUSH", "MODULE LIST", "SLOWLOG GET", "SWAPDB 0 1", "RENAME px:live px:dead",
    "RESTORE px:a 0 b", "DUMP px:live", "MIGRATE a 1 b 0 1", "SORT px:live", "GET other",
    "SET other 1", "PUBLISH other 1", "SUBSCRIBE other", "PSUBSCRIBE *",
)  # fmt: skip


@pytest.mark.parametrize("role", sorted(PASSWORDS))
def test_nobody_may_do_what_no_part_of_the_service_does(place: Place, role: str) -> None:
    with Redis.from_url(place.valkey.as_user(role)) as redis:
        assert redis.ping()
        for command in FORBIDDEN:
            with pytest.raises(NoPermissionError):
                redis.execute_command(*command.split())
        # Nor in a script, whatever it says of its keys.
        with pytest.raises(ResponseError, match="No permissions to access a key"):
            redis.eval("return redis.call('GET', 'other')", 0)


def test_a_worker_may_not_see_who_may_call_nor_what_is_signed_with(place: Place) -> None:
    with Redis.from_url(place.valkey.as_user("worker")) as redis:
        for key in WITHHELD:
            for command in ("GET", "HGETALL", "DEL"):
                with pytest.raises(NoPermissionError):
                    redis.execute_command(command, key + "x" if key.endswith(":") else key)
        with pytest.raises(NoPermissionError):  # nor the names of keys, which say who is there
            redis.execute_command("SCAN", 0)


def test_every_key_is_granted_to_workers_or_withheld_on_purpose() -> None:
    line = USERS.read_text(encoding="utf-8").splitlines()[2]
    granted = {word[1:].removesuffix("*") for word in line.split() if word.startswith("~")}
    ours = {
        value
        for value in vars(keys).values()
        if isinstance(value, str) and value.startswith(keys.PREFIX) and value != keys.PREFIX
    }
    assert ours - granted - WITHHELD - {keys.WAKE} == set(), "say it in deploy/users.acl or here"
    assert not granted & WITHHELD


def test_every_command_of_a_script_is_granted_to_both() -> None:
    folder = ROOT / "worker" / "jobs" / "lua"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.lua"))
    called = {name.lower() for name in re.findall(r"'([A-Z]{3,})'", text)}
    called -= {"desc", "maxlen", "withscores", "limit", "byscore", "left", "right", "match"}
    for line in USERS.read_text(encoding="utf-8").splitlines()[1:]:
        granted = {word[1:] for word in line.split() if word.startswith("+")}
        assert called - granted == set(), line.split()[1]


def test_the_file_holds_no_password_and_no_server_takes_it_without() -> None:
    folder = Path(tempfile.mkdtemp(prefix="praxino-"))
    try:
        command = (valkey_binary(), "--port", "0", "--aclfile", USERS, "--dir", folder)
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert answer.returncode != 0
        assert "ACL" in answer.stdout
    finally:
        shutil.rmtree(folder)


def test_strangers_and_wrong_certificates_are_refused(
    place: Place, tmp_path: Path, authority: Authority
) -> None:
    url = place.url("service")
    for client in (web_client, worker_client):
        with client(url) as redis:
            assert redis.ping()
    unknown = url.replace(f"ssl_ca_certs={place.ca_file}", "")
    plain = f"redis://127.0.0.1:{place.port}/0"
    elsewhere = url.replace("127.0.0.1", "localhost")  # not in the certificate
    wrong = url.replace(PASSWORDS["service"], "guessed")
    for refused in (unknown, plain, elsewhere, wrong):
        with web_client(refused) as redis, pytest.raises(RedisConnectionError):
            redis.ping()


def test_a_server_may_ask_for_a_certificate_of_ours(place: Place, authority: Authority) -> None:
    with tunnel(place.valkey.socket, authority.certificate, authority.ca_file) as port:
        url = place.url("service").replace(str(place.port), str(port))
        with web_client(url) as redis, pytest.raises(RedisConnectionError):
            redis.ping()
        own = f"&ssl_certfile={authority.certificate}&ssl_keyfile={authority.certificate}"
        with web_client(url + own) as redis:
            assert redis.ping()
