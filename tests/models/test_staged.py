"""Laws of a preset with its stages behind the protocol, on a tiny preset written to disk."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.protocol import Step, StreamingModel, Task
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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StagedLDM:
    torch.set_num_threads(1)
    folder = build_cascade(tmp_path_factory.mktemp("models") / "tiny")
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


def test_a_film_of_half_the_rate_is_every_second_frame(model: StagedLDM) -> None:
    dense = model.generate(SMALL, silent)
    sparse = model.generate(replace(SMALL, fps=12, num_frames=12), silent)
    assert np.array_equal(dense[::2], sparse)


def test_a_seed_makes_one_film(model: StagedLDM) -> None:
    one = model.generate(SMALL, silent)
    assert np.array_equal(one, model.generate(SMALL, silent))
    assert not np.array_equal(one, model.generate(replace(SMALL, seed=8), silent))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_frames": 12}, r"0\.5 s: between 1 and 4"),
        ({"num_frames": 120}, "5 s: between 1 and 4"),
        ({"task_type": "edit"}, "cannot make task 'edit'"),
        ({"quality": "best"}, "quality 'best'"),
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
