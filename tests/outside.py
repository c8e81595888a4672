"""Somebody else's servers, seen from the test: started, stopped, killed, and what they received."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import trustme

SCRIPT = Path(__file__).with_name("receiver.py")
HOSTS = ("receiver.example", "127.0.0.1")


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own, and what it certified."""

    ca_file: Path
    certificate: Path  # of HOSTS, with its key


def found_authority(folder: Path) -> Authority:
    """Make an authority and one certificate."""
    ca, found = trustme.CA(), Authority(folder / "ca.pem", folder / "server.pem")
    ca.cert_pem.write_to_path(str(found.ca_file))
    ca.issue_cert(*HOSTS).private_key_and_cert_chain_pem.write_to_path(str(found.certificate))
    return found


@dataclass(frozen=True)
class Request:
    """What a receiver was sent."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    at: float  # Unix seconds


class Receiver:
    """A web server in a process of its own; its behaviour is described in `receiver.py`."""

    def __init__(self, folder: Path, certificate: Path | None) -> None:
        self.folder = folder
        self.port = 0
        self._certificate = certificate
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port that it had before."""
        more = [] if self._certificate is None else [str(self._certificate)]
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(SCRIPT), str(self.folder), str(self.port), *more],
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.defpath},
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def reset(self) -> None:
        """Forget what was received and what to answer; start it if it is down."""
        for name in ("requests.jsonl", "answers"):
            (self.folder / name).unlink(missing_ok=True)
        if self._process is None:
            self.start()

    def stop(self) -> None:
        """Kill it; connections to its port are refused from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def url(self, path: str = "answers", host: str = "127.0.0.1", scheme: str | None = None) -> str:
        """Where a path of this server is."""
        own = "http" if self._certificate is None else "https"
        return f"{scheme or own}://{host}:{self.port}/{path}"

    def answer(self, *words: object) -> None:
        """What the next posts to /answers get; see `receiver.py`."""
        (self.folder / "answers").write_text(" ".join(map(str, words)))

    def requests(self) -> list[Request]:
        """Everything received so far, oldest first."""
        path = self.folder / "requests.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        return [Request(**entry | {"body": base64.b64decode(entry["body"])}) for entry in entries]
