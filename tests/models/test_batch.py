"""Films made side by side: each is what it is alone, and none is in another's way."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import batch
from models.protocol import (
    BatchableModel,
    Cancelled,
    Frames,
    OnStep,
    Reference,
    ResumableModel,
    Step,
    Task,
    lacks_memory,
)
from models.registry import load_model
from models.videoldm.adapters import Adapter
from models.videoldm.checkpoints import FilmMemory, own
from models.videoldm.conditioning import joined, layout, text_only
from models.videoldm.config import UNetConfig
from models.videoldm.pipeline import VideoLDM, load_videoldm
from models.videoldm.staged import StagedLDM
from tests.models.presets import TINY, build_preset
from tests.models.stages import build_cascade
from tests.models.test_tasks import (
    CLIP,
    EDIT,
    EXTEND,
    ONE,
    REFERENCE,
    STORY,
    TEXT,
    allow_everything,
)

SAMPLERS = ("dpmpp_2m", "ddim", "ancestral")
NEAR = 1e-4
FILMS = (
    replace(TEXT, num_inference_steps=5, seed=1, prompt="a cat"),
    replace(TEXT, num_inference_steps=5, seed=2, prompt="a red bus driving up a very snowy hill"),
    replace(TEXT, num_inference_steps=5, seed=3, prompt="", negative_prompt="a grey blurred dog"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoLDM:
    flat = {"widths": (16,), "blocks": (1,), "trained_frames": CLIP}
    unet: UNetConfig = replace(
        TINY.unet, **flat, spatial_attention=(True,), temporal_attention=(True,)
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_preset(folder, config=replace(TINY, unet=unet))
    allow_everything(folder)
    return load_videoldm(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> StagedLDM:
    loaded = load_model("tiny", build_cascade(tmp_path_factory.mktemp("models") / "tiny"), "cpu")
    assert isinstance(loaded, StagedLDM)
    return loaded


class Film:
    """One film in the making, and what became of it."""

    def __init__(
        self, task: Task, on_step: OnStep | None = None, written: bytes | None = None
    ) -> None:
        self.task, self._on_step, self._written = task, on_step, written
        self.told: list[Step] = []
        self.frames: Frames | None = None
        self.error: Exception | None = None
        self.memory = FilmMemory("", {})

    def make(self, model: ResumableModel) -> None:
        self.memory = own(model.remember("film", self._written))
        try:
            self.frames = np.concatenate(list(model.stream(self.task, self._step, self.memory)))
        except Exception as error:
            self.error = error

    def latents(self, address: str = "base/0") -> Tensor:
        run = self.memory.find(address)
        assert run is not None
        return run.x

    def _step(self, step: Step) -> None:
        self.told.append(step)
        if self._on_step is not None:
            self._on_step(step)


def alone(model: ResumableModel, task: Task) -> Film:
    film = Film(task)
    film.make(model)
    assert film.error is None
    return film


def together(model: BatchableModel, films: Sequence[Film]) -> None:
    model.together([film.make for film in films])


def is_near(film: Film, other: Film, address: str = "base/0") -> bool:
    """Whether latents agree, and frames but for rounding to the next of 256 levels."""
    assert film.frames is not None, film.error
    assert other.frames is not None, other.error
    levels = np.abs(film.frames.astype(int) - other.frames.astype(int)).max()
    return bool(
        (film.latents(address) - other.latents(address)).abs().max() <= NEAR and levels <= 1
    )


@contextmanager
def rows_of(network: nn.Module) -> Iterator[list[int]]:
    """How many rows each pass of a network has."""
    rows: list[int] = []
    handle = network.register_forward_hook(lambda _module, given, _v: rows.append(len(given[0])))
    yield rows
    handle.remove()


@contextmanager
def failing(network: nn.Module, fault: Callable[[Any], Exception | None]) -> Iterator[None]:
    """Passes fail as `fault` says of their arguments."""

    def before(_module: nn.Module, given: Any) -> None:
        error = fault(given)
        if error is not None:
            raise error

    handle = network.register_forward_pre_hook(before)
    yield
    handle.remove()


def stopping(at: int, error: Exception | None = None) -> OnStep:
    def on_step(step: Step) -> None:
        if step.stage == "denoising" and step.index == at:
            raise error or Cancelled

    return on_step


# ---------------------------------------------------------------------------- the same films


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_films_made_together_are_those_made_alone(model: VideoLDM, sampler: str) -> None:
    tasks = [replace(task, sampler=sampler) for task in FILMS]
    films = [Film(task) for task in tasks]
    with rows_of(model.preset.unet) as rows:
        together(model, films)
    assert rows == [3] * 10  # five steps, two branches of guidance
    for film, task in zip(films, tasks, strict=True):
        single = alone(model, task)
        assert is_near(film, single)
        assert film.told == single.told
    assert not is_near(films[0], films[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"guidance_schedule": "linear", "guidance_rescale": 0.7},
        {"guidance_schedule": "oscillating", "sampler": "ddim"},
        {"num_frames": 20},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_guidance_and_length_change_nothing_of_it(model: VideoLDM, changes: dict[str, Any]) -> None:
    tasks = [replace(task, **changes) for task in FILMS]
    films = [Film(task) for task in tasks]
    together(model, films)
    assert all(is_near(film, alone(model, film.task)) for film in films)


def test_films_of_different_kinds_are_right_as_well(model: VideoLDM) -> None:
    films = [
        Film(TEXT),
        Film(replace(TEXT, num_frames=12, num_inference_steps=4)),
        Film(replace(REFERENCE, seed=5)),
        Film(replace(REFERENCE, references=(Reference(ONE), Reference(ONE)))),
        Film(STORY),
        Film(EDIT),
        Film(replace(EXTEND, reconstruction_weight=1.0)),
    ]
    together(model, films)
    for film in films:
        address = "edit/0" if film.task.task_type == "edit" else "base/0"
        addresses = [address] if film.memory.find(address) else []
        single = alone(model, film.task)
        assert film.frames is not None, film.error
        assert single.frames is not None
        assert np.abs(film.frames.astype(int) - single.frames.astype(int)).max() <= 1
        assert all(is_near(film, single, where) for where in addresses)


@pytest.mark.parametrize(("quality", "address"), [("draft", "student"), ("standard", "base/0")])
def test_films_of_stages_share_the_passes_of_their_base(
    staged: StagedLDM, quality: str, address: str
) -> None:
    task = replace(TEXT, fps=24, num_frames=24, quality=quality)
    films = [Film(replace(task, seed=seed)) for seed in (1, 2)]
    preset = staged.base.preset
    assert preset.stages.student is not None
    network = preset.stages.student.unet if quality == "draft" else preset.unet
    with rows_of(network) as rows:
        together(staged, films)
    assert set(rows) == {2}
    assert all(is_near(film, alone(staged, film.task), address) for film in films)


def test_a_film_begun_together_is_gone_on_with_alone(model: VideoLDM) -> None:
    stopped = Film(FILMS[1], stopping(3))
    together(model, [Film(FILMS[0]), stopped])
    assert isinstance(stopped.error, Cancelled)
    assert stopped.memory.steps == 3
    resumed = Film(FILMS[1], written=stopped.memory.write())
    resumed.make(model)
    assert is_near(resumed, alone(model, FILMS[1]))
    assert resumed.memory.steps == 5


def test_a_film_begun_alone_is_gone_on_with_together(model: VideoLDM) -> None:
    stopped = Film(FILMS[1], stopping(3))
    stopped.make(model)
    films = [Film(FILMS[0]), Film(FILMS[1], written=stopped.memory.write())]
    with rows_of(model.preset.unet) as rows:
        together(model, films)
    assert sorted(rows) == [1] * 6 + [2] * 4  # two steps are left of one, five of the other
    assert all(is_near(film, alone(model, film.task)) for film in films)


# ---------------------------------------------------------------------------- each by itself


@pytest.mark.parametrize("fault", [Cancelled(), OSError("no room")])
def test_a_film_that_stops_leaves_the_batch_at_that_step(model: VideoLDM, fault: Exception) -> None:
    films = [Film(FILMS[0]), Film(FILMS[1], stopping(2, fault)), Film(FILMS[2])]
    with rows_of(model.preset.unet) as rows:
        together(model, films)
    assert rows == [3] * 4 + [2] * 6
    assert films[1].error is fault
    assert all(is_near(film, alone(model, film.task)) for film in (films[0], films[2]))


def test_what_the_network_cannot_do_for_one_film_fails_that_one(model: VideoLDM) -> None:
    words = model.preset.text([FILMS[1].prompt])[0].shape[1]

    def fault(given: Any) -> Exception | None:
        real = given[2].text_mask.sum(1).max()
        return RuntimeError("a kernel failed") if real == words else None

    films = [Film(task) for task in FILMS]
    with failing(model.preset.unet, fault):
        together(model, films)
    assert str(films[1].error) == "a kernel failed"
    assert all(is_near(film, alone(model, film.task)) for film in (films[0], films[2]))


def test_want_of_memory_makes_the_passes_smaller_for_good(model: VideoLDM) -> None:
    films = [Film(replace(FILMS[0], seed=seed)) for seed in range(4)]

    asked: list[int] = []

    def fault(given: Any) -> Exception | None:
        asked.append(len(given[0]))
        return torch.OutOfMemoryError("too much") if asked[-1] > 2 else None

    with failing(model.preset.unet, fault):
        together(model, films)
    assert asked == [4] + [2] * 20
    assert all(is_near(film, alone(model, film.task)) for film in films)


def test_what_not_even_one_film_has_memory_for_fails_clearly(model: VideoLDM) -> None:
    films = [Film(task) for task in FILMS]
    with failing(model.preset.unet, lambda _given: torch.OutOfMemoryError("too much")):
        together(model, films)
    assert all(isinstance(film.error, torch.OutOfMemoryError) for film in films)


def refused_by(allocate: Callable[[], object]) -> Exception:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    return caught.value


def test_want_of_memory_is_told_from_other_faults_whoever_says_so() -> None:
    whole = 1 << 60  # bytes, more than anybody has
    assert lacks_memory(refused_by(lambda: torch.empty(whole, dtype=torch.uint8)))
    assert lacks_memory(refused_by(lambda: np.empty(whole, np.uint8)))
    assert lacks_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not lacks_memory(refused_by(lambda: torch.empty(2) + torch.empty(3)))


def test_a_film_that_is_busy_holds_nobody_up_for_long(
    model: VideoLDM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PATIENCE_S", 0.05)
    others_done = threading.Event()

    def busy(step: Step) -> None:
        if step.stage == "denoising" and step.index == 1:
            assert others_done.wait(20)

    late = Film(FILMS[0], busy)
    film = Film(FILMS[1])

    def make(view: ResumableModel) -> None:
        film.make(view)
        others_done.set()

    model.together([late.make, make])
    assert late.error is None
    assert is_near(late, alone(model, late.task))
    assert is_near(film, alone(model, film.task))


def test_frames_are_handed_over_while_others_compute(model: VideoLDM) -> None:
    """Whoever encodes or stores a film does not have the turn."""
    done = threading.Event()

    def encode_slowly(view: ResumableModel) -> None:
        for _piece in view.stream(TEXT, lambda _step: None):
            assert done.wait(20)

    def make(view: ResumableModel) -> None:
        view.generate(replace(TEXT, num_inference_steps=8), lambda _step: None)
        done.set()

    model.together([encode_slowly, make])


def test_one_film_computes_at_a_time(model: VideoLDM) -> None:
    busy: list[int] = []
    most: list[int] = []

    def watch(enter: bool) -> Callable[..., None]:
        def note(*_given: object) -> None:
            busy.append(1) if enter else busy.pop()
            most.append(len(busy))
            time.sleep(0.001)

        return note

    decoder = model.preset.autoencoder.decoder
    handles = [
        decoder.register_forward_pre_hook(watch(True)),
        decoder.register_forward_hook(watch(False)),
    ]
    together(model, [Film(replace(task, num_frames=24)) for task in FILMS])
    for handle in handles:
        handle.remove()
    assert max(most) == 1


# ---------------------------------------------------------------------------- whoever makes


def test_what_a_maker_raises_comes_out_after_all_are_over(model: VideoLDM) -> None:
    film = Film(FILMS[0])

    def break_down(_view: ResumableModel) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.together([break_down, film.make])
    assert is_near(film, alone(model, FILMS[0]))


def test_a_maker_that_makes_no_film_is_not_waited_for(model: VideoLDM) -> None:
    film = Film(FILMS[0])
    began = time.monotonic()
    model.together([lambda _view: None, film.make])
    assert film.frames is not None
    assert time.monotonic() - began < 5 * batch.PATIENCE_S


def test_a_place_is_for_one_film(model: VideoLDM) -> None:
    def make_twice(view: ResumableModel) -> None:
        view.generate(TEXT, lambda _step: None)
        view.generate(TEXT, lambda _step: None)

    with pytest.raises(RuntimeError, match="left its place"):
        model.together([make_twice])


def test_an_adapter_would_change_the_others_films(model: VideoLDM) -> None:
    films = [Film(replace(TEXT, adapter="rex")), Film(FILMS[0])]
    taught = replace(
        model, preset=replace(model.preset, adapters={"rex": Adapter.__new__(Adapter)})
    )
    together(taught, films)
    assert isinstance(films[0].error, ValueError)
    assert "rex" in str(films[0].error)
    assert is_near(films[1], alone(model, FILMS[0]))


def test_a_view_is_the_model_to_whoever_asks(model: VideoLDM, staged: StagedLDM) -> None:
    assert isinstance(model, BatchableModel)
    assert isinstance(staged, BatchableModel)
    seen: list[tuple[str, str, bool]] = []

    def look(view: ResumableModel) -> None:
        seen.append((view.card.id, view.weights_sha256, isinstance(view, ResumableModel)))

    model.together([look])
    assert seen == [(model.card.id, model.weights_sha256, True)]


# ---------------------------------------------------------------------------- conditions


def test_joined_conditions_pad_the_shorter_text_and_mask_it() -> None:
    short, long = (
        text_only(
            torch.ones(1, length, 4),
            torch.ones(1, length, dtype=torch.bool),
            torch.zeros(1, 2),
            8.0,
            (1, 2, 2),
        )
        for length in (2, 5)
    )
    assert layout(short) == layout(long)
    both = joined([short, long])
    assert both.text_t is both.text_s
    assert both.text_mask.sum(1).tolist() == [2, 5]
    assert both.text_s[0, 2:].abs().max() == 0
    assert both.frames.shape[0] == both.log2_fps.shape[0] == 2


def test_conditions_of_another_layout_are_told_apart() -> None:
    words = torch.ones(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)
    plain = text_only(*words, torch.zeros(1, 2), 8.0, (1, 2, 2))
    others = [
        text_only(*words, torch.zeros(1, 3), 8.0, (1, 2, 2)),
        plain.with_references(torch.zeros(1, 1, 1, 2, 2)),
        replace(plain, text_t=plain.text_s.clone()),
    ]
    assert len({layout(plain), *map(layout, others)}) == 4


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_films_that_wait_keep_no_threads_that_others_would_wake_more_slowly_for(
    model: VideoLDM,
) -> None:
    counts: list[int] = []
    before = torch.get_num_threads()

    def compute_much(step: Step) -> None:
        torch.randn(400, 400) @ torch.randn(400, 400)  # on as many threads as it is let

    def count(*_given: object) -> None:
        counts.append(len(os.listdir("/proc/self/task")))

    torch.set_num_threads(2)
    compute_much(Step("encoding", 0, 1))  # this thread's own, which stay
    alone = len(os.listdir("/proc/self/task"))
    handle = model.preset.unet.register_forward_pre_hook(count)
    try:
        together(model, [Film(task, compute_much) for task in FILMS])
    finally:
        handle.remove()
        torch.set_num_threads(before)
    assert max(counts) <= alone + len(FILMS)
