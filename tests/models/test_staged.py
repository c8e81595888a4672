"""Laws of a preset with its stages behind the protocol, on a tiny preset written to disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.protocol import Cancelled, Shot, Step, StreamingModel, Task
from models.registry import load_model
from models.videoldm.pipeline import VideoLDM
from models.videoldm.staged import StagedLDM
from tests.models.presets import build_preset
from tests.models.stages import build_cascade

TASK = Task(
    task_type="text",
    prompt="a cat moving left over a sunset",
    negative_prompt="",
    width=128,
    height=128,
    num_frames=24,
    fps=24,
    seed=7,
    num_inference_steps=3,
    guidance_scale=3.0,
    sampler="dpmpp_2m",
    quality="draft",
)
SMALL = replace(TASK, width=32, height=32)
SHOT = Shot("a cat moving left", 36, 1)
LATE = Shot("a dog", 12, 2)
STORY = replace(TASK, task_type="story", quality="standard", num_inference_steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StagedLDM:
    torch.set_num_threads(1)
    folder = build_cascade(tmp_path_factory.mktemp("models") / "tiny")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card["tasks"] += ["story", "extend", "edit"]
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    loaded = load_model("tiny", folder, "cpu")
    assert isinstance(loaded, StagedLDM)
    return loaded


def silent(step: Step) -> None:
    del step


def test_a_prompt_becomes_a_large_dense_film(model: StagedLDM) -> None:
    told: list[Step] = []
    film = model.generate(TASK, told.append)
    assert film.shape == (24, 128, 128, 3)
    stages = list(dict.fromkeys(step.stage for step in told))
    assert stages == ["encoding", "denoising", "interpolating", "upscaling"]
    assert isinstance(model, StreamingModel)


def test_qualities_differ_in_their_work(model: StagedLDM) -> None:
    told: dict[str, list[Step]] = {"draft": [], "standard": []}
    for name, steps in told.items():
        model.generate(replace(SMALL, quality=name), steps.append)
    totals = {
        name: {step.stage: step.total for step in steps if step.index == 1}
        for name, steps in told.items()
    }
    assert totals["draft"]["denoising"] == 4
    assert totals["standard"]["denoising"] == 2
    assert totals["draft"]["interpolating"] < totals["standard"]["interpolating"]


def test_what_the_base_makes_alone_it_makes_alone(model: StagedLDM) -> None:
    task = replace(SMALL, num_frames=8, fps=8, quality=None)
    assert np.array_equal(model.generate(task, silent), model.base.generate(task, silent))


@pytest.mark.parametrize("fps", [12, 6])
def test_a_film_of_a_lower_rate_is_some_of_its_frames(model: StagedLDM, fps: int) -> None:
    dense = model.generate(replace(SMALL, num_frames=48), silent)
    sparse = model.generate(replace(SMALL, fps=fps, num_frames=2 * fps), silent)
    assert np.array_equal(dense[:: 24 // fps], sparse)


def test_a_seed_makes_one_film(model: StagedLDM) -> None:
    one = model.generate(SMALL, silent)
    assert np.array_equal(one, model.generate(SMALL, silent))
    assert not np.array_equal(one, model.generate(replace(SMALL, seed=8), silent))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_frames": 12}, r"0\.5 s: between 1 and 4"),
        ({"num_frames": 120}, "5 s: between 1 and 4"),
        ({"task_type": "keyframes"}, "cannot make task 'keyframes'"),
        ({"task_type": "story", "shots": (SHOT, LATE)}, "a shot of 12 frames: 24 at least"),
        ({"task_type": "story", "num_frames": 5000, "shots": (SHOT,)}, "5000 frames: 4096"),
        ({"quality": "best"}, "quality 'best'"),
        ({"prompt": "cat " * 100}, "the prompt has 102 tokens, the model reads 64"),
        ({"width": 96, "height": 96}, "cannot be made 96x96"),
    ],
)
def test_what_the_card_does_not_offer_is_refused(
    model: StagedLDM, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        model.generate(replace(TASK, **change), silent)  # type: ignore[arg-type]


def test_a_clip_is_upscaled_and_interpolated(model: StagedLDM) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    given = replace(TASK, video=clip, video_fps=12.0, fps=12, num_frames=4)
    assert model.generate(replace(given, task_type="upscale"), silent).shape == (4, 128, 128, 3)
    dense = replace(SMALL, task_type="interpolate", video=clip, video_fps=12.0, num_frames=8)
    assert np.array_equal(model.generate(dense, silent)[:7:2], clip)


def test_a_preset_without_stages_is_the_base_itself(tmp_path: Path) -> None:
    assert isinstance(load_model("tiny", build_preset(tmp_path / "tiny"), "cpu"), VideoLDM)


def story(*shots: Shot, **changes: object) -> Task:
    told = replace(STORY, shots=shots, num_frames=sum(shot.num_frames for shot in shots))
    return replace(told, **changes)  # type: ignore[arg-type]


def test_a_story_is_large_and_dense_and_told_shot_by_shot(model: StagedLDM) -> None:
    told: list[Step] = []
    task = story(SHOT, replace(SHOT, seed=2), replace(SHOT, num_frames=24, transition="cut"))
    assert model.generate(task, told.append).shape == (96, 128, 128, 3)
    assert {step.stage for step in told} == {"encoding", "denoising"}
    assert told[0] == Step("encoding", 0, 1, 0, 3)
    places = [(step.index, step.shot) for step in told]
    assert places == sorted(places)
    assert (told[-1].index, told[-1].shot, told[-1].shots) == (told[-1].total, 2, 3)
    assert max(step.shot_done for step in told if step.shot == 1) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(("fps", "lengths"), [(12, (18, 18, 12)), (6, (9, 9, 6))])
def test_a_story_of_a_lower_rate_is_some_of_its_frames(
    model: StagedLDM, fps: int, lengths: tuple[int, ...]
) -> None:
    def told(rate: int, counts: tuple[int, ...]) -> Task:
        shots = [replace(SHOT, num_frames=count, seed=seed) for seed, count in enumerate(counts)]
        shots[2] = replace(shots[2], transition="cut")
        size = {"width": 32, "height": 32, "quality": "draft"}  # each frame decoded by itself
        return story(*shots, fps=rate, num_inference_steps=4, **size)

    dense = model.generate(told(24, (36, 36, 24)), silent)
    difference = dense[:: 24 // fps].astype(int) - model.generate(told(fps, lengths), silent)
    assert np.abs(difference).max() <= 1


def test_nothing_is_filled_in_across_a_cut(model: StagedLDM) -> None:
    two = (SHOT, replace(SHOT, prompt="a dog", num_frames=24, seed=9, transition="cut"))
    film = model.generate(story(*two), silent)
    assert np.array_equal(film[:36], model.generate(story(two[0]), silent))
    assert np.array_equal(film[36:], model.generate(story(two[1]), silent))
    going_on = model.generate(story(two[0], replace(two[1], transition="continue")), silent)
    assert not np.array_equal(going_on[:36], film[:36])  # its last frames lead over


def test_a_long_story_is_handed_over_while_it_is_made(model: StagedLDM) -> None:
    """What waits to be handed over, or is remembered, does not grow with the film."""
    told: list[Step] = []
    shots = [replace(SHOT, num_frames=72, seed=seed) for seed in range(4)]
    memory = model.remember("story")
    made, waiting = 0, []
    for piece in model.stream(story(*shots, width=32, height=32), told.append, memory):
        made += len(piece)
        waiting.append(72 * (told[-1].shot + 1) - made)
    assert made == 288
    assert max(waiting) < 2 * 72
    assert {name.split("/")[0] for name in memory.addresses} == {"base"}


def test_the_card_reckons_with_no_more_memory_than_the_longest_clip_takes(
    model: StagedLDM,
) -> None:
    cost = model.card.cost
    longest, story = (128 * 128 * frames / 1e6 for frames in (96, 4096))
    assert cost.peak_mb(longest / 2) < cost.peak_mb(longest) == cost.peak_mb(story)


def test_a_stopped_story_goes_on_from_its_keys(model: StagedLDM) -> None:
    task = story(SHOT, replace(SHOT, seed=2))
    whole = model.generate(task, silent)
    memory = model.remember("story")

    def stop(step: Step) -> None:
        if step.shot == 1 and step.stage == "denoising":
            raise Cancelled

    with pytest.raises(Cancelled):
        list(model.stream(task, stop, memory))
    assert memory.steps > 0
    again = model.remember("story", memory.write())
    assert np.array_equal(np.concatenate(list(model.stream(task, silent, again))), whole)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(("fps", "size"), [(24, 128), (12, 32), (8, 128)])
def test_an_extension_keeps_its_clip_and_adds_what_was_asked(
    model: StagedLDM, before: bool, fps: int, size: int
) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (7, size, size, 3), np.uint8)
    shape = {"width": size, "height": size, "fps": fps, "num_frames": 7 + 30}
    task = replace(STORY, task_type="extend", video=clip, video_fps=float(fps), **shape)
    film = model.generate(replace(task, extend_before=before), silent)
    assert film.shape == (37, size, size, 3)
    assert np.array_equal(film[-7:] if before else film[:7], clip)


def test_an_extension_sees_the_clip_where_its_keys_fall(model: StagedLDM) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    shape = {"width": 32, "height": 32, "num_frames": 9 + 24}
    task = replace(STORY, task_type="extend", video=clip, video_fps=24.0, **shape)

    def added(changed: int) -> bool:
        other = clip.copy()
        other[changed] = 0
        films = (model.generate(replace(task, video=video), silent) for video in (clip, other))
        return not np.array_equal(*(film[9:] for film in films))

    assert [added(frame) for frame in (3, 4, 7, 8)] == [False, True, False, True]


@pytest.mark.parametrize("before", [False, True])
def test_an_extension_joins_the_frame_next_to_it_whatever_the_base_sees(
    model: StagedLDM, before: bool
) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    shape = {"width": 32, "height": 32, "num_frames": 9 + 24, "context_frames": 0}
    task = replace(STORY, task_type="extend", video=clip, video_fps=24.0, **shape)
    task = replace(task, extend_before=before)

    def added(changed: int) -> bool:
        other = clip.copy()
        other[changed] = 0
        films = (model.generate(replace(task, video=video), silent) for video in (clip, other))
        return not np.array_equal(*(film[:24] if before else film[9:] for film in films))

    assert [added(frame) for frame in (0, 4, 8)] == [before, False, not before]


def test_an_edit_is_as_large_and_dense_as_its_clip(model: StagedLDM) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (30, 128, 128, 3), np.uint8)
    edit = replace(STORY, task_type="edit", video=clip, video_fps=24.0, num_frames=30)
    film = model.generate(replace(edit, first_frame=clip[5]), silent)
    assert film.shape == (30, 128, 128, 3)
    middle = clip.copy()
    middle[10:20] = 0  # which an edit never looks at
    again = model.generate(replace(edit, first_frame=clip[5], video=middle), silent)
    assert np.array_equal(film, again)
    ending = clip.copy()
    ending[-1] = 0
    other = model.generate(replace(edit, first_frame=clip[5], video=ending), silent)
    assert not np.array_equal(film, other)
