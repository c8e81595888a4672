"""A film goes from the model into its files piece by piece, and says how far each shot is."""

import hashlib
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import torch

from models.protocol import Frames, OnStep, Step, Task
from models.videoldm.adapters import write_adapter
from models.videoldm.config import read_config, write_config
from models.videoldm.pipeline import load_videoldm
from models.videoldm.staged import staged
from models.videoldm.weights import digest, load_preset
from tests.models.presets import build_preset
from tests.models.stages import build_cascade
from tests.models.test_adapters import adapter
from tests.worker.conftest import REQUEST
from tests.worker.shapes import ShapesModel, load_model, write_weights
from worker.film import Equipment, make_film
from worker.jobs.artifacts import open_store
from worker.jobs.contract import ErrorCode, Stage, StoryShot, VideoRequest
from worker.jobs.settings import JobSettings
from worker.messages import CancelledMessage, Done, Failed, FromChild, Run, StageStarted, StepDone
from worker.rehearsal import rehearse
from worker.shelf import Shelf

PIECE = 4


class PiecewiseShapes(ShapesModel):
    """The moving square, handed over some frames at a time."""

    lost = 0  # frames that are never handed over
    alive: list[int]  # pieces in memory whenever one more is made
    closed = False

    def stream(self, task: Task, on_step: OnStep) -> Iterator[Frames]:
        whole = self.generate(task, lambda step: None)
        self.alive, made = [], []
        on_step(Step("denoising", 0, 1))
        try:
            for start in range(0, len(whole) - self.lost, PIECE):
                self.alive.append(sum(piece() is not None for piece in made))
                piece = whole[start : start + PIECE].copy()
                made.append(weakref.ref(piece))
                yield piece
                del piece
        finally:
            self.closed = True


def equip(folder: Path, model: object) -> Equipment:
    settings = JobSettings(redis_url="unix:///none", data_dir=folder / "data")  # type: ignore[arg-type]
    return Equipment(
        model=model,  # type: ignore[arg-type]
        store=open_store(settings),
        shelf=Shelf(folder / "shelf"),
        scratch_dir=folder / "scratch",
        encoder="libx264",
        storage_patience_s=0,
    )


def order(job_id: str = "video_1", **fields: object) -> Run:
    request = VideoRequest(**REQUEST | {"prompt": "a square"} | fields)  # type: ignore[arg-type]
    return Run(
        exec="token",
        job_id=job_id,
        attempt=1,
        request=request,
        artifact_prefix=f"studio/{job_id}/token/",
    )


@pytest.fixture
def shapes(tmp_path: Path) -> ShapesModel:
    write_weights(tmp_path / "weights")
    return load_model("pocket", tmp_path / "weights", "cpu", "float32")


@pytest.fixture
def piecewise(shapes: ShapesModel) -> PiecewiseShapes:
    return PiecewiseShapes(shapes.card, (250, 200, 40), shapes.weights_sha256)


def never() -> bool:
    return False


def test_a_long_film_is_in_memory_a_piece_at_a_time(
    tmp_path: Path, piecewise: PiecewiseShapes
) -> None:
    tools = equip(tmp_path, piecewise)
    answer = make_film(order(num_frames=50 * PIECE), tools, lambda message: None, never)
    assert isinstance(answer, Done), answer
    assert len(piecewise.alive) == 50
    assert max(piecewise.alive) <= 2
    with av.open(str(tools.store.path(answer.result.video.key))) as film:  # type: ignore[attr-defined]
        assert film.streams.video[0].frames == 50 * PIECE


def test_pieces_make_the_film_that_the_whole_makes(
    tmp_path: Path, shapes: ShapesModel, piecewise: PiecewiseShapes
) -> None:
    films = []
    for name, model in (("whole", shapes), ("pieces", piecewise)):
        tools = equip(tmp_path / name, model)
        run = order(num_frames=19, return_last_frame=True)
        answer = make_film(run, tools, lambda message: None, never)
        assert isinstance(answer, Done), answer
        result = answer.result
        assert result.last_frame is not None
        assert result.spritesheet is not None
        with av.open(str(tools.store.path(result.video.key))) as film:  # type: ignore[attr-defined]
            frames = [frame.to_ndarray().tobytes() for frame in film.decode(video=0)]
        pictures = [result.thumbnail.sha256, result.spritesheet.sha256, result.last_frame.sha256]
        films.append((len(frames), frames, pictures))
        assert result.stage_seconds["post_processing"] > 0
    assert films[0][0] == 19
    assert films[0] == films[1]


