"""Logging never ends a process."""

import subprocess
import sys
from pathlib import Path


def test_a_log_on_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, structlog\n"
        "from worker.journal import configure_logging\n"
        "configure_logging()\n"
        "log = structlog.get_logger()\n"
        "log.info('before')\n"
        "before = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))\n"
        "for _ in range(1000): log.info('during')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, before)\n"
        "log.info('after')\n"
    )
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run([sys.executable, "-c", script], stderr=log, timeout=60)
    lines = (tmp_path / "log").read_text().splitlines()
    assert done.returncode == 0, lines
    assert "before" in lines[0]
    assert "after" in lines[-1]
