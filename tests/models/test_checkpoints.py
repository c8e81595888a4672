"""A film that is interrupted anywhere and gone on with elsewhere is the film, bit for bit."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from models.protocol import Cancelled, Frames, Memory, ResumableModel, Step, Task
from models.registry import load_model
from models.videoldm.checkpoints import read_header
from models.videoldm.config import UNetConfig
from models.videoldm.pipeline import VideoLDM, load_videoldm
from models.videoldm.staged import StagedLDM
from tests.models.presets import TINY, build_preset
from tests.models.stages import build_cascade
from tests.models.test_tasks import (
    BOTH,
    CLIP,
    EDIT,
    EXTEND,
    REFERENCE,
    SAMPLERS,
    SOURCE,
    STORY,
    TEXT,
    allow_everything,
)

LONG = replace(TEXT, num_inference_steps=4)
KINDS = {
    "last frame that ends midway": replace(BOTH, num_inference_steps=4, last_frame_strength=0.5),
    "reference": REFERENCE,
    "reconstruction": replace(EXTEND, reconstruction_weight=1.0),
    "story": STORY,
    "extension": EXTEND,
    "extension backwards": replace(EXTEND, extend_before=True, num_frames=22),
    "edit": replace(EDIT, num_inference_steps=4, sampler="ancestral"),
}
SMALL = replace(TEXT, fps=24, num_frames=24, quality="draft")
CLIP_12 = np.ascontiguousarray(SOURCE[:4])
STAGED = {
    "distilled": SMALL,
    "guided and enlarged": replace(SMALL, width=128, height=128, quality="standard"),
    "interpolation": replace(SMALL, task_type="interpolate", video=CLIP_12, video_fps=12.0),
    "upscaling": replace(
        SMALL, task_type="upscale", width=128, height=128, video=SOURCE, num_frames=6, fps=8
    ),
}
STAGED["interpolation"] = replace(STAGED["interpolation"], num_frames=8)


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


Made = tuple[Frames, list[Step]]


def make(model: ResumableModel, task: Task, memory: Memory | None = None) -> Made:
    told: list[Step] = []
    return np.concatenate(list(model.stream(task, told.append, memory))), told


def interrupted(model: ResumableModel, task: Task, after: int) -> bytes:
    """What is remembered of a film that is stopped at a report."""
    memory = model.remember("task")
    reports = iter(range(after))

    def stop(step: Step) -> None:
        if next(reports, None) is None:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(model.stream(task, stop, memory))
    return memory.write()


def steps_in(data: bytes) -> int:
    return sum(run["step"] for run in read_header(data)["runs"].values())


def calls_of(networks: list[nn.Module]) -> tuple[list[int], Callable[[], None]]:
    """Counts the forwards of networks until told to stop."""
    calls: list[int] = []
    handles = [net.register_forward_hook(lambda *_: calls.append(1)) for net in networks]

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return calls, stop


def check_stops(model: ResumableModel, task: Task, networks: list[nn.Module]) -> None:
    """Stop at some reports, spread over the film, and go on in another memory."""
    calls, stop = calls_of(networks)
    drawn = model.remember("task")
    whole, told = make(model, task, drawn)
    needed, last = len(calls), len(told) - 1
    for after in sorted({last // 3, 2 * last // 3, last}):
        data = interrupted(model, task, after)
        calls.clear()
        memory = model.remember("task", data)
        film, again = make(model, task, memory)
        assert np.array_equal(film, whole), f"stopped at {told[after]}"
        assert memory.write() == drawn.write(), "its latents differ, though the eye cannot tell"
        assert len(calls) <= needed
        assert again[-1] == told[-1]
        places = [step.index for step in again if step.stage == "denoising"]
        assert places == sorted(places)
    assert not calls  # at the last report everything was drawn
    stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_film_stopped_anywhere_comes_out_the_same(model: VideoLDM, kind: str) -> None:
    check_stops(model, KINDS[kind], [model.preset.unet])


@pytest.mark.parametrize("kind", STAGED)
def test_a_film_stopped_in_any_stage_comes_out_the_same(staged: StagedLDM, kind: str) -> None:
    stages = staged.base.preset.stages
    assert stages.student
    assert stages.interpolator
    assert stages.upsampler
    networks = [stages.student.unet, stages.interpolator.unet, stages.upsampler.unet]
    check_stops(staged, STAGED[kind], [staged.base.preset.unet, *networks])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_is_made_twice_wherever_it_stops(model: VideoLDM, sampler: str) -> None:
    task = replace(LONG, sampler=sampler)
    whole, _ = make(model, task)
    calls, stop = calls_of([model.preset.unet])
    for done in range(1, 5):
        data = interrupted(model, task, done + 1)  # encoding and 0 were told, then each step
        assert steps_in(data) == done
        calls.clear()
        film, told = make(model, task, model.remember("task", data))
        assert np.array_equal(film, whole)
        assert len(calls) == 2 * (4 - done)  # guided: two forwards a step
        places = [step.index for step in told if step.stage == "denoising"]
        assert places == list(range(done, 5))
    stop()


def test_a_film_may_be_stopped_again_and_again(model: VideoLDM) -> None:
    whole, _ = make(model, STORY)
    data: bytes | None = None
    for after in (4, 8, 14):
        memory, reports = model.remember("task", data), iter(range(after))

        def stop(step: Step, reports: Iterator[int] = reports) -> None:
            if next(reports, None) is None:
                raise Cancelled

        before = 0 if data is None else steps_in(data)
        with pytest.raises(Cancelled):
            list(model.stream(STORY, stop, memory))
        data = memory.write()
        assert steps_in(data) > before
    assert np.array_equal(make(model, STORY, model.remember("task", data))[0], whole)


def test_a_damaged_memory_is_refused(model: VideoLDM) -> None:
    data = interrupted(model, LONG, 3)
    foreign = save({"x": torch.zeros(1)}, {"film": json.dumps({"format": 1})})
    for damaged in (b"", b"\x00" * 64, data[:20], data[:-8], foreign, b"{}", data[8:]):
        with pytest.raises(ValueError, match="damaged"):
            model.remember("task", damaged)


def test_a_memory_of_another_film_model_or_number_is_refused(
    model: VideoLDM, staged: StagedLDM, tmp_path: Path
) -> None:
    data = interrupted(model, LONG, 3)
    folder = build_preset(tmp_path / "tiny", config=model.preset.config)
    halves = load_videoldm(folder, "cpu", torch.bfloat16)
    with pytest.raises(ValueError, match="another film"):
        model.remember("other", data)
    with pytest.raises(ValueError, match="another film"):
        staged.remember("task", data)
    with pytest.raises(ValueError, match="another film"):
        halves.remember("task", data)
    assert model.remember("task", data).write() == data


def test_models_of_the_family_can_be_resumed(model: VideoLDM, staged: StagedLDM) -> None:
    assert isinstance(model, ResumableModel)
    assert isinstance(staged, ResumableModel)
