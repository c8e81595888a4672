"""The README's snippets, as they stand there, against an API over a real socket."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from tests.service.conftest import Running, installed, serve
from tests.service.media import picture
from tests.service.sdks import NEWER, node
from worker.jobs.catalog import read_catalog
from worker.jobs.contract import Status

README = Path(__file__).parents[2] / "README.md"
FENCE = re.compile(r"^```(python|js|sh)\n(.+?)^```$", re.DOTALL | re.MULTILINE)
SUFFIXES = {"python": "py", "js": "mjs", "sh": "sh"}
SDKS = {"python": max(pair for pair in NEWER if pair[0] == "python"), "js": ("node", "6.49.0")}


@dataclass(frozen=True)
class Snippet:
    """A fenced block; `place` counts those of its language from 1."""

    language: str
    place: int
    code: str

    def __str__(self) -> str:
        return f"{self.language} {self.place}"


def read_snippets() -> list[Snippet]:
    blocks = FENCE.findall(README.read_text())
    places = dict.fromkeys(SUFFIXES, 0)
    found = []
    for language, code in blocks:
        places[language] += 1
        found.append(Snippet(language, places[language], code))
    return found


SNIPPETS = read_snippets()


@pytest.fixture(scope="module")
def module_api(valkey_server, able_card, tmp_path_factory) -> Iterator[Running]:
    """An API with keys, with what it comes with and a model that takes pictures."""
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("readme"),
        api_keys="studio:key-one",
        default_model="able",
        poll_after_ms=50,
    )
    with serve(settings, read_catalog() | {"able": able_card}) as running:
        yield running


@pytest.fixture
def job_settings(valkey, module_api):
    return module_api.settings


@pytest.fixture
def run(module_api, tmp_path):
    """Runs a snippet in an empty folder with a picture. returns what it printed"""
    (tmp_path / "first.png").write_bytes(picture())

    def start(snippet: Snippet) -> str:
        script = tmp_path / f"snippet.{SUFFIXES[snippet.language]}"
        script.write_text(snippet.code)
        command, environment = prepare(snippet.language, tmp_path)
        done = subprocess.run(
            [*command, str(script)],
            env=environment
            | {
                "PATH": os.environ["PATH"],
                "OPENAI_BASE_URL": f"{module_api.url}/v1",
                "OPENAI_API_KEY": "key-one",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return start


def prepare(language: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The interpreter and its environment; a missing one skips, but not in CI."""
    if language == "sh":
        if shutil.which("curl") is None and "CI" not in os.environ:
            pytest.skip("there is no curl here")
        return ["/bin/sh", "-eu"], {}
    sdk = installed(*SDKS[language])
    if language == "python":
        return [sys.executable, "-W", "ignore"], {"PYTHONPATH": str(sdk.folder)}
    (folder / "node_modules").symlink_to(sdk.folder)  # as npm leaves it
    return [str(node())], {}


def test_every_language_has_its_snippets():
    assert sorted(map(str, SNIPPETS)) == sorted(
        f"{language} {place}" for language in SUFFIXES for place in (1, 2)
    )


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one.place == 1], ids=str)
def test_a_prompt_becomes_a_film_and_is_listed(snippet, run, store, hand, tmp_path, clip):
    with hand.working():
        shown = run(snippet)
    (job,) = store.list("studio", after=None, limit=9, descending=True).jobs
    assert (job.status, job.request.model) == (Status.COMPLETED, "pocket")
    assert job.request.prompt == "a penguin moving right over the sea"
    assert (tmp_path / "penguin.mp4").read_bytes() == clip.read_bytes()
    assert job.id in shown
    assert "completed" in shown
    assert job.request.prompt in shown


@pytest.mark.parametrize("snippet", [one for one in SNIPPETS if one.place == 2], ids=str)
def test_a_picture_becomes_the_first_frame(snippet, run, store, hand):
    with hand.working():
        run(snippet)
    (job,) = store.list("studio", after=None, limit=9, descending=True).jobs
    assert (job.request.task_type, job.request.seed) == ("image", 7)
    assert job.request.prompt == "it begins to snow"