def test_writing_a_piece_is_no_part_of_the_stage_that_makes_it(
    tmp_path: Path, piecewise: PiecewiseShapes
) -> None:
    tools = equip(tmp_path, piecewise)
    run = order("video_2", num_frames=40 * PIECE, width=256, height=256)
    answer = make_film(run, tools, lambda message: None, never)
    assert isinstance(answer, Done), answer
    seconds = answer.result.stage_seconds
    assert seconds["denoising"] < seconds["post_processing"] / 2


def test_a_film_with_frames_too_few_is_no_film(tmp_path: Path, piecewise: PiecewiseShapes) -> None:
    piecewise.lost = PIECE
    tools = equip(tmp_path, piecewise)
    answer = make_film(order(num_frames=5 * PIECE), tools, lambda message: None, never)
    assert isinstance(answer, Failed)
    assert (answer.code, answer.retryable) == (ErrorCode.INTERNAL_ERROR, False)
    assert not list((tmp_path / "scratch").iterdir())
    assert tools.shelf.find("video_1") is None


def test_a_stopped_film_lets_go_of_the_model(tmp_path: Path, piecewise: PiecewiseShapes) -> None:
    tools = equip(tmp_path, piecewise)

    def after_two() -> bool:
        return len(getattr(piecewise, "alive", [])) > 2

    answer = make_film(order(num_frames=50 * PIECE), tools, lambda message: None, after_two)
    assert isinstance(answer, CancelledMessage)
    assert len(piecewise.alive) == 3
    assert piecewise.closed
    assert not list((tmp_path / "scratch").iterdir())


def test_provenance_names_the_model_and_the_adapter_by_digest(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = build_preset(tmp_path / "tiny")
    path = folder / "adapters" / "rex.safetensors"
    path.parent.mkdir()
    write_adapter(adapter(load_preset(folder).unet), path)
    tools = equip(tmp_path, load_videoldm(folder, "cpu", torch.float32))
    told = []
    for name in (None, "rex"):
        run = order(f"video_{name}", adapter=name, width=32, height=32, num_inference_steps=2)
        answer = make_film(run, tools, lambda message: None, never)
        assert isinstance(answer, Done), answer
        with av.open(str(tools.store.path(answer.result.video.key))) as film:  # type: ignore[attr-defined]
            told.append(json.loads(film.metadata["comment"]))
    assert {note["model_sha256"] for note in told} == {digest(folder)}
    assert "adapter_sha256" not in told[0]
    assert told[1]["adapter_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_story_says_how_far_each_shot_is(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    kinds = ["text", "story"]
    config, card = folder / "config.json", folder / "card.json"
    told = json.loads(config.read_text()) | {"tasks": kinds}
    config.write_text(json.dumps(told))
    card.write_text(json.dumps(json.loads(card.read_text()) | {"tasks": kinds}))
    write_config(read_config(config), config)
    torch.set_num_threads(1)
    tools = equip(tmp_path, load_videoldm(folder, "cpu", torch.float32))
    shots = tuple(
        StoryShot(prompt="a cat", num_frames=count, seed=index, transition="cut")
        for index, count in enumerate((8, 40))  # the second takes more than one clip
    )
    heard: list[FromChild] = []
    run = order(
        task_type="story", shots=shots, num_frames=48, width=32, height=32, num_inference_steps=2
    )
    answer = make_film(run, tools, heard.append, never)
    assert isinstance(answer, Done), answer
    steps = [message for message in heard if isinstance(message, StepDone)]
    assert {message.shots for message in steps} == {2}
    for shot in (0, 1):
        shares = [message.shot_done for message in steps if message.shot == shot]
        assert shares == sorted(shares)
        assert shares[0] < 0.2
        assert shares[-1] == 1
    assert 0.5 in [message.shot_done for message in steps if message.shot == 1]
    assert [message.shot for message in steps] == sorted(message.shot for message in steps)
    stages = [message.stage for message in heard if isinstance(message, StageStarted)]
    assert stages == [*dict.fromkeys(stages)]
    assert stages[-2:] == [Stage.POST_PROCESSING, Stage.UPLOADING]


def test_a_model_with_stages_is_rehearsed_at_its_default_size(tmp_path: Path) -> None:
    folder = build_cascade(tmp_path / "tiny")
    model = staged(load_videoldm(folder, "cpu", torch.float32))
    sample = rehearse(equip(tmp_path, model))
    assert sample is not None
    assert sample.shape.width == 128
    assert sample.shape.num_frames in (24, 48)  # on a slow machine the shortest clip is all
    assert sample.step_s > 0
