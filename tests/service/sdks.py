"""Installs one version of the OpenAI SDK into a folder of its own and prints the folder.

Versions cannot share an environment; each test drives one of them in a subprocess.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path.home() / ".cache" / "praxino" / "test-sdks"


def install(version: str) -> Path:
    """The folder to put on the path; installed by pip if it is not there yet."""
    folder = CACHE / f"openai-{version}"
    if (folder / "openai" / "__init__.py").is_file():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fresh = Path(scratch) / "new"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(fresh), f"openai=={version}"], check=True)
        os.replace(fresh, folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{install(sys.argv[1])}\n")
