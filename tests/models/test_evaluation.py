"""Laws of the evaluation: what the checkers read, and what a score is held against."""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from models.catalog import MODELS_DIR
from models.evaluation.checker import (
    BANDS,
    CROPS,
    backdrop,
    flicker,
    heading,
    look,
    shows_motion,
    subject_crops,
    velocity,
)
from models.evaluation.features import COARSE_SIDE, WIDTH, EfficientNetLite, description, features
from models.evaluation.gallery import (
    SCENE_NAMES,
    GalleryConfig,
    Neighbours,
    fit,
    gallery_path,
    open_gallery,
)
from models.evaluation.masks import SubjectFinder, softened, train_finder
from models.evaluation.prompts import (
    FIRST_SEED,
    MOTIONS,
    PROMPTS,
    Prompt,
    draw_prompts,
    read_prompts,
    write_prompts,
)
from models.evaluation.scores import area_under_curve, score, wilson
from models.evaluation.sheet import Strip, draw_sheet
from models.evaluation.suite import (
    GateError,
    Reading,
    check_gate,
    measure,
    read,
)
from models.evaluation.truth import round_trip, state_of, truths
from models.training.captions import DIRECTIONS, caption
from models.training.concepts import EDITION
from models.training.sprites import open_sheet, sheet_dir
from models.training.world import FAST, SLOW, World
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import AutoencoderConfig, read_config
from tests.models.shapes import SHAPES, world_of_shapes

FROZEN_SHA256 = "9a33d8df7bb9ccabdfd67d7abac48ffa35aa8e1b7584c8de8e47e490a89f0b86"
FPS = 8


@pytest.fixture(scope="module")
def world() -> World:
    return world_of_shapes()


def prompt(motion: str, concept: str = "disc", scene: str = "sky", seed: int = 0) -> Prompt:
    return Prompt("", concept, motion, seed % 2 == 1 and motion != "still", scene, seed)


def true_masks(world: World, asked: Prompt) -> Tensor:
    return world.masks([state_of(world, asked)], torch.arange(16)[None] / FPS)[0]


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_motion_of_a_rendered_clip_is_read_right(world: World, motion: str) -> None:
    for seed in range(8):
        for concept in SHAPES:
            masks = true_masks(world, prompt(motion, concept, seed=seed))
            assert heading(velocity(masks, FPS)) == motion


def test_speed_is_read_in_frame_sides_a_second(world: World) -> None:
    for seed, speed in ((0, SLOW), (1, FAST)):
        asked = prompt("right", seed=seed)
        across, down = velocity(true_masks(world, asked), FPS)
        assert across == pytest.approx(state_of(world, asked).subject.speed, rel=0.15)
        assert across == pytest.approx(speed, rel=0.25)
        assert abs(down) < 0.02


def test_a_motion_counts_within_thirty_degrees_only() -> None:
    def at(degrees: float) -> tuple[float, float]:
        return 0.2 * math.cos(math.radians(degrees)), 0.2 * math.sin(math.radians(degrees))

    assert shows_motion(at(29), "right")
    assert shows_motion(at(-29), "right")
    assert not shows_motion(at(31), "right")
    assert not shows_motion(at(180), "right")
    assert shows_motion(at(190), "left")
    assert shows_motion(at(-170), "left")
    assert not shows_motion(at(0), "still")
    assert shows_motion((0.01, 0.02), "still")
    assert not shows_motion((0.01, 0.02), "right")


def test_a_finder_learns_to_see_subjects_and_their_motion(world: World) -> None:
    finder = train_finder(world, 60, "test")
    asked = [prompt(motion, SHAPES[i % 3], seed=100 + i) for i, motion in enumerate(MOTIONS)]
    right, overlaps = 0, []
    for clip, one in zip(truths(world, asked, 16, FPS), asked, strict=True):
        views = look(finder, torch.from_numpy(clip).permute(3, 0, 1, 2) / 255, FPS)
        seen, true = views.masks > 0.5, true_masks(world, one) > 0.5
        overlaps.append(float((seen & true).sum() / (seen | true).sum()))
        right += shows_motion(views.velocity, one.motion)
    assert sum(overlaps) / len(overlaps) > 0.6
    assert right >= 8


def test_a_clip_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64, 64"):
        look(SubjectFinder(), torch.zeros(3, 16, 32, 32), FPS)
    with pytest.raises(ValueError, match=f"{CROPS} or more"):
        look(SubjectFinder(), torch.zeros(3, CROPS - 1, 64, 64), FPS)


def test_a_crop_holds_the_subject_wherever_it_is(world: World) -> None:
    asked = [prompt("left", "bar", seed=1), prompt("down", "bar", seed=4)]
    for one, clip in zip(asked, truths(world, asked, 16, FPS), strict=True):
        frames = torch.from_numpy(clip).permute(3, 0, 1, 2) / 255
        crops = subject_crops(frames, true_masks(world, one))
        red = (crops[:, 0] > 0.8) & (crops[:, 1] < 0.2)
        assert crops.shape == (CROPS, 4, 96, 96)
        assert bool((crops[:, 3][red] > 0.5).all())
        assert bool((red[:, 36:60, 42:54].float().mean((1, 2)) > 0.9).all())
        assert bool((red.float().mean((1, 2)) > 0.15).all())


