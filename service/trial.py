"""A whole service for a while: `praxino up` as a child, on a free port, in a folder of its own.

For the demonstration and the benchmark. It never touches a configured queue server or data folder.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.children import StartError, tie_to_parent

READY_LINE = re.compile(r"^Praxino is ready at (http://\S+)$")
OWN_SETTINGS = ("PRAXINO_REDIS_URL", "PRAXINO_DATA_DIR", "PRAXINO_API_KEYS")
SEPARATELY = {"PRAXINO_RESULT_CACHE": "0"}  # what is measured is to be made each time
STOP_S = 45.0


@contextlib.contextmanager
def trial_service(workers: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a service until the block ends; yields its base URL once jobs can run.

    settings  environment variables for it, beside those of this process
    raises    StartError with the end of its log if it does not become ready
    """
    with tempfile.TemporaryDirectory(prefix="praxino-trial-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr, _started(folder, workers, settings or {}, stderr) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if found := READY_LINE.match(line.strip()):
                    yield found.group(1)
                    return
            tail = log.read_text(errors="replace").splitlines()[-15:]
            raise StartError("the service did not start; its log ends:\n" + "\n".join(tail))


@contextlib.contextmanager
def _started(
    folder: str, workers: int, settings: Mapping[str, str], stderr: object
) -> Iterator[subprocess.Popen[str]]:
    environment = {k: v for k, v in os.environ.items() if k not in OWN_SETTINGS}
    data_dir = str(Path(folder) / "data")
    options = (
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--workers",
        str(workers),
        "--data-dir",
        data_dir,
    )
    process = subprocess.Popen(
        (sys.executable, "-m", "service.cli", "up", *options),
        env=environment | SEPARATELY | dict(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,  # type: ignore[call-overload]
        text=True,
        start_new_session=True,  # Ctrl-C is for us: we then ask it to stop
        preexec_fn=tie_to_parent(signal.SIGTERM),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its children die with it
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
