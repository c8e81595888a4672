"""A child of two ranks: makes films, stops them and refuses as one, and dies with either."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.openweights.__main__ import add
from models.openweights.families import Wishes
from models.protocol import VideoModel
from models.registry import load_model
from tests.models.wilds import build
from tests.worker import test_checkpoints
from tests.worker.conftest import is_running, until
from worker.channel import ChannelClosed
from worker.jobs.catalog import REGISTERED
from worker.jobs.contract import Checkpoint
from worker.launcher import Child, ChildConfig, LoadFailed, await_ready, launch
from worker.messages import Cancel, CheckpointSaved, Done, FromChild, Run, Yield
from worker.ranks import EXIT_RANK_LOST, lead
from worker.settings import WorkerSettings

NAME = "wan-2.1"
FIELDS: dict[str, Any] = {
    "model": NAME,
    "num_frames": 9,
    "fps": 16,
    "sampler": "native",
    "guidance_scale": 3.0,
    "num_inference_steps": 16,
}
LONG = FIELDS | {"num_inference_steps": 50}


def config(folder: Path, **fields: Any) -> ChildConfig:
    """Of a child of two ranks on a CPU."""
    given: dict[str, Any] = {
        "parent_pid": os.getpid(),
        "loader": "models.registry:load_model",
        "model": NAME,
        "weights_dir": None,
        "device": "cpu",
        "dtype": "auto",
        "data_dir": folder,
        "scratch_dir": folder / "scratch",
        "shelf_dir": folder / "shelf",
        "encoder": "libx264",
        "storage_patience_s": 0,
        "rehearse": False,
        "checkpoint_overhead": 0,
        "ranks": 2,
    }
    return ChildConfig(**given | fields)


def start(config: ChildConfig) -> Child:
    """Start a child whose films lie in a folder."""
    store = {"PRAXINO_ARTIFACTS_URL": str(config.data_dir / "artifacts")}
    return launch(config, store, threads=1)


def follower_of(child: Child) -> int:
    """The process id of a child's second rank; 0 if there is none yet."""
    text = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return int(text[0]) if text else 0


def order(name: str, resume: Checkpoint | None = None, **fields: Any) -> Run:
    """An attempt of a job of its own: none finds another's film on the shelf."""
    run = test_checkpoints.order(name, resume, **fields)
    return run.model_copy(update={"job_id": name})


def hear(child: Child, *kinds: str) -> FromChild:
    """The next message of one of these kinds."""
    while True:
        message = child.receive(60)
        assert message is not None
        if message.type in kinds:
            return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("child")
    weights = build(NAME, folder / "wild" / "weights")
    add(NAME, weights, folder / REGISTERED, Wishes(("32x32",), 9, 6, 3.0, None), None)
    return folder


@pytest.fixture(scope="module")
def child(folder: Path) -> Iterator[Child]:
    child = start(config(folder))
    try:
        await_ready(child, 120, lambda: None)
        yield child
    finally:
        child.kill()


def test_a_child_of_ranks_stops_films_and_goes_on_with_them(child: Child) -> None:
    ready = child.loaded[NAME]
    assert ready.resumable
    assert not ready.batchable
    films = []
    child.send(order("whole", **FIELDS))
    films.append(hear(child, "done", "error"))
    child.send(order("stopped", **LONG))
    hear(child, "step")
    child.send(Cancel(exec="stopped"))
    assert hear(child, "cancelled", "done", "error").type == "cancelled"
    child.send(order("left", **FIELDS))
    while getattr(hear(child, "step"), "index", 0) < 1:
        pass  # there is nothing to go on from yet
    child.send(Yield(exec="left"))
    saved = hear(child, "checkpoint", "done", "error")
    assert isinstance(saved, CheckpointSaved)
    assert hear(child, "cancelled", "done", "error").type == "cancelled"
    child.send(order("again", saved.checkpoint, **FIELDS))
    films.append(hear(child, "done", "error"))
    assert [film.type for film in films] == ["done", "done"], films
    whole, again = (film.result for film in films if isinstance(film, Done))
    assert whole.thumbnail.sha256 == again.thumbnail.sha256
    assert whole.spritesheet.sha256 == again.spritesheet.sha256


def test_a_child_dies_at_once_with_any_of_its_ranks(child: Child) -> None:
    follower = follower_of(child)
    child.send(order("lost", **LONG))
    hear(child, "step")
    os.kill(follower, signal.SIGKILL)
    with pytest.raises(ChannelClosed):
        hear(child, "done", "error")
    until(lambda: not child.alive(), 10, "the child's end")
    assert child.exit_reason() == f"status {EXIT_RANK_LOST}"


def test_the_other_ranks_die_with_the_first(folder: Path) -> None:
    child = start(config(folder))
    try:
        follower = until(lambda: follower_of(child), 60, "the second rank")
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not is_running(follower), 60, "the follower's end")
    finally:
        child.kill()


def test_a_model_that_ranks_cannot_share_is_refused_by_name(tmp_path: Path) -> None:
    child = start(config(tmp_path, model="pocket"))
    try:
        with pytest.raises(LoadFailed, match="pocket runs on one rank only"):
            await_ready(child, 120, lambda: None)
    finally:
        child.kill()


def test_a_rank_that_does_not_load_the_model_is_named(folder: Path) -> None:
    def load(_: ChildConfig) -> VideoModel:
        return load_model(NAME, folder / REGISTERED / NAME, "cpu")

    with pytest.raises(ValueError, match=r"rank 1 did not load the model: .*nobody's"):
        lead(config(folder, model="nobody's"), load)


def test_ranks_choose_their_devices() -> None:
    given = {"redis_url": "redis://nowhere"}
    assert WorkerSettings(**given).ranks == 1
    with pytest.raises(ValidationError, match="2 ranks take the first GPUs"):
        WorkerSettings(**given, ranks=2, device="cuda:1")
    with pytest.raises(ValidationError, match="keep the one model"):
        WorkerSettings(**given, ranks=2, models="wan,ltx")
