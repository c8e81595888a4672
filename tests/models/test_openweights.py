"""The contract of every adapter of open weights, on tiny checkpoints read from disk."""

import bisect
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_weights
from safetensors.torch import save_file as save_weights

from models.batch import Place
from models.openweights import tiers
from models.openweights.__main__ import add
from models.openweights.families import Wishes, read_family
from models.openweights.folder import FolderError, read_checkpoint
from models.openweights.loading import load_pipeline
from models.openweights.pipeline import OpenModel
from models.openweights.replay import wrapped
from models.openweights.segments import LONG
from models.openweights.snapshots import FilmMemory
from models.protocol import (
    Cancelled,
    Frames,
    Keyframe,
    LongPrompt,
    OnStep,
    Reference,
    ResumableModel,
    Shot,
    Step,
    Task,
)
from models.registry import load_model
from tests.models.wilds import FRAMES, LENGTHS, WILDS, build

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 3
BEFORE = 9  # frames of a clip that is gone on with
GUIDANCE = 3.0
SIZES = {"wan-2.2-5b": "64x64", "svd": "64x64", "ltx-2": "64x64"}  # multiples that are larger


def wished(name: str) -> Wishes:
    """Small films of a checkpoint; some have sizes of their own only."""
    sizes = () if name.startswith(("cogvideox", "hunyuan-1.5-i2v")) else (SIZES.get(name, "32x32"),)
    return Wishes(sizes=sizes, frames=length(name), steps=STEPS, guidance=GUIDANCE)


SOUNDING = ("ltx-2",)  # sound has a scheduler of its own


def ignore(step: Step) -> None:
    """What is told to nobody."""


