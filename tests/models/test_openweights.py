"""The contract of every adapter of open weights, on tiny checkpoints read from disk."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.openweights import tiers
from models.openweights.__main__ import add
from models.openweights.families import Wishes, read_family
from models.openweights.folder import FolderError, read_checkpoint
from models.openweights.pipeline import OpenModel
from models.openweights.snapshots import ClipMemory
from models.protocol import Cancelled, Frames, Reference, Step, Task
from models.registry import load_model
from tests.models.wilds import FRAMES, WILDS, build

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 3
GUIDANCE = 3.0
SIZES = {"wan-2.2-5b": "64x64", "svd": "64x64"}  # multiples that are larger


def wished(name: str) -> Wishes:
    """Small films of a checkpoint; some have sizes of their own only."""
    sizes = () if name.startswith(("cogvideox", "hunyuan-1.5-i2v")) else (SIZES.get(name, "32x32"),)
    return Wishes(sizes=sizes, frames=FRAMES, steps=STEPS, guidance=GUIDANCE)


def picture(width: int, height: int, seed: int) -> np.ndarray:
    """A picture unlike any of another seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return pixels.repeat(height // 4, 0).repeat(width // 4, 1)


@dataclass
class Wild:
    """A registered checkpoint, loaded, and the films it has made."""

    model: OpenModel
    folder: Path  # of the weights
    models_dir: Path
    films: dict[str, Frames]
    drawn: dict[str, np.ndarray]  # likewise, before they are rounded

    def task(self, kind: str, **fields: Any) -> Task:
        """A small task of a kind; keywords replace fields."""
        card = self.model.card
        width, height = map(int, card.sizes[0].split("x"))
        given: dict[str, Any] = {}
        if kind in ("image", "first_last_frame"):
            given["first_frame"] = picture(width, height, 1)
        if kind == "first_last_frame":
            given["last_frame"] = picture(width, height, 2)
        if kind == "reference":
            given["references"] = tuple(Reference(picture(48, 32, seed)) for seed in (4, 5))
        numbers: dict[str, Any] = {
            "width": width,
            "height": height,
            "num_frames": FRAMES,
            "fps": card.fps[0],
            "seed": 7,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "sampler": "native",
        }
        prompt = "a red fox" if card.max_prompt_chars else ""
        words = {"task_type": kind, "prompt": prompt, "negative_prompt": ""}
        return Task(**words | numbers | given | fields)

    def film(self, kind: str) -> Frames:
        """The film of the plain task, made once."""
        if kind not in self.films:
            self.films[kind] = self.model.generate(self.task(kind), lambda step: None)
        return self.films[kind]

    def change(self, kind: str, **fields: Any) -> float:
        """How much the film changes, at most, with a field of its task: of 1, before it is rounded,
        since random weights follow a picture only faintly."""
        other = self.model.draw(self.task(kind, **fields), lambda step: None)
        return float(np.abs(other - self.plain(kind)).max())

    def plain(self, kind: str) -> np.ndarray:
        """The film of the plain task before it is rounded, made once."""
        if kind not in self.drawn:
            self.drawn[kind] = self.model.draw(self.task(kind), lambda step: None)
        return self.drawn[kind]

    @property
    def reads(self) -> bool:
        """Whether it follows prompts."""
        return self.model.card.max_prompt_chars > 0

    @property
    def kinds(self) -> list[str]:
        return sorted(self.model.card.tasks)


@contextmanager
def counted(pipe: Any, made: list[int]) -> Iterator[None]:
    """Note every step that a scheduler of the pipeline's kind really makes."""
    kind = type(pipe.scheduler)
    real = kind.step
    kind.step = counting(real, made)
    try:
        yield
    finally:
        kind.step = real


def counting(real: Any, asked: list[int]) -> Any:
    """A function that notes each call."""

    @functools.wraps(real)
    def counted(*given: Any, **named: Any) -> Any:
        asked.append(1)
        return real(*given, **named)

    return counted


def takes_loras(folder: Path) -> bool:
    return read_family(read_checkpoint(folder)).loras


@pytest.fixture(scope="module", params=WILDS)
def wild(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Wild:
    """Every checkpoint in turn: built, saved, registered, loaded from disk."""
    base = tmp_path_factory.mktemp("wild")
    folder = build(request.param, base / "weights")
    loras = [("rex", "sks", base / "rex.safetensors")] if takes_loras(folder) else []
    add(request.param, folder, base / "models", wished(request.param), None, loras)
    model = load_model(request.param, base / "models" / request.param, "cpu")
    assert isinstance(model, OpenModel)
    return Wild(model, folder, base / "models", {}, {})


def test_every_kind_makes_the_film_that_was_asked_for(wild: Wild) -> None:
    for kind in wild.kinds:
        task, steps = wild.task(kind), list[Step]()
        wild.films[kind] = wild.model.generate(task, steps.append)
        assert wild.films[kind].shape == (FRAMES, task.height, task.width, 3)
        assert wild.films[kind].dtype == np.uint8
        told = [(step.stage, step.index, step.total) for step in steps]
        denoising = [("denoising", index, STEPS) for index in range(STEPS + 1)]
        assert told == [("encoding", 0, 1), *denoising, ("decoding", 0, 1), ("decoding", 1, 1)]


def test_a_seed_makes_one_film_and_another_seed_another(wild: Wild) -> None:
    kind = wild.kinds[0]
    assert wild.change(kind) == 0
    assert wild.change(kind, seed=8) > 0


def test_a_cancelled_job_leaves_nothing_behind(wild: Wild) -> None:
    for kind in wild.kinds:
        before, told = wild.film(kind), list[Step]()

        def stop(step: Step, told: list[Step] = told) -> None:
            told.append(step)
            if (step.stage, step.index) == ("denoising", 1):
                raise Cancelled

        words = {"prompt": "rain"} if wild.reads else {}
        other = wild.task(kind, seed=9, guidance_scale=2.0, **words)
        with pytest.raises(Cancelled):
            wild.model.generate(other, stop)
        assert told[-1].index == 1, "it went on"
        assert np.array_equal(wild.model.generate(wild.task(kind), lambda step: None), before)


def test_another_process_goes_on_from_any_step_to_the_same_film(wild: Wild) -> None:
    for kind in wild.kinds:
        task = wild.task(kind)
        memory, written = wild.model.remember("film"), dict[int, bytes]()

        def keep(
            step: Step, memory: ClipMemory = memory, written: dict[int, bytes] = written
        ) -> None:
            if step.stage == "denoising" and 0 < step.index < STEPS:
                assert memory.steps == step.index
                written[step.index] = memory.write()

        drawn = wild.model.draw(task, keep, memory)
        assert np.array_equal(drawn, wild.plain(kind)), "remembering changed it"
        for done, data in written.items():
            made: list[int] = []
            again = wild.model.remember("film", data)
            assert again.steps == done
            with counted(wild.model.place.pipe, made):
                resumed = wild.model.draw(task, lambda step: None, again)
            assert np.array_equal(resumed, drawn), (kind, done)
            assert len(made) == STEPS - done, "it made again what was made"


def test_a_checkpoint_of_another_film_is_refused(wild: Wild) -> None:
    memory = wild.model.remember("film")
    wild.model.draw(wild.task(wild.kinds[0]), lambda step: None, memory)
    data = memory.write()
    with pytest.raises(ValueError, match="another film"):
        wild.model.remember("another", data)
    with pytest.raises(ValueError, match="damaged"):
        wild.model.remember("film", data[: len(data) // 2])


def test_the_same_words_are_encoded_once_and_make_the_same_film(wild: Wild) -> None:
    kind, cache = wild.kinds[0], wild.model.prompts
    if not wild.reads:
        return
    wild.plain(kind)
    hits, misses = cache.hits, cache.misses
    assert wild.change(kind) == 0
    assert (cache.hits > hits, cache.misses) == (True, misses)
    assert wild.change(kind, prompt="a blue ball rolls") > 0
    assert cache.misses > misses


def test_a_lora_changes_its_own_job_and_no_other(wild: Wild) -> None:
    kind, card = wild.kinds[0], wild.model.card
    if not takes_loras(wild.folder):
        with pytest.raises(ValueError, match="adapter 'rex': there is none"):
            wild.model.draw(wild.task(kind, adapter="rex"), lambda step: None)
        return
    assert [(one.id, one.word, len(one.sha256)) for one in card.adapters] == [("rex", "sks", 64)]
    add(card.id, wild.folder, wild.folder.parent / "bare", wished(card.id), None)
    bare = load_model(card.id, wild.folder.parent / "bare" / card.id, "cpu")
    assert isinstance(bare, OpenModel)
    assert np.array_equal(bare.draw(wild.task(kind), lambda step: None), wild.plain(kind))
    whole = wild.change(kind, adapter="rex")
    assert whole > 0
    assert wild.change(kind, adapter="rex", adapter_scale=0.25) not in (0, whole)
    assert wild.change(kind, adapter="rex", adapter_scale=0.0) == 0

    def stop(step: Step) -> None:
        if step.index == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        wild.model.draw(wild.task(kind, adapter="rex"), stop)
    assert wild.change(kind) == 0


def test_a_fast_film_leaves_out_blocks_and_leaves_nothing_behind(
    wild: Wild, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = wild.kinds[0]
    if not wild.model.card.tiers:
        with pytest.raises(ValueError, match="there is one only"):
            wild.model.draw(wild.task(kind, quality="fast"), lambda step: None)
        return
    monkeypatch.setattr(tiers, "TOLERANCE", 10.0)  # random weights change much from step to step
    pipe, asked = wild.model.place.pipe, list[int]()
    for network in filter(None, (pipe.transformer, getattr(pipe, "transformer_2", None))):
        second = (network.blocks if hasattr(network, "blocks") else network.transformer_blocks)[1]
        monkeypatch.setattr(second.attn1, "forward", counting(second.attn1.forward, asked))
    wild.model.draw(wild.task(kind, quality="standard"), lambda step: None)
    whole = len(asked)
    memory = wild.model.remember("film")
    fast = wild.model.draw(wild.task(kind, quality="fast"), lambda step: None, memory)
    assert 0 < len(asked) - whole < whole
    assert memory.steps == 0, "it would be gone on with, to another film"

    def stop(step: Step) -> None:
        if step.index == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        wild.model.draw(wild.task(kind, quality="fast"), stop)
    assert wild.change(kind) == 0
    assert not np.array_equal(fast, wild.plain(kind))


def test_a_lora_that_does_not_fit_is_refused_when_the_model_is_loaded(wild: Wild) -> None:
    if not takes_loras(wild.folder):
        return
    card, place = wild.model.card, wild.folder.parent / "misfit"
    strange = {
        f"transformer.nowhere.lora_{side}.weight": np.ones((2, 2), np.float32) for side in "AB"
    }
    place.mkdir()
    save_file(strange, place / "strange.safetensors")
    lora = ("strange", "", place / "strange.safetensors")
    add(card.id, wild.folder, place, wished(card.id), None, [lora])
    with pytest.raises(FolderError, match="does not fit"):
        load_model(card.id, place / card.id, "cpu")


def test_no_given_frame_is_ignored(wild: Wild) -> None:
    side = wild.task("text")
    other = picture(side.width, side.height, 3)
    for kind in wild.kinds:
        for name in ("first_frame", "last_frame"):
            if getattr(wild.task(kind), name) is not None:
                assert wild.change(kind, **{name: other}) > 0, (kind, name)
        references = wild.task(kind).references
        for at in range(len(references)):
            changed = [
                replace(one, picture=other) if one is references[at] else one for one in references
            ]
            assert wild.change(kind, references=tuple(changed)) > 0, (kind, at)


def test_zero_last_frame_strength_is_no_last_frame(wild: Wild) -> None:
    kind, span = "first_last_frame", wild.model.card.inputs.last_frame_strength
    if kind not in wild.kinds or span.minimum == 1:
        with pytest.raises(ValueError, match="cannot make last_frame_strength"):
            wild.model.draw(wild.task(wild.kinds[0], last_frame_strength=0.5), lambda step: None)
        return
    none = wild.model.draw(wild.task(kind, last_frame_strength=0.0), lambda step: None)
    assert np.array_equal(none, wild.plain("image"))
    task = wild.task(kind, last_frame_strength=0.5)
    memory, written = wild.model.remember("film"), list[bytes]()
    half = wild.model.draw(task, lambda step: written.append(memory.write()), memory)
    assert not np.array_equal(half, none)
    assert wild.change(kind, last_frame_strength=0.5) > 0
    again = wild.model.remember("film", written[3])
    assert 0 < again.steps < STEPS
    assert np.array_equal(wild.model.draw(task, lambda step: None, again), half)
    assert wild.change(kind) == 0


def test_scale_and_both_prompts_are_followed(wild: Wild) -> None:
    kind = wild.kinds[0]
    if wild.reads:
        assert wild.change(kind, prompt="blue ball rolls over green grass") > 0
        assert wild.change(kind, negative_prompt="rain, blurry, dark") > 0
    assert wild.change(kind, guidance_scale=8.0) > 0
    assert wild.change(kind, guidance_scale=1.0) > 0


def test_what_the_card_does_not_offer_is_refused_before_any_work(wild: Wild) -> None:
    kind = wild.kinds[0]
    task = wild.task(kind)
    wrong: list[dict[str, Any]] = [
        {"task_type": "upscale"},
        {"num_frames": 1000},
        {"width": task.width + 8},
        {"fps": 121},
        {"sampler": "ddim"},
        {"guidance_scale": 1.0, "negative_prompt": "rain"},
        {"prompt": "x" * (wild.model.card.max_prompt_chars + 1)},
        {"references": () if kind == "reference" else (Reference(picture(32, 32, 1)),)},
        {"first_frame_strength": 0.5},
        {"last_frame_strength": -0.5},
        {"guidance_rescale": 0.5},
        {"guidance_schedule": "linear"},
        {"reconstruction_weight": 1.0},
        {"adapter": "nobody"},
        {"video": np.zeros((4, 8, 8, 3), np.uint8)},
        {"first_frame": None if task.first_frame is not None else picture(32, 32, 1)},
        {"last_frame": None if kind == "first_last_frame" else picture(32, 32, 1)},
    ]
    told: list[Step] = []
    for fields in wrong:
        with pytest.raises(ValueError, match="cannot make"):
            wild.model.generate(replace(task, **fields), told.append)
    assert told == []


def test_the_digest_is_of_the_weights_that_are_loaded(wild: Wild) -> None:
    name, first = wild.model.card.id, wild.model.weights_sha256
    weights = wild.folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 1
    weights.write_bytes(changed)
    try:
        again = load_model(name, wild.models_dir / name, "cpu")
    finally:
        weights.write_bytes(whole)
    assert len(first) == 64
    assert again.weights_sha256 != first
