"""The sign of life of a process that serves no port: a small file, written over while it works.

For containers: `python -m worker.pulse worker --ready` asks, cheaply and without the queue server,
whose absence must not make anybody restart a worker. One process of each role a host: several
share the file.
"""

import argparse
import contextlib
import os
import socket
import sys
import time
from pathlib import Path

ROLES = ("worker", "janitor", "webhooks")
READY = ("idle", "busy", "resting", "draining")
SILENT_S = 60.0  # an outage of the queue server may delay a beat by half of it
WIDTH = 16  # of the written state: always the same bytes of the file, so that no reader sees half


class Pulse:
    """Beats of one process. A full or missing disk loses beats, and nothing else."""

    def __init__(self, data_dir: Path, role: str) -> None:
        self._file = pulse_file(data_dir, role)
        self._state = "starting"

    def beat(self, state: str | None = None) -> None:
        """Be seen alive, in a new state or the last one."""
        self._state = state or self._state
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            number = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(number, self._state.ljust(WIDTH).encode(), 0)
                os.utime(number)
            finally:
                os.close(number)

    def stop(self) -> None:
        """Leave no sign of life behind."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def pulse_file(data_dir: Path, role: str) -> Path:
    """Where a role's sign of life is on this host."""
    return data_dir / "pulse" / f"{role}-{socket.gethostname()}"


def find_fault(file: Path, *, ready: bool) -> str | None:
    """What is wrong with the process that writes the file, if anything.

    ready  whether it must also have loaded what it needs
    """
    try:
        silent_s = time.time() - file.stat().st_mtime
        state = file.read_text("ascii").strip()
    except (OSError, ValueError):
        return "no sign of life"
    if silent_s > SILENT_S:
        return f"silent for {silent_s:.0f} s, more than {SILENT_S:.0f}"
    if ready and state not in READY:
        return f"not ready: {state}"
    return None


def main(arguments: list[str]) -> int:
    """Exit status 0 if the process of that role on this host is well; says why not."""
    parser = argparse.ArgumentParser(prog="python -m worker.pulse")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--ready", action="store_true", help="only if it has loaded its model")
    asked = parser.parse_args(arguments)
    # Asked every few seconds in a container of its own: no settings class, which costs a second.
    data_dir = Path(os.environ.get("PRAXINO_DATA_DIR") or "data")
    fault = find_fault(pulse_file(data_dir, asked.role), ready=asked.ready)
    if fault is not None:
        sys.stderr.write(f"{asked.role}: {fault}\n")
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
