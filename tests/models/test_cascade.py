"""Laws of the cascade and of the cards that offer it, on tiny presets written to disk."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.catalog import STAGES, ModelCard, Quality, read_card
from models.protocol import Cancelled, Frames, Step, Task
from models.videoldm.cascade import Cascade, Film, film_of, key_times
from models.videoldm.weights import WeightsError, digest, load_preset
from tests.models.stages import build_cascade

TASK = Task(
    task_type="interpolate",
    prompt="",
    negative_prompt="",
    width=32,
    height=32,
    num_frames=24,
    fps=24,
    seed=7,
    num_inference_steps=4,
    guidance_scale=1.0,
    sampler="ddim",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cascade(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def cascade(folder: Path) -> Cascade:
    card = read_card(folder / "card.json")
    assert card.cascade is not None
    return Cascade(load_preset(folder), card.cascade)


@pytest.fixture(scope="module")
def quality(cascade: Cascade) -> Quality:
    return cascade.rule.quality(None)


def silent(step: Step) -> None:
    del step


def latents(count: int) -> Tensor:
    return torch.randn(1, 4, count, 8, 8, generator=torch.Generator().manual_seed(1))


def film(cascade: Cascade, task: Task, on_step: Any = silent) -> Frames:
    asked = film_of(task, cascade.rule, task.quality)
    times = key_times(cascade.rule, task.num_frames, task.fps)
    return np.concatenate(list(cascade.film(latents(len(times)), times, asked, on_step)))


def clip(frames: int, side: int = 32) -> Frames:
    return np.random.default_rng(3).integers(0, 256, (frames, side, side, 3), np.uint8)


def test_keys_become_a_film_of_the_size_and_rate_asked_for(cascade: Cascade) -> None:
    for name in ("standard", "draft"):
        task = replace(TASK, width=128, height=128, num_frames=14, quality=name)
        assert film(cascade, task).shape == (14, 128, 128, 3)


def test_films_of_6_12_and_24_frames_a_second_agree_where_they_meet(cascade: Cascade) -> None:
    task = replace(TASK, quality="draft")
    dense = film(cascade, replace(task, num_frames=25, fps=24))
    for fps, count in ((12, 13), (6, 7)):
        sparse = film(cascade, replace(task, num_frames=count, fps=fps))
        assert np.array_equal(sparse, dense[:: 24 // fps])


def test_stages_report_in_order_and_each_to_its_end(cascade: Cascade) -> None:
    told: list[Step] = []
    film(cascade, replace(TASK, width=128, height=128, num_frames=13), told.append)
    assert [step.stage for step in told if step.index == 0] == ["interpolating", "upscaling"]
    for stage in ("interpolating", "upscaling"):
        steps = [step for step in told if step.stage == stage]
        assert [step.index for step in steps] == list(range(steps[0].total + 1))
    told.clear()
    film(cascade, replace(TASK, num_frames=13), told.append)
    assert [step.stage for step in told if step.index == 0] == ["interpolating", "decoding"]
    assert told[-1].index == told[-1].total == 13


@pytest.mark.parametrize("stage", ["interpolating", "upscaling"])
def test_a_film_is_cancelled_within_any_stage(cascade: Cascade, stage: str) -> None:
    def stop(step: Step) -> None:
        if (step.stage, step.index) == (stage, 2):
            raise Cancelled

    with pytest.raises(Cancelled):
        film(cascade, replace(TASK, width=128, height=128, num_frames=13), stop)


def test_key_frames_reach_past_the_films_end(cascade: Cascade) -> None:
    for fps in (6, 12, 24):
        for frames in range(fps, 4 * fps):
            times = key_times(cascade.rule, frames, fps)
            end = frames / fps
            assert times[-2] < end <= times[-1] + 1e-9
            ending = key_times(cascade.rule, frames, fps, ends=True)
            assert ending[-2] < end - 1 / fps <= ending[-1] + 1e-9
    assert len(key_times(cascade.rule, 2, 24, least=8)) == 8


def test_interpolation_keeps_the_clips_own_frames(cascade: Cascade, quality: Quality) -> None:
    source = clip(5)
    task = replace(TASK, video=source, video_fps=6.0, num_frames=20)
    made = np.concatenate(list(cascade.interpolate(task, quality, silent)))
    assert made.shape == (20, 32, 32, 3)
    assert np.array_equal(made[:17:4], source)
    assert np.array_equal(made[17], source[-1])
    assert not np.array_equal(made[1], source[0])


def test_a_large_clip_is_interpolated_at_its_size(cascade: Cascade, quality: Quality) -> None:
    source = clip(3, side=128)
    task = replace(TASK, video=source, video_fps=12.0, num_frames=6, width=128, height=128)
    made = np.concatenate(list(cascade.interpolate(task, quality, silent)))
    assert made.shape == (6, 128, 128, 3)
    assert np.array_equal(made[:5:2], source)


def test_any_rate_is_interpolated(cascade: Cascade, quality: Quality) -> None:
    task = replace(TASK, video=clip(6), video_fps=25.0, num_frames=14, fps=60)
    assert len(np.concatenate(list(cascade.interpolate(task, quality, silent)))) == 14


def test_upscaling_makes_every_frame_larger(cascade: Cascade, quality: Quality) -> None:
    task = replace(TASK, task_type="upscale", width=128, height=128, video=clip(11), video_fps=8.0)
    made = np.concatenate(list(cascade.upscale(task, quality, silent)))
    assert made.shape == (11, 128, 128, 3)
    again = np.concatenate(list(cascade.upscale(task, quality, silent)))
    assert np.array_equal(made, again)


def test_a_size_the_upsampler_does_not_make_is_refused(cascade: Cascade, quality: Quality) -> None:
    asked = Film((0.0, 1 / 6), 6.0, 96, 96, 0, quality)
    with pytest.raises(ValueError, match="32x32 cannot be made 96x96: the factor is 4"):
        next(cascade.film(latents(2), (0.0, 1 / 6), asked, silent))


def test_a_clip_is_needed(cascade: Cascade, quality: Quality) -> None:
    for work in (cascade.interpolate, cascade.upscale):
        with pytest.raises(ValueError, match="needs a clip"):
            next(work(TASK, quality, silent))


def test_an_unknown_quality_is_refused_by_name(cascade: Cascade) -> None:
    with pytest.raises(ValueError, match=r"'best': \['draft', 'standard'\]"):
        film_of(replace(TASK), cascade.rule, "best")


# ---------------------------------------------------------------------------- cards and weights


def having(folder: Path, into: Path, stages: tuple[str, ...]) -> Path:
    """The preset with only these of its stages."""
    shutil.copytree(folder, into)
    for name in set(STAGES) - set(stages):
        (into / f"{name}.safetensors").unlink()
    return into


def offered(card: ModelCard) -> tuple[set[str], tuple[str, ...], tuple[int, ...]]:
    return set(card.tasks), card.sizes, card.fps


def test_a_whole_cascade_is_offered(folder: Path) -> None:
    card = read_card(folder / "card.json")
    assert offered(card) == (
        {"text", "interpolate", "upscale"},
        ("128x128", "32x32"),
        (24, 12, 6, 8),
    )
    assert card.cascade is not None
    assert [quality.name for quality in card.cascade.qualities] == ["standard", "draft"]
    assert (card.default_frames, card.default_frames_at(24), card.default_frames_at(8)) == (
        48,
        48,
        16,
    )
    assert card.frames_at(24).allows(96)
    assert not card.frames_at(24).allows(97)
    assert card.frames_at(8) == card.frames


@pytest.mark.parametrize(
    ("stages", "tasks", "sizes", "fps"),
    [
        ((), {"text"}, ("32x32",), (8,)),
        (("decoder", "student"), {"text"}, ("32x32",), (8,)),
        (("interpolator",), {"text", "interpolate"}, ("32x32",), (24, 12, 6, 8)),
        (("upsampler",), {"text", "upscale"}, ("128x128", "32x32"), (8,)),
    ],
)
def test_a_card_offers_only_what_its_weights_can_make(
    folder: Path,
    tmp_path: Path,
    stages: tuple[str, ...],
    tasks: set[str],
    sizes: tuple[str, ...],
    fps: tuple[int, ...],
) -> None:
    part = having(folder, tmp_path / "tiny", stages)
    assert offered(read_card(part / "card.json")) == (tasks, sizes, fps)
    loaded = load_preset(part).stages
    present = {name for name in vars(loaded) if getattr(loaded, name) is not None}
    assert present == set(stages)


def test_without_a_student_no_quality_needs_one(folder: Path, tmp_path: Path) -> None:
    part = having(folder, tmp_path / "tiny", ("interpolator", "upsampler"))
    card = read_card(part / "card.json")
    assert card.cascade is not None
    assert [quality.name for quality in card.cascade.qualities] == ["standard"]


def test_a_stage_belongs_to_what_the_weights_are_called_by(folder: Path, tmp_path: Path) -> None:
    assert digest(having(folder, tmp_path / "tiny", STAGES[:3])) != digest(folder)


def test_a_damaged_stage_is_named(folder: Path, tmp_path: Path) -> None:
    part = having(folder, tmp_path / "tiny", ("interpolator",))
    (part / "interpolator.json").write_text('{"infill": 3, "depth": 2}', encoding="utf-8")
    with pytest.raises(WeightsError, match=r"interpolator\.json: not a InterpolatorConfig"):
        load_preset(part)
    (part / "interpolator.json").unlink()
    with pytest.raises(WeightsError, match=r"interpolator\.json"):
        load_preset(part)
