"""Docker and its compose plugin as found on PATH, and one deployment of this repository on it."""

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMAGES = ("queue", "service", "worker")


class EngineError(Exception):
    """A command of the engine failed; the message is what it said."""


def run(*words: str, limit_s: float = 120.0, environment: dict[str, str] | None = None) -> str:
    """What a command prints. raises EngineError"""
    try:
        answer = subprocess.run(
            words,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{' '.join(words)}: {error}") from error
    if answer.returncode != 0:
        raise EngineError(f"{' '.join(words)}: {(answer.stderr or answer.stdout)[-3000:]}")
    return answer.stdout.strip()


def check_engine() -> dict[str, str]:
    """What is there to prove on, by version. raises EngineError where there is nothing"""
    wanted = (
        ("engine", ("docker", "version", "-f", "{{.Server.Version}}")),
        ("compose", ("docker", "compose", "version", "--short")),
    )
    found = {}
    for name, words in wanted:
        try:
            found[name] = run(*words)
        except EngineError as error:
            raise EngineError(
                f"needs a Docker engine with Compose v2, and `docker` on PATH to reach it; {error}"
            ) from error
    return found


class Deployment:
    """The compose file under names and a port of its own, so that it meets no other deployment.

    Settings are those given here only: neither a `.env` file nor the caller's are read.
    """

    def __init__(self, build_s: float, **settings: str) -> None:
        self._build_s = build_s
        self.name = f"praxino-proof-{os.getpid()}"
        self.port = free_port()
        own = {
            "COMPOSE_PROJECT_NAME": self.name,
            "PRAXINO_TAG": self.name,
            "PRAXINO_PUBLISH": f"127.0.0.1:{self.port}",
        }
        foreign = ("PRAXINO_", "COMPOSE_", "QUEUE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self._environment = kept | own | settings
        self.url = f"http://127.0.0.1:{self.port}"

    def set(self, **settings: str) -> None:
        """Settings from the next `up` on."""
        self._environment |= settings

    def compose(self, *words: str, limit_s: float = 300.0) -> str:
        """`docker compose …` on this deployment. raises EngineError"""
        command = ("docker", "compose", "--env-file", os.devnull, *words)
        return run(*command, limit_s=limit_s, environment=self._environment)

    def build(self, target: str) -> float:
        """Build one image; the seconds it took."""
        began = time.monotonic()
        self.compose("build", target, limit_s=self._build_s)
        return round(time.monotonic() - began, 1)

    def up(self, *words: str) -> float:
        """Start what is not running and wait until all of it is healthy; the seconds it took."""
        began = time.monotonic()
        wait = ("--wait", "--wait-timeout", "900")
        self.compose("up", "-d", *wait, *words, limit_s=self._build_s + 900)
        return round(time.monotonic() - began, 1)

    def image(self, target: str) -> str:
        """The tag of one of its images."""
        return f"praxino-{target}:{self.name}"

    def size_mb(self, target: str) -> float:
        """Megabytes of an image, unpacked."""
        size = run("docker", "image", "inspect", "-f", "{{.Size}}", self.image(target))
        return round(int(size) / 1e6, 1)

    def try_image(self, target: str, *words: str) -> str:
        """What a command prints in a fresh container of an image, without a network."""
        flags = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp")
        return run("docker", "run", *flags, self.image(target), *words)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's running containers."""
        return self.compose("ps", "-q", service).split()

    def facts(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        found: list[dict[str, Any]] = json.loads(run("docker", "inspect", container))
        return found[0]

    def remove(self) -> None:
        """Everything of it, images included. Safe to repeat."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        for target in IMAGES:
            with contextlib.suppress(EngineError):  # one that was never built
                run("docker", "image", "rm", "--force", self.image(target))


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        return int(taker.getsockname()[1])
