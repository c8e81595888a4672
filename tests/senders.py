"""Real webhook senders for tests: `python -m worker.webhooks` with short times."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.outside import Authority

ROOT = Path(__file__).parents[1]
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cyBhbG9uZSBoZXJlIQ=="
Value = TypeVar("Value")


def until(condition: Callable[[], Value], limit_s: float = 60.0) -> Value:
    """Wait for a true value and return it."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.02)
    return value


def sender_settings(authority: Authority) -> dict[str, Any]:
    """What lets a service under test call the receivers, signed."""
    return {
        "outbound_networks": "127.0.0.0/8,::1/128",
        "outbound_http": True,
        "outbound_ca_file": authority.ca_file,
        "webhook_secrets": SECRET,
    }


class Sender:
    """One sender process, its log in a file."""

    def __init__(self, url: str, log: Path, authority: Authority) -> None:
        self._settings = {
            "redis_url": url,
            "webhook_retries_s": "0.3,0.4",
            "webhook_timeout_s": 1.5,
            "webhook_lease_s": 2,
            "webhook_per_host": 1,
            "webhook_tick_s": 0.1,
        } | sender_settings(authority)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: Any) -> None:
        """Start it and wait until it is ready; keywords replace settings."""
        chosen = {f"PRAXINO_{k.upper()}": str(v) for k, v in (self._settings | settings).items()}
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.webhooks"],
                stderr=sink,
                cwd=ROOT,
                env=os.environ | chosen,
            )
        until(lambda: "webhooks.ready" in self.log.read_text() or self._process.poll())
        assert self.is_running(), self.log.read_text()

    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
