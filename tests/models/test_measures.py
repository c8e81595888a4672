"""Laws of the measures: what is chosen, what a probe opens, what each figure means."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalog import FrameRule, ModelCard, read_card
from models.evaluation import identity, rates, seams, stages
from models.evaluation.__main__ import _beside, main
from models.evaluation.bench import Bench
from models.evaluation.checker import BANDS
from models.evaluation.features import COARSE_SIDE, WIDTH, EfficientNetLite
from models.evaluation.gallery import Discriminant, Gallery, Neighbours
from models.evaluation.given import drawing, overlap, rises
from models.evaluation.identity import separation
from models.evaluation.masks import SubjectFinder
from models.evaluation.measures import NAMES, chosen, measured
from models.evaluation.probe import assembled, open_preset
from models.evaluation.prompts import (
    FIRST_UNSEEN_SEED,
    PROMPTS,
    UNSEEN,
    Prompt,
    read_prompts,
)
from models.evaluation.scores import decibels, mean
from models.evaluation.suite import GateError
from models.training.concepts import HELD_OUT
from models.videoldm.config import read_config, write_config
from models.videoldm.pipeline import VideoLDM
from models.videoldm.weights import WeightsError
from tests.models.presets import TINY, build_preset
from tests.models.shapes import SHAPES, world_of_shapes
from tests.models.stages import build_cascade

UNSEEN_SHA256 = "d02bb888da169086397373577dd3c1d6be57bbedb0b1a63146df0f48b72cf751"
MOTIONS = ("left", "still", "right", "still", "down", "up")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_preset(tmp_path_factory.mktemp("models") / "tiny")


def test_a_probe_takes_other_weights_and_leaves_the_preset_alone(
    folder: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    moved = {name: value + 1 for name, value in load_file(folder / "unet.safetensors").items()}
    save_file(moved, tmp_path / "average.safetensors")
    own = open_preset(folder)
    probed = open_preset(folder, tmp_path / "average.safetensors", ("image",))
    assert isinstance(own, VideoLDM)
    assert isinstance(probed, VideoLDM)
    assert probed.weights_sha256 != own.weights_sha256
    assert probed.card.tasks == own.card.tasks | {"image"}
    for one, other in zip(
        probed.preset.unet.parameters(), own.preset.unet.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other + 1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_probe_is_as_strict_as_the_loader(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="average"):
        open_preset(folder, tmp_path / "average.safetensors")
    save_file({"stray": torch.zeros(1)}, tmp_path / "stray.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        open_preset(folder, tmp_path / "stray.safetensors")
    with assembled(folder) as linked:
        assert linked.exists()
    assert not linked.exists()


def test_a_measure_that_there_is_not_is_named_with_those_there_are(folder: Path) -> None:
    card = read_card(folder / "card.json")
    with pytest.raises(ValueError, match=r"beauty: the measures are subject_r1"):
        chosen(card, ("beauty", "direction"))
    names = [name for measure in chosen(card, ("direction",)) for name in measure.names]
    assert "direction" in names


def test_rows_join_a_report_of_the_same_weights_only(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    new = {"direction": {"value": 1.0}, "model": {"weights_sha256": "a"}}
    assert _beside(report, new) == new
    old = {"direction": {"value": 0.5}, "flicker": {"value": 0.1}}
    report.write_text(json.dumps(old | {"model": {"weights_sha256": "a"}}), encoding="utf-8")
    assert _beside(report, new) == {"flicker": {"value": 0.1}, **new}
    report.write_text(json.dumps(old | {"model": {"weights_sha256": "b"}}), encoding="utf-8")
    assert _beside(report, new) == new


def test_what_cannot_be_measured_ends_with_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(folder, empty)
    (empty / "unet.safetensors").unlink()
    for arguments, told in (
        (["--preset", str(folder), "--only", "beauty"], "error: beauty"),
        (["--preset", str(empty)], "unet.safetensors"),
        (["--preset", str(tmp_path / "none")], "none/card.json: no such file"),
    ):
        monkeypatch.setattr("sys.argv", ["evaluation", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        output = capsys.readouterr()
        assert told in output.err
        assert output.err.count("\n") == 1


# ---------------------------------------------------------------------------- on a tiny model


def declare(folder: Path, **fields: object) -> None:
    path = folder / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(card | fields), encoding="utf-8")


def prompts_of(first_seed: int) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(f"a {shape}", shape, motion, False, "sky", first_seed + index)
        for index, (motion, shape) in enumerate(zip(MOTIONS, SHAPES * 2, strict=True))
    )


def tiny_gallery() -> Gallery:
    generator = torch.Generator().manual_seed(0)
    width, backdrop = 2 * WIDTH + 4 * COARSE_SIDE**2, BANDS * 3 + 6
    subjects = Discriminant(
        torch.zeros(width),
        torch.randn(width, 2, generator=generator),
        torch.randn(3, 2, generator=generator),
    )
    scenes = Neighbours(
        torch.zeros(backdrop), torch.eye(backdrop), torch.rand(9, backdrop), torch.arange(9)
    )
    torch.manual_seed(0)
    return Gallery(SHAPES, SubjectFinder(), EfficientNetLite().eval(), subjects, scenes)


def bench_of(folder: Path, count: int = 2, ungated: bool = True) -> Bench:
    bench = Bench(
        open_preset(folder),
        lambda what, done, of: None,
        count,
        ungated,
        prompts_of(1),
        prompts_of(100),
    )
    bench.world = bench.other_world = world_of_shapes()
    bench.gallery = tiny_gallery()
    return bench


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny preset that declares every kind of the base's tasks and three rates."""
    unet = replace(
        TINY.unet,
        widths=(16,),
        blocks=(1,),
        trained_frames=8,
        spatial_attention=(True,),
        temporal_attention=(True,),
    )
    folder = build_preset(
        tmp_path_factory.mktemp("models") / "able", config=replace(TINY, unet=unet)
    )
    declare(
        folder,
        tasks=["text", "image", "first_last_frame", "reference", "extend", "story"],
        sizes=["32x32"],
        fps=[8, 4, 16],
        steps={"minimum": 1, "maximum": 9, "default": 1},
        inputs={"last_frame_sketches": True},
        guidance_defaults={"image": 1.5},
    )
    config = read_config(folder / "config.json")
    write_config(replace(config, abilities=("sketch",)), folder / "config.json")
    return folder


