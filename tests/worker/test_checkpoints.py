"""What one attempt has made the next one goes on from, and the film comes out the same."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models.protocol import ResumableModel
from tests.worker.conftest import REQUEST
from tests.worker.tiny import count_calls, load_model, write_weights
from worker.checkpoints import KEPT, Checkpoints, identify
from worker.film import Equipment, make_film
from worker.jobs.artifacts import VIDEO, ArtifactStore, checkpoint_prefix
from worker.jobs.blobs import StorageFault
from worker.jobs.contract import Artifact, Checkpoint, StoryShot, VideoRequest
from worker.jobs.disk import DiskStore
from worker.messages import CancelledMessage, CheckpointSaved, Done, FromChild, Run
from worker.shelf import Shelf

STEPS = 6
PREFIX = checkpoint_prefix("studio", "video_1")
SMALL: dict[str, Any] = {
    "prompt": "a square",
    "width": 32,
    "height": 32,
    "num_frames": 8,
    "num_inference_steps": STEPS,
    "guidance_scale": 1.0,
}
SHOTS = (
    StoryShot(prompt="a cat", num_frames=8, seed=1),
    StoryShot(prompt="a dog", num_frames=8, seed=2),
)
STORY = {"task_type": "story", "shots": SHOTS, "num_frames": 16}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def tools(weights: Path, tmp_path: Path) -> Equipment:
    (tmp_path / "scratch").mkdir()
    return Equipment(
        model=load_model("pocket", weights, "cpu", "float32"),
        store=DiskStore(tmp_path / "artifacts"),
        shelf=Shelf(tmp_path / "shelf"),
        scratch_dir=tmp_path / "scratch",
        encoder="libx264",
        storage_patience_s=0,
        checkpoint_overhead=0.0,
    )


def order(exec: str, resume: Checkpoint | None = None, **fields: Any) -> Run:
    return Run(
        exec=exec,
        job_id="video_1",
        attempt=1,
        request=VideoRequest(**REQUEST | SMALL | fields),
        artifact_prefix=f"studio/video_1/{exec}/",
        checkpoint_prefix=PREFIX,
        resume=resume,
    )


def never() -> bool:
    return False


def film(run: Run, tools: Equipment) -> np.ndarray:
    """The frames of a whole film."""
    answer = make_film(run, tools, lambda message: None, never)
    assert isinstance(answer, Done), answer
    tools.shelf.drop(run.job_id)
    with tools.store.open(run.artifact_prefix + VIDEO) as file, av.open(file) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


def left(run: Run, tools: Equipment, after: int) -> Checkpoint:
    """What an attempt leaves that is told to leave when so many steps are done."""
    heard: list[FromChild] = []

    def leaving() -> bool:
        return sum(message.type == "step" for message in heard) > after

    answer = make_film(run, tools, heard.append, never, leaving)
    assert isinstance(answer, CancelledMessage)
    [saved] = [message for message in heard if isinstance(message, CheckpointSaved)]
    return saved.checkpoint


def calls(tools_weights: Path) -> int:
    return sum(count_calls(tools_weights).values())


@pytest.mark.parametrize("fields", [{}, STORY])
def test_an_attempt_that_leaves_is_gone_on_with(
    tools: Equipment, weights: Path, fields: dict[str, Any]
) -> None:
    begun = calls(weights)
    whole = film(order("whole", **fields), tools)
    clips = len(fields.get("shots", [1]))
    # Of the last clip, which a story's context guides; clips before it take one forward a step.
    forwards = (calls(weights) - begun) // STEPS - (clips - 1)
    after = clips * STEPS - 2  # of a story: in its second shot
    checkpoint = left(order("first", **fields), tools, after)
    assert (clips - 1) * STEPS < checkpoint.steps < clips * STEPS
    before = calls(weights)
    again = film(order("second", checkpoint, **fields), tools)
    assert np.array_equal(again, whole)
    assert calls(weights) - before == forwards * (clips * STEPS - checkpoint.steps)


def damage_bytes(tools: Equipment, checkpoint: Checkpoint) -> Checkpoint:
    path = tools.store.path(checkpoint.artifact.key)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-9])
    return checkpoint


def damage_wholly(tools: Equipment, checkpoint: Checkpoint) -> Checkpoint:
    """Bytes that are what was stored, and no checkpoint."""
    path = tools.scratch_dir / "none.safetensors"
    path.write_bytes(b"\x10" + bytes(300))
    return Checkpoint(artifact=tools.store.put_file(checkpoint.artifact.key, path), steps=3)


def lose(tools: Equipment, checkpoint: Checkpoint) -> Checkpoint:
    tools.store.delete_prefix(PREFIX)
    return checkpoint


def take_another(tools: Equipment, checkpoint: Checkpoint) -> Checkpoint:
    """Of the same job as another request would make it."""
    return left(order("other", seed=8), tools, 2)


@pytest.mark.parametrize("spoil", [damage_bytes, damage_wholly, lose, take_another])
def test_a_bad_checkpoint_costs_time_and_never_the_job(
    tools: Equipment, weights: Path, spoil: Callable[[Equipment, Checkpoint], Checkpoint]
) -> None:
    whole = film(order("whole"), tools)
    bad = spoil(tools, left(order("first"), tools, 2))
    before = calls(weights)
    assert np.array_equal(film(order("second", bad), tools), whole)
    assert calls(weights) - before == STEPS


def test_checkpoints_are_written_on_the_way_and_only_the_last_two_stay(tools: Equipment) -> None:
    heard: list[FromChild] = []
    often = replace(tools, checkpoint_overhead=1.0)
    write_slowly(tools, 0.05)
    run = order("first", num_inference_steps=12)
    assert isinstance(make_film(run, often, heard.append, never), Done)
    saved = [item.checkpoint for item in heard if isinstance(item, CheckpointSaved)]
    assert len(saved) > KEPT
    steps = [checkpoint.steps for checkpoint in saved]
    assert steps == sorted(set(steps))
    keys = {blob.key for blob in tools.store.list(PREFIX)}
    assert keys == {checkpoint.artifact.key for checkpoint in saved[-KEPT:]}
    assert all(key.startswith(f"{PREFIX}first-") for key in keys)
    assert not list(tools.scratch_dir.glob("*.safetensors"))


def write_slowly(tools: Equipment, seconds: float) -> None:
    """Every forward takes so much longer, so that a checkpoint is cheap against it."""
    assert hasattr(tools.model, "preset")
    tools.model.preset.unet.register_forward_pre_hook(lambda *_: time.sleep(seconds))


class SlowDisk(DiskStore):
    """A disk that takes its time, and says how much."""

    def __init__(self, root: Path, seconds: float) -> None:
        super().__init__(root)
        self.seconds = seconds
        self.spent: list[float] = []

    def put_file(self, key: str, path: Path) -> Artifact:
        began = time.monotonic()
        time.sleep(self.seconds)
        artifact = super().put_file(key, path)
        self.spent.append(time.monotonic() - began)
        return artifact


class Counter:
    """The memory of a film that only counts."""

    steps = 0

    def write(self) -> bytes:
        return bytes(8)


def written(store: ArtifactStore, folder: Path, overhead: float, seconds: float) -> float:
    """Make steps for a while, each worth keeping; the seconds that it took."""
    memory = Counter()
    checkpoints = Checkpoints(order("e"), memory, store, folder, overhead, lambda message: None)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        time.sleep(0.002)
        memory.steps += 1
        checkpoints.note()
    return time.monotonic() - began


@pytest.mark.parametrize("overhead", [0.1, 0.5])
def test_writing_takes_no_more_than_its_share(tmp_path: Path, overhead: float) -> None:
    store = SlowDisk(tmp_path / "artifacts", 0.01)
    took = written(store, tmp_path, overhead, 1.0)
    assert len(store.spent) >= 2
    assert sum(store.spent[:-1]) <= overhead * took


def test_without_a_share_nothing_is_written_on_the_way(tmp_path: Path) -> None:
    store = SlowDisk(tmp_path / "artifacts", 0.0)
    written(store, tmp_path, 0.0, 0.05)
    assert store.spent == []


class AwayDisk(DiskStore):
    """A store that is away."""

    def put_file(self, key: str, path: Path) -> Artifact:
        raise StorageFault("the store does not answer")


def test_a_store_that_is_away_costs_checkpoints_only(tools: Equipment) -> None:
    heard: list[FromChild] = []
    away = replace(tools, store=AwayDisk(tools.scratch_dir / "none"), checkpoint_overhead=1.0)
    write_slowly(tools, 0.01)
    answer = make_film(order("first"), away, heard.append, never)
    assert answer.type == "error"
    assert answer.finished  # the film is whole, and only could not be stored
    assert not any(isinstance(message, CheckpointSaved) for message in heard)
    assert not list(tools.scratch_dir.glob("*.safetensors"))


def test_models_that_cannot_be_resumed_leave_nothing(tools: Equipment) -> None:
    assert isinstance(tools.model, ResumableModel)
    card = replace(tools.model.card, resumable=False)
    plain = replace(tools, model=replace(tools.model, card=card))  # type: ignore[type-var]
    heard: list[FromChild] = []
    answer = make_film(order("first"), plain, heard.append, never, lambda: len(heard) > 4)
    assert isinstance(answer, CancelledMessage)
    assert not any(isinstance(message, CheckpointSaved) for message in heard)


def test_labels_are_no_part_of_what_is_made() -> None:
    request = order("e").request
    labelled = request.model_copy(update={"metadata": {"a": "b"}, "user": "somebody"})
    assert identify(labelled) == identify(request)
    assert identify(request.model_copy(update={"seed": 8})) != identify(request)