def length(name: str) -> int:
    """Frames of a checkpoint's films."""
    return LENGTHS.get(name, FRAMES)


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
        if kind == "extend":
            given["video"] = np.stack([picture(width, height, 10 + at) for at in range(BEFORE)])
        if kind == "edit":
            given["video"] = np.stack([picture(width, height, at) for at in range(length(card.id))])
            given["mask"] = np.zeros((height, width, 3), np.uint8)
            given["mask"][:, width // 2 :] = 255  # the right half is made anew
        if kind == "story":
            given["shots"] = tuple(Shot(f"{word} runs", 4, 3) for word in ("red fox", "blue ball"))
        if kind == "reference":
            given["references"] = tuple(Reference(picture(48, 32, seed)) for seed in (4, 5))
        numbers: dict[str, Any] = {
            "width": width,
            "height": height,
            "num_frames": {"extend": BEFORE + 4, "story": 8}.get(kind, length(card.id)),
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
        return float(np.abs(self.made(self.task(kind, **fields)) - self.plain(kind)).max())

    def made(self, task: Task, on_step: OnStep = ignore, memory: FilmMemory | None = None) -> Any:
        """A film as exactly as there is one: before it is rounded, if it is of one clip."""
        if task.task_type not in LONG:
            return self.model.draw(task, on_step, memory)
        return np.concatenate(list(self.model.stream(task, on_step, memory))) / 255

    def plain(self, kind: str) -> np.ndarray:
        """The film of the plain task before it is rounded, made once."""
        if kind not in self.drawn:
            self.drawn[kind] = self.made(self.task(kind))
        return self.drawn[kind]

    @property
    def reads(self) -> bool:
        """Whether it follows prompts."""
        return self.model.card.max_prompt_chars > 0

    def steps(self, kind: str) -> int:
        """Of a film, all its clips and all loops of its pipeline together."""
        if kind in LONG:  # each of its clips is a short one
            return STEPS * len(self.task(kind).shots or "1")
        return STEPS * self.model.adapter.loops(self.task(kind))

    @property
    def kinds(self) -> list[str]:
        """Of one clip first."""
        return sorted(self.model.card.tasks, key=lambda kind: (kind in LONG, kind))


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
        assert wild.films[kind].shape == (task.num_frames, task.height, task.width, 3)
        assert wild.films[kind].dtype == np.uint8
        told = [(step.stage, step.index, step.total) for step in steps]
        total = wild.steps(kind)
        denoising = [("denoising", index, total) for index in range(total + 1)]
        assert told == [("encoding", 0, 1), *denoising, ("decoding", 0, 1), ("decoding", 1, 1)]


def test_a_seed_makes_one_film_and_another_seed_another(wild: Wild) -> None:
    kind = wild.kinds[0]
    assert wild.change(kind) == 0
    assert wild.change(kind, seed=8) > 0


def test_in_half_precision_as_on_gpus_every_kind_makes_nearly_the_same_film(wild: Wild) -> None:
    name = wild.model.card.id
    half = load_model(name, wild.models_dir / name, "cpu", "bfloat16")
    assert isinstance(half, OpenModel)
    parts = {n: p for n, p in half.place.pipe.components.items() if isinstance(p, torch.nn.Module)}
    whole = {n for n, p in parts.items() if all(w.dtype == torch.float32 for w in p.parameters())}
    assert whole == set(half.adapter.exact) & set(parts)
    for kind in wild.kinds:
        if kind not in LONG:
            film = half.draw(wild.task(kind), ignore)
            assert np.abs(film - wild.plain(kind)).mean() < 0.2, kind
    if half.card.inputs.last_frame_strength.minimum == 0:
        half.draw(wild.task("first_last_frame", last_frame_strength=0.5), ignore)


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
        memory, written, total = wild.model.remember("film"), dict[int, bytes](), wild.steps(kind)

        def keep(
            step: Step,
            memory: FilmMemory = memory,
            written: dict[int, bytes] = written,
            total: int = total,
        ) -> None:
            if step.stage == "denoising" and 0 < step.index < total:
                assert memory.steps == step.index
                written[step.index] = memory.write()

        drawn = wild.made(task, keep, memory)
        assert np.array_equal(drawn, wild.plain(kind)), "remembering changed it"
        for done, data in written.items():
            made: list[int] = []
            again = wild.model.remember("film", data)
            assert again.steps == done
            with counted(wild.model.place.pipe, made):
                resumed = wild.made(task, ignore, again)
            assert np.array_equal(resumed, drawn), (kind, done)
            schedulers = 2 if wild.model.card.id in SOUNDING else 1
            assert len(made) == schedulers * (total - done), "it made again what was made"


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


TEMPLATED = ("hunyuan", "framepack")  # prompts stand in a text of their authors', of letters here


def test_a_prompt_is_read_to_its_end_or_refused(wild: Wild) -> None:
    if not wild.reads:
        return
    kind, tokenizer = wild.kinds[0], wild.model.place.pipe.tokenizer
    most = wild.model.adapter.tokens or tokenizer.model_max_length
    assert wild.model.card.max_prompt_chars == min(8000, 8 * most)

    def count(words: int) -> int:
        return len(tokenizer("fox " * words).input_ids)

    fit = bisect.bisect_right(range(most), most, key=count) - 1
    for name in ("prompt", "negative_prompt"):
        with pytest.raises(LongPrompt, match=rf"the {name} has {count(fit + 1)} .* reads {most}$"):
            wild.model.generate(wild.task(kind, **{name: "fox " * (fit + 1)}), ignore)
    if not wild.model.card.id.startswith(TEMPLATED):
        most_of_it = "fox " * (fit - 1)
        one, other = (wild.made(wild.task(kind, prompt=most_of_it + end)) for end in ("fox", "ox"))
        assert np.abs(one - other).max() > 0


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


def test_an_edit_follows_its_mask_and_sees_only_what_stays(wild: Wild) -> None:
    if "edit" not in wild.kinds:
        return
    task = wild.task("edit")
    assert task.video is not None
    assert task.mask is not None
    half = task.width // 2
    assert wild.change("edit", mask=255 - task.mask) > 0
    for side, seen in ((slice(half), True), (slice(half, None), False)):
        clip = task.video.copy()
        clip[2, :, side] = 255 - clip[2, :, side]
        assert (wild.change("edit", video=clip) > 0) == seen


def test_keyframes_are_seen_where_they_are(wild: Wild) -> None:
    card, kind = wild.model.card, wild.kinds[0]
    most, ends = card.inputs.max_keyframes, length(wild.model.card.id) - 1
    side = wild.task("text")
    one, other = (picture(side.width, side.height, seed) for seed in (3, 4))
    wrong = [(Keyframe(one, at) for at in range(1, most + 2)), (Keyframe(one, ends + 1),)]
    for keyframes in wrong:
        with pytest.raises(ValueError, match="keyframes"):
            wild.model.draw(wild.task(kind, keyframes=tuple(keyframes)), ignore)
    if not most:
        return
    kind = "text"
    films = [
        wild.model.draw(wild.task(kind, keyframes=(Keyframe(shown, at),)), ignore)
        for shown, at in ((one, 4), (other, 4), (one, 6))
    ]
    for film in films[1:]:
        assert np.abs(film - films[0]).max() > 0
    assert np.abs(films[0] - wild.plain(kind)).max() > 0


def test_a_film_goes_on_from_the_clip_it_extends(wild: Wild) -> None:
    if "extend" not in wild.kinds:
        return
    task = wild.task("extend")
    assert task.video is not None
    film = wild.plain("extend")
    assert np.array_equal(film[:BEFORE] * 255, task.video)
    seen = next(count for count in wild.model.adapter.contexts if count <= BEFORE)
    for back in {1, seen}:
        clip = task.video.copy()
        clip[-back] = 255 - clip[-back]
        made = wild.made(replace(task, video=clip))
        assert np.abs(made[BEFORE:] - film[BEFORE:]).max() > 0, f"frame {back} before is ignored"


def test_shots_follow_their_own_words_and_a_cut_begins_anew(wild: Wild) -> None:
    if "story" not in wild.kinds:
        return
    task, film = wild.task("story"), wild.plain("story")
    first, second = task.shots
    for shots in (
        (first, replace(second, prompt="rain")),
        (first, replace(second, seed=5)),
        (first, replace(second, transition="cut")),
    ):
        made = wild.made(replace(task, shots=shots))
        assert np.array_equal(made[:4], film[:4])
        assert np.abs(made[4:] - film[4:]).max() > 0
    alone = replace(task, shots=(replace(second, transition="cut"), first))
    assert np.array_equal(wild.made(alone)[:4], wild.made(replace(task, shots=shots))[4:])


def test_films_side_by_side_are_those_made_alone(wild: Wild) -> None:
    card, kind = wild.model.card, wild.kinds[0]
    assert card.batchable == ("text" in card.tasks and card.id != "animatediff-subject")
    tasks = [wild.task(kind), wild.task(kind, seed=8, num_inference_steps=STEPS)]
    if wild.reads:
        tasks[1] = replace(tasks[1], prompt="a blue ball rolls over green grass")
    drawn: dict[int, np.ndarray] = {}
    told: dict[int, list[Step]] = {0: [], 1: [], 2: []}

    def maker(number: int, task: Task) -> Callable[[ResumableModel], None]:
        def make(model: ResumableModel) -> None:
            if isinstance(model, OpenModel):
                drawn[number] = model.draw(task, told[number].append)
                return
            assert isinstance(model, Place)
            with model.table.turn:
                drawn[number] = cast(OpenModel, model.model).draw(task, told[number].append)

        return make

    asked: list[int] = []
    network = getattr(wild.model.place.pipe, "transformer", None) or wild.model.place.pipe.unet
    with wrapped(network, "forward", lambda real: counting(real, asked)):
        alone = [wild.model.draw(task, ignore) for task in tasks]
        passes = len(asked)
        wild.model.together([maker(at, task) for at, task in enumerate(tasks)])
    for number, film in enumerate(alone):
        assert np.abs(drawn[number] - film).max() < 1e-4
        assert [step.index for step in told[number] if step.stage == "denoising"][-1] == (
            wild.steps(kind)
        )
    assert len(asked) - passes == (passes // 2 if card.batchable else passes)


def test_a_film_that_is_stopped_leaves_those_beside_it_alone(wild: Wild) -> None:
    kind = wild.kinds[0]
    if not wild.model.card.batchable:
        return
    films: list[Frames] = []

    def stop(step: Step) -> None:
        if (step.stage, step.index) == ("denoising", 1):
            raise Cancelled

    def stopped(model: ResumableModel) -> None:
        with pytest.raises(Cancelled):
            list(model.stream(wild.task(kind, seed=9), stop))

    def whole(model: ResumableModel) -> None:
        films.extend(model.stream(wild.task(kind), ignore))
        for wrong in ({"adapter": "rex"}, {"quality": "fast"}, {"quality": "turbo"}):
            with pytest.raises(ValueError, match="only alone"):
                model.stream(wild.task(kind, **wrong), ignore)

    wild.model.together([stopped, whole])
    levels = np.abs(films[0].astype(int) - wild.film(kind).astype(int))
    assert levels.max() <= 1
    assert np.array_equal(wild.model.generate(wild.task(kind), ignore), wild.film(kind))


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


WRONG: dict[str, list[dict[str, Any]]] = {
    "extend": [
        {"video": None},
        {"video": np.zeros((9, 8, 8, 3), np.uint8)},
        {"video_fps": 3.0},
        {"extend_before": True},
        {"num_frames": BEFORE},
        {"num_frames": 5000},
    ],
    "story": [
        {"shots": ()},
        {"num_frames": 9},
        {"shots": (Shot("a fox", 8, 3, last_frame=picture(32, 32, 1)),)},
        {"shots": (Shot("a fox", 8, 3, negative_prompt="rain"),), "guidance_scale": 1.0},
        {"shots": (Shot("x" * 9000, 8, 3),)},
    ],
}


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
        {"context_frames": 0},
        {"context_guidance": 4.0},
        {"extend_before": True},
        {"last_frame_is_sketch": True},
        {"upscale_factor": 4},
        {"target_fps": 60},
        {"adapter": "nobody"},
        {"video": np.zeros((4, 8, 8, 3), np.uint8)},
        {"shots": (Shot("a fox", 9, 3),)},
        {"mask": None if kind == "edit" else np.zeros((32, 32, 3), np.uint8)},
        {"keyframes": (Keyframe(picture(32, 32, 1), 900),)},
        {"first_frame": None if task.first_frame is not None else picture(32, 32, 1)},
        {"last_frame": None if kind == "first_last_frame" else picture(32, 32, 1)},
    ]
    for long in LONG & wild.model.card.tasks:
        lasting = wild.task(long)
        wrong += [vars(lasting) | fields for fields in WRONG[long]]
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


def test_a_part_that_lacks_a_weight_is_refused_and_not_made_up(wild: Wild) -> None:
    checkpoint = read_checkpoint(wild.folder)
    for name in checkpoint.networks():
        (path,) = (wild.folder / name).glob("*.safetensors")
        whole, weights = path.read_bytes(), load_weights(path)
        lacking = max(weights)
        del weights[lacking]
        save_weights(weights, path, {"format": "pt"})
        try:
            with pytest.raises(FolderError, match=f"{name}: its files lack "):
                load_pipeline(checkpoint, wild.model.adapter, torch.float32)
        finally:
            path.write_bytes(whole)