@torch.no_grad()
def test_every_measure_of_a_base_has_its_row(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "DRIFT_S", 3)
    bench = bench_of(able)
    names = (
        "first_frame_psnr_db",
        "last_frame_gain_db",
        "last_frame_monotone",
        "sketch_edge_iou",
        "sketch_gain_db",
        "reference_cosine_gain",
        "seam_ratio",
        "drift",
        "fps_consistency_db",
    )
    rows = measured(bench, names)
    assert set(rows) == set(names)
    for name, row in rows.items():
        assert {"value", "control", "n"} <= set(row), name
        assert np.isfinite(row["value"]), name
    json.dumps(rows)
    assert rows["first_frame_psnr_db"]["n"] == 2
    assert rows["seam_ratio"]["n"] == 2
    assert rows["fps_consistency_db"]["rates"] == [4, 8, 16]
    assert len(rows["last_frame_monotone"]["arrival_db"]) == 5


@torch.no_grad()
def test_measures_stand_on_what_the_model_was_given(able: Path) -> None:
    bench = bench_of(able)
    prompt = bench.mixed[0]
    assert prompt in bench.unseen
    assert bench.mixed[1] in bench.prompts
    shown = bench.shown(prompt)
    assert shown.shape == (16, 32, 32, 3)
    assert np.array_equal(bench.shown(prompt), shown)
    assert bench.text_clip(prompt) is bench.text_clip(prompt)
    assert not np.array_equal(bench.begun_clip(prompt), bench.text_clip(prompt))
    story = seams.story(bench, bench.prompts[0])
    assert [shot.prompt.split("moving ")[1].split()[0] for shot in story.shots] == [
        "left",
        "right",
        "left",
        "right",
        "left",
    ]
    assert all(shot.transition == "continue" for shot in story.shots)


@torch.no_grad()
def test_a_checker_that_cannot_tell_references_apart_scores_nothing(able: Path) -> None:
    with pytest.raises(GateError, match="references are found by"):
        identity.reference_gain(bench_of(able, ungated=False))


def test_a_kind_of_job_is_measured_at_its_own_default_guidance(able: Path) -> None:
    bench = bench_of(able)
    prompt, usual = bench.prompts[0], bench.model.card.guidance.default
    assert bench.task(prompt).guidance_scale == usual != 1.5
    assert bench.task(prompt, task_type="image").guidance_scale == 1.5
    assert bench.task(prompt, task_type="image", guidance_scale=2.0).guidance_scale == 2.0


@torch.no_grad()
def test_a_cascade_is_measured_stage_by_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "TEACHER_STEPS", 2)
    monkeypatch.setattr(stages, "TIMED", 1)
    folder = build_cascade(tmp_path / "staged")
    bench = bench_of(folder, count=2)
    assert bench.base is not bench.model
    told = stages.student_ratio(bench)["student_ratio"]
    assert told["n"] == 2
    assert set(told["details"]) == {"student", "student_8", "base", "teacher"}
    seconds = stages.clip_seconds(bench)
    assert set(seconds) == {"clip_seconds_standard", "clip_seconds_draft"}
    assert all(row["value"] > 0 for row in seconds.values())


def test_a_story_of_the_whole_model_is_as_long_in_its_own_size_and_rate(
    able: Path,
) -> None:
    bench = bench_of(able)
    keys = seams.story(bench, bench.prompts[0])
    usual = replace(bench.task(bench.prompts[0]), width=256, height=256, fps=3 * keys.fps)
    film = seams.whole(keys, usual)
    assert (film.task_type, film.width, film.fps) == ("story", 256, 3 * keys.fps)
    assert [shot.num_frames for shot in film.shots] == [48] * 5
    assert film.num_frames == 240
    assert [shot.prompt for shot in film.shots] == [shot.prompt for shot in keys.shots]


