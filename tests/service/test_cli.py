"""The command line: its answers, its exit statuses, and that its errors can be acted on."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import structlog
from PIL import Image
from typer.testing import CliRunner

from service.cli import app
from service.display import describe, write_contact_sheet
from service.trial import READY_LINE

runner = CliRunner()


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    """Commands configure logging for their process, onto a stream that ends with the test."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


UNPICKLING = """
import fractions, pickle, sys
from service import server
from service.cli import app
from worker.jobs.audit import PickleRefused

planted = pickle.dumps(fractions.Fraction(1, 2))

def run(self, sockets):
    try:
        pickle.loads(planted)
    except PickleRefused:
        sys.exit(42)

server.LeavingServer.run = run
app(["api", "--port", "0"])
"""


def call(*arguments: str, env: dict[str, str | None] | None = None) -> Any:
    return runner.invoke(app, arguments, env=env)


def test_generate_writes_the_film_and_names_it(
    api: Any, hand: Any, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fox.mp4"
    with hand.working():
        answer = call("generate", "a fox", "--out", str(out), "--url", api.url, "--seed", "5")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[-1] == str(out)
    assert out.read_bytes() == clip.read_bytes()


def test_refused_prompt_names_field_and_reason(api: Any, tmp_path: Path) -> None:
    answer = call("generate", "", "--out", str(tmp_path / "x.mp4"), "--url", api.url)
    assert answer.exit_code == 1
    assert "prompt" in answer.stderr
    assert "Traceback" not in answer.output
    assert not list(tmp_path.iterdir())


def test_jobs_lists_what_was_asked(api: Any, client: Any) -> None:
    video = client.post("/v1/videos", json={"prompt": "a very red fox"}).json()
    answer = call("jobs", "--url", api.url, env={"COLUMNS": "200"})
    assert video["id"] in answer.stdout
    assert "a very red fox" in answer.stdout
    assert video["id"] not in call("jobs", "--status", "completed", "--url", api.url).stdout


def test_cancel_stops_the_job(api: Any, client: Any) -> None:
    video = client.post("/v1/videos", json={"prompt": "a fox"}).json()
    assert call("cancel", video["id"], "--url", api.url).exit_code == 0
    assert client.get(f"/v1/videos/{video['id']}").json()["error"]["code"] == "cancelled"


def test_models_shows_the_cards(api: Any) -> None:
    answer = call("models", "--url", api.url, env={"COLUMNS": "200"})
    assert re.search(r"pocket\s+no worker\s+[a-z_, ]*\btext\s+64x64\s+8-32", answer.stdout)


def test_nothing_running_says_how_to_start() -> None:
    answer = call("jobs", "--url", "http://127.0.0.1:9")
    assert answer.exit_code == 1
    assert "praxino up" in answer.stderr


def test_open_bind_without_keys_is_refused(tmp_path: Path) -> None:
    answer = call("up", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data"))
    assert answer.exit_code == 1
    assert "PRAXINO_API_KEYS" in answer.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_setting_is_named() -> None:
    answer = call("up", env={"PRAXINO_MAX_QUEUE_DEPTH": "0"})
    assert answer.exit_code == 1
    assert "PRAXINO_MAX_QUEUE_DEPTH" in answer.stderr


def test_unknown_default_model_is_named(valkey: Any, tmp_path: Path) -> None:
    env: dict[str, str | None] = {
        "PRAXINO_REDIS_URL": valkey.url,
        "PRAXINO_DEFAULT_MODEL": "nosuch",
        "PRAXINO_DATA_DIR": str(tmp_path),
    }
    answer = call("api", env=env)
    assert answer.exit_code == 1
    assert "nosuch" in answer.stderr


def test_contact_sheet_shows_every_frame_in_order(clip: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    write_contact_sheet(clip, sheet)
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    picture = Image.open(sheet)
    tile = (picture.width - 6) // 4 - 6
    for index, frame in enumerate(frames):
        row, column = divmod(index, 4)
        left, top = 6 + column * (tile + 6), 6 + row * (tile + 6)
        found = picture.crop((left, top, left + tile, top + tile)).resize((64, 64))
        difference = abs(_values(found) - frame.astype(float)).mean()
        others = [abs(_values(found) - other.astype(float)).mean() for other in frames]
        assert difference == min(others)


def _values(picture: Image.Image) -> Any:
    return np.asarray(picture, dtype=float)


def test_ready_line_is_what_the_trial_reads() -> None:
    match = READY_LINE.match("Praxino is ready at http://127.0.0.1:8000")
    assert match is not None
    assert match[1] == "http://127.0.0.1:8000"


def test_a_waiting_job_says_where_in_line() -> None:
    waiting = {"id": "v", "status": "queued", "progress": 0, "queue_position": 3}
    assert "3." in describe(waiting)  # type: ignore[typeddict-item]


def test_the_process_of_the_api_unpickles_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PRAXINO_REDIS_URL": f"unix://{tmp_path}/none"}
    command = (sys.executable, "-c", UNPICKLING)
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 42, answer.stderr