def test_the_background_is_described_without_the_subject(world: World) -> None:
    one = prompt("right", "disc", seed=3)
    state = state_of(world, one)
    clock = torch.arange(16)[None] / FPS
    clip = world.render([state], clock)[0] * 0.5 + 0.5
    other = replace(state, actors=(replace(state.subject, concept="ring", sprite=2),))
    without = world.render([other], clock)[0] * 0.5 + 0.5
    near = backdrop(clip, true_masks(world, one))
    assert near.shape == (BANDS * 3 + 6,)
    torch.testing.assert_close(near, backdrop(without, true_masks(world, one)), atol=0.02, rtol=0)


def test_flicker_is_of_the_background_alone(world: World) -> None:
    one = prompt("up", "disc", seed=5)
    clip = torch.from_numpy(next(truths(world, [one], 16, FPS))).permute(3, 0, 1, 2) / 255
    masks = true_masks(world, one)
    assert flicker(clip, masks) < 1e-3
    noise = torch.Generator().manual_seed(0)
    noisy = (clip + 0.05 * torch.randn(clip.shape, generator=noise)).clamp(0, 1)
    assert flicker(noisy, masks) > 0.03


def test_softening_keeps_range_and_is_repeatable(world: World) -> None:
    clips = world.render([state_of(world, prompt("up"))], torch.arange(4)[None] / 2) * 0.5 + 0.5
    one, two = (softened(clips, random.Random(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, clips)
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1


def test_a_discriminant_finds_classes_in_correlated_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5, 12, generator=generator) * 0.3
    stretch = torch.randn(12, 12, generator=generator)
    labels = torch.arange(400) % 5

    def drawn() -> Tensor:
        return means[labels] @ stretch + 0.1 * torch.randn(400, 12, generator=generator) @ stretch

    found = fit(drawn(), labels, 5, 0.01)
    fresh = drawn()
    assert (found.similarities(fresh).argmax(1) == labels).float().mean() > 0.95
    placed = (drawn() - found.origin) @ found.axes
    near = Neighbours(found.origin, found.axes, placed, labels)
    assert (near.vote(fresh) == labels).float().mean() > 0.95
    with pytest.raises(ValueError, match="class 5"):
        fit(fresh, labels, 6, 0.01)


def test_features_are_pooled_and_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite().eval()
    crops = torch.rand(3, 3, 64, 64)
    together = features(network, crops)
    alone = torch.cat([features(network, crop[None]) for crop in crops])
    assert together.shape == (3, WIDTH)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def attentive(network: EfficientNetLite) -> EfficientNetLite:
    """The network with weights that keep what they see: as it is made, differences fade."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return network.eval()


def test_a_description_tells_the_subject_from_what_is_behind_it() -> None:
    torch.manual_seed(0)
    network = attentive(EfficientNetLite())
    cover = torch.zeros(1, 1, 96, 96)
    cover[..., 24:72, 24:72] = 1
    picture, before, behind = torch.rand(3, 1, 3, 96, 96)
    crops = [
        torch.cat([picture * cover + back * (1 - cover), cover], 1) for back in (before, behind)
    ]
    one, two = (description(network, crop)[0] for crop in crops)
    assert one.shape == (2 * WIDTH + 4 * COARSE_SIDE**2,)
    torch.testing.assert_close(one[WIDTH:], two[WIDTH:])
    assert not torch.allclose(one[:WIDTH], two[:WIDTH])


def test_wilson_interval() -> None:
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 50)[0] == 0
    assert wilson(0, 50)[1] == pytest.approx(0.0713, abs=1e-4)
    for right, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="no share"):
            wilson(right, n)


def test_the_control_is_the_mean_over_other_prompts() -> None:
    answers, truth = [0, 1, 2, 0], [0, 1, 0, 2]
    made = score(4, lambda clip, asked: answers[clip] == truth[asked], 1 / 3)
    pairs = [answers[c] == truth[p] for c in range(4) for p in range(4) if c != p]
    assert made.value == 0.5
    assert made.control == pytest.approx(sum(pairs) / 12)
    assert made.n == 4


def test_area_under_curve_of_perfect_random_and_equal_similarities() -> None:
    truth = list(range(20))
    assert area_under_curve(torch.eye(20), truth).value == 1
    assert area_under_curve(torch.zeros(20, 20), truth).value == 0.5
    assert area_under_curve(-torch.eye(20), truth).value == 0
    noise = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    assert area_under_curve(noise, truth * 10).value == pytest.approx(0.5, abs=0.06)


def perfect(prompts: Sequence[Prompt], concepts: Sequence[str]) -> list[Reading]:
    readings = []
    for asked in prompts:
        across, down = DIRECTIONS.get(asked.motion, (0, 0))
        seen = torch.zeros(len(concepts))
        seen[concepts.index(asked.concept)] = 1
        readings.append(Reading((0.2 * across, 0.2 * down), asked.scene, seen, 0.01))
    return readings


def test_perfect_clips_score_one_and_shuffled_prompts_score_chance() -> None:
    prompts = read_prompts()
    readings = perfect(prompts, EDITION)
    scores = measure(readings, prompts, EDITION)
    for name in ("subject_r1", "direction", "background"):
        found = getattr(scores, name)
        assert found.value == 1
        assert found.control == pytest.approx(found.chance, abs=0.03)
    assert scores.subject_auc.value == 1
    assert scores.subject_auc.control == pytest.approx(0.5, abs=0.03)
    moved = measure(readings[1:] + readings[:1], prompts, EDITION)
    assert moved.subject_r1.value < 0.05
    assert moved.direction.value < 0.25
    assert moved.background.value < 0.2
    check_gate(scores, "real")
    with pytest.raises(GateError, match="subject_r1"):
        check_gate(moved, "shuffled")


def test_a_gate_holds_every_checker_to_its_figure() -> None:
    prompts = read_prompts()[:100]
    readings = perfect(prompts, EDITION)
    for lost, passes in ((2, True), (3, False)):
        blurred = [replace(one, scene="none") for one in readings[:lost]] + readings[lost:]
        scores = measure(blurred, prompts, EDITION)
        if passes:
            check_gate(scores, "real")
        else:
            with pytest.raises(GateError, match=r"background is right on 0\.970 of real"):
                check_gate(scores, "real")


def test_the_prompts_are_frozen() -> None:
    assert hashlib.sha256(PROMPTS.read_bytes()).hexdigest() == FROZEN_SHA256


def test_the_prompts_cover_the_world_and_say_the_truth() -> None:
    prompts = read_prompts()
    assert len(prompts) >= 200
    first = prompts[:200]
    assert len({one.concept for one in first}) == 200  # each once
    assert {one.motion for one in first} == set(MOTIONS)
    assert len(MOTIONS) == 9
    assert {one.scene for one in first} == set(SCENE_NAMES)
    assert {one.concept for one in prompts} <= set(EDITION)
    for one in prompts:
        assert one.text == caption(one.concept, one.motion, one.fast, one.scene)
        assert not (one.fast and one.motion == "still")
    assert [one.seed for one in prompts] == [FIRST_SEED + i for i in range(len(prompts))]


def test_prompts_survive_a_file_and_bad_ones_are_named(tmp_path: Path) -> None:
    drawn = draw_prompts(("dog", "owl"), 30, "any")
    assert draw_prompts(("dog", "owl"), 30, "any") == drawn
    write_prompts(drawn, tmp_path / "p.json")
    assert read_prompts(tmp_path / "p.json") == drawn
    (tmp_path / "bad.json").write_text('[{"text": "x"}]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_prompts(tmp_path / "bad.json")


def test_a_round_trip_keeps_shape_and_kind() -> None:
    torch.manual_seed(0)
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    again = round_trip(Autoencoder(AutoencoderConfig()).eval(), frames)
    assert again.shape == frames.shape
    assert again.dtype == np.uint8


def test_the_sheet_shows_every_strip(tmp_path: Path) -> None:
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9))
    strips = [
        Strip(np.full((16, 64, 64, 3), colour, np.uint8), "asked", "seen", index % 2 == 0)
        for index, colour in enumerate(colours)
    ]
    draw_sheet(strips, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        shown = {colour for _, colour in sheet.getcolors(1 << 20) or []}
    assert set(colours) <= shown


@pytest.mark.slow
def test_real_clips_are_read_right_sharp_and_decoded() -> None:
    config, autoencoder = GalleryConfig(EDITION), pocket_autoencoder()
    if not (sheet_dir() / "index.json").exists() or not gallery_path(config, autoencoder).exists():
        pytest.skip("no gallery is cached; `python -m models.evaluation` makes one")
    sheet = open_sheet()
    gallery, prompts = open_gallery(sheet, config, autoencoder), read_prompts()[-25:]
    clips = list(truths(World(sheet), prompts, 16, FPS))
    for shown in (clips, [round_trip(autoencoder, clip) for clip in clips]):
        scores = measure([read(gallery, clip, FPS) for clip in shown], prompts, EDITION)
        for name in ("subject_r1", "direction", "background"):
            assert getattr(scores, name).value >= 0.92, name


def pocket_autoencoder() -> Autoencoder:
    folder = MODELS_DIR / "pocket"
    autoencoder = Autoencoder(read_config(folder / "config.json").autoencoder)
    tensors = load_file(folder / "autoencoder.safetensors")
    autoencoder.load_state_dict({name: value.float() for name, value in tensors.items()})
    return autoencoder.eval().requires_grad_(False)