def test_only_what_a_card_declares_is_measured(folder: Path, able: Path, tmp_path: Path) -> None:
    def names(folder: Path) -> set[str]:
        card = read_card(folder / "card.json")
        return {name for measure in chosen(card, ()) for name in measure.names}

    assert names(folder) == {"subject_r1", "subject_auc", "direction", "background", "flicker"}
    assert names(able) - names(folder) == {
        "first_frame_psnr_db",
        "last_frame_gain_db",
        "last_frame_monotone",
        "sketch_edge_iou",
        "sketch_gain_db",
        "reference_cosine_gain",
        "seam_ratio",
        "drift",
        "fps_consistency_db",
    }
    staged = names(build_cascade(tmp_path / "staged"))
    assert {"student_ratio", "interpolation_gain_db", "clip_seconds_draft"} <= staged
    assert staged <= set(NAMES)
    card = read_card(folder / "card.json")
    with pytest.raises(ValueError, match=r"first_frame_psnr_db: tiny declares \['text'\]"):
        chosen(card, ("first_frame_psnr_db",))


# ---------------------------------------------------------------------------- what figures mean


def test_lines_overlap_as_far_as_they_lie_on_each_other() -> None:
    def square(left: int) -> np.ndarray:
        frame = np.full((32, 32, 3), 40, np.uint8)
        frame[8:20, left : left + 12] = 220
        return drawing(frame)

    assert overlap(square(4), square(4)) == 1
    assert overlap(square(4), square(5)) > overlap(square(4), square(7)) > 0
    blank = drawing(np.full((32, 32, 3), 90, np.uint8))
    assert overlap(square(4), blank) == overlap(blank, blank) == 0


def test_the_unseen_prompts_are_frozen_and_of_subjects_kept_out() -> None:
    assert hashlib.sha256(UNSEEN.read_bytes()).hexdigest() == UNSEEN_SHA256
    prompts = read_prompts(UNSEEN)
    assert {prompt.concept for prompt in prompts} == HELD_OUT
    assert len({prompt.concept for prompt in prompts[:24]}) == 24
    assert [prompt.seed for prompt in prompts] == [
        FIRST_UNSEEN_SEED + index for index in range(len(prompts))
    ]
    assert not {p.seed for p in prompts} & {p.seed for p in read_prompts(PROMPTS)}


def test_decibels_of_a_known_error() -> None:
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    assert decibels(grey, grey) == pytest.approx(60)
    assert decibels(grey, grey + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert decibels(grey + 155, grey - 100) == 0


def test_the_interval_of_a_mean_holds_it_and_narrows_with_n() -> None:
    draw = np.random.default_rng(0)
    few, many = (list(draw.normal(3, 1, n)) for n in (20, 320))
    narrow, wide = mean(many, [0.0]), mean(few, [0.0])
    assert wide.low < wide.value < wide.high
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(4, rel=0.35)
    assert mean(many, [1.0, 2.0]).control == 1.5
    with pytest.raises(ValueError, match="no mean"):
        mean([], [1.0])


def test_a_distance_that_stops_falling_is_not_monotone() -> None:
    assert rises([1.0, 2.0, 3.0])
    assert not rises([1.0, 2.0, 2.0])
    assert not rises([1.0, 3.0, 2.0])


def test_a_seam_is_the_jump_between_shots_and_nothing_else() -> None:
    steps = np.ones(3 * 16 - 1)
    assert seams.ratios_of(steps, 16) == [1.0, 1.0]
    steps[15] = 4
    assert seams.ratios_of(steps, 16) == [4.0, 1.0]
    steps[16] = 9  # a jump within a shot is no seam, nor does one shift the median
    assert seams.ratios_of(steps, 16) == [4.0, 1.0]
    film = np.zeros((4, 2, 2, 3), np.uint8)
    film[2:] = 8
    assert list(seams.changes(film)) == [0, 8, 0]


def test_clips_at_two_rates_are_compared_where_they_share_a_time() -> None:
    at_12 = np.stack([np.full((2, 2, 3), 10 * index, np.uint8) for index in range(24)])
    at_8 = np.stack([np.full((2, 2, 3), 15 * index, np.uint8) for index in range(16)])
    assert rates.together(at_12, at_8, 12, 8) == pytest.approx(60)
    assert rates.together(at_12[1:], at_8, 12, 8) < 30


def test_clips_last_equally_long_at_every_rate(folder: Path) -> None:
    card: ModelCard = read_card(folder / "card.json")
    card = replace(card, fps=(12, 6, 24), default_frames=24, frames=FrameRule(0, 1, 6, 32))
    assert rates.lengths(card) == {6: 8, 12: 16, 24: 32}


def test_references_are_told_apart_by_their_own_clips_alone() -> None:
    axes = torch.eye(3)
    right = separation(axes, axes)
    assert right == {"found": 1.0, "same": 1.0, "other": 0.0}
    assert separation(axes[[1, 2, 0]], axes)["found"] == 0
