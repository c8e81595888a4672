"""Laws of the later stages' recipes: each learns within a few steps of a toy world, and goes on."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.catalog import has_stage
from models.training import autoencoder as autoencoder_recipe
from models.training import (
    decoder,
    denoiser,
    distillation,
    interpolator,
    personalisation,
    upsampler,
)
from models.training.batches import CaptionBank, ClipBatch, ClipMaker
from models.training.conditions import GIVEN
from models.training.loop import Draws, Run, RunConfig, draws
from models.training.patches import LargeWorld, patches
from models.training.scenes import SCENES
from models.training.sprites import Sprite
from models.training.stages import clip_times, levels, publish
from models.training.world import World, WorldConfig
from models.videoldm.adapters import read_adapter, write_adapter
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.conditioning import Kind, frame_times, text_only
from models.videoldm.config import StudentConfig, read_config, write_config
from models.videoldm.interpolation import Interpolator
from models.videoldm.student import StudentUNet
from models.videoldm.temporal import TemporalDecoder
from models.videoldm.unet import UNet
from models.videoldm.upsampler import Upsampler
from models.videoldm.weights import load_preset
from tests.models.presets import TINY, build_preset, stirred
from tests.models.stages import DECODER, INTERPOLATOR, UPSAMPLER


@dataclass(frozen=True)
class Chequers:
    """Cut-outs drawn here: one chequered disc, at both sizes."""

    halves: np.ndarray
    frames: np.ndarray
    sprites: tuple[Sprite, ...] = (Sprite("disc", "3d", 0, 1),)

    @property
    def by_concept(self) -> dict[str, list[int]]:
        return {"disc": [0]}


def disc(side: int) -> np.ndarray:
    y, x = (np.mgrid[0:side, 0:side] + 0.5) / side - 0.5
    alpha = (x**2 + y**2 < 0.18)[..., None]
    squares = (np.floor(x * 8) + np.floor(y * 8)) % 2
    colour = np.stack([squares, 1 - squares, np.full_like(squares, 0.2), np.ones_like(squares)], -1)
    return (colour * alpha * 255)[None].astype(np.uint8)


@pytest.fixture(scope="module")
def world() -> LargeWorld:
    made = LargeWorld.__new__(LargeWorld)
    made.sheet = Chequers(disc(48), disc(96))  # type: ignore[assignment]
    made.config = WorldConfig(concepts=("disc",))
    made.bank = torch.full((len(SCENES), 24, 3, 96, 160), 60, dtype=torch.uint8)
    return made


@pytest.fixture(scope="module")
def small_world(world: LargeWorld) -> World:
    made = World.__new__(World)
    made.sheet, made.config, made.bank = world.sheet, world.config, world.bank
    return made


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return stirred(Autoencoder(TINY.autoencoder)).eval().requires_grad_(False)  # type: ignore[return-value]


def optimisation(steps: int, batch: int = 4, learning_rate: float = 5e-3) -> RunConfig:
    return RunConfig(steps, batch, learning_rate, warmup=2, cooldown=0.2, ema_decay=0.9)


def mean_loss(loss: Callable[[Draws], Tensor]) -> float:
    """The loss over some draws that are the same before and after training."""
    with torch.no_grad():
        return float(torch.stack([loss(draws(99, step)) for step in range(4)]).mean())


def clip_maker(world: World, autoencoder: Autoencoder, **fields: object) -> ClipMaker:
    draw = random.Random(0)
    scripts = tuple(world.script(draw) for _ in range(20))
    vectors = torch.randn(20, 4, TINY.text.width).half()
    bank = CaptionBank(scripts, vectors, torch.ones(20, 4, dtype=torch.bool))
    return ClipMaker(world, autoencoder, bank, **fields)  # type: ignore[arg-type]


def test_clips_are_told_words_alone_unless_asked(
    small_world: World, autoencoder: Autoencoder
) -> None:
    batch = clip_maker(small_world, autoencoder).clips(8, 4, 2.0, draws(0, 0))
    assert batch.latents.shape[:3] == (8, TINY.autoencoder.latent_channels, 4)
    assert not batch.conditions.mask.any()
    assert batch.conditions.references is None
    assert (batch.weight == 1).all()


def test_a_mixture_gives_frames_and_context_earns_nothing(
    small_world: World, autoencoder: Autoencoder
) -> None:
    maker = clip_maker(small_world, autoencoder, mixture=GIVEN)
    batch = maker.clips(64, 4, 2.0, draws(0, 0))
    kinds = set(batch.conditions.kind.unique().tolist())
    assert kinds == {int(k) for k in (Kind.NONE, Kind.FIRST, Kind.LAST, Kind.CONTEXT)}
    context = batch.conditions.gives((Kind.CONTEXT,))
    assert torch.equal(batch.weight[:, 0, :, 0, 0] == 0, context)


def test_batches_with_drawings_are_mostly_of_clips_towards_them(
    small_world: World, autoencoder: Autoencoder
) -> None:
    maker = clip_maker(small_world, autoencoder, mixture=GIVEN, sketch_batches=1.0)
    batch = maker.clips(64, 4, 2.0, draws(0, 0))
    kinds = batch.conditions.kind
    seen = {int(kind) for kind in (Kind.NONE, Kind.FIRST, Kind.LAST, Kind.SKETCH)}
    assert set(kinds.unique().tolist()) == seen
    assert 0.5 < float((kinds[:, -1] == int(Kind.SKETCH)).float().mean()) < 0.9
    assert not maker.images(8, draws(0, 0)).conditions.gives((Kind.SKETCH,)).any()


def test_references_take_the_place_of_clips(small_world: World, autoencoder: Autoencoder) -> None:
    maker = clip_maker(small_world, autoencoder, reference_batches=1.0)
    for step in range(4):
        batch = maker.images(24, draws(0, step))
        references = batch.conditions.references
        assert references is not None
        assert len(batch.latents) == len(references)
        assert 20 <= len(batch.latents) * (1 + references.shape[2]) <= 24


def test_the_decoder_alone_learns_to_bear_noise_and_every_latent_stays(
    small_world: World, tmp_path: Path
) -> None:
    preset = build_preset(tmp_path / "preset")
    made = autoencoder_recipe.opened(preset, latent_noise=0.5)
    before = {name: value.clone() for name, value in made.encoder.state_dict().items()}
    loss = autoencoder_recipe.loss_of(made, small_world, 4, latent_noise=0.5)
    first = mean_loss(lambda drawn: loss(0, drawn)["loss"])
    run = Run(tmp_path / "run", made, optimisation(12))
    run.train(loss)
    assert mean_loss(lambda drawn: loss(0, drawn)["loss"]) < 0.9 * first
    assert all(
        torch.equal(value, before[name]) for name, value in made.encoder.state_dict().items()
    )


def test_the_interpolator_learns_and_is_measured(
    small_world: World, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    maker = interpolator.WindowMaker(small_world, autoencoder, 3)

    def loss(unet: UNet) -> float:
        return mean_loss(
            lambda drawn: interpolator.window_loss(
                unet, INTERPOLATOR, *maker.batch(4, drawn.python), drawn
            )
        )

    torch.manual_seed(0)
    before = loss(UNet(INTERPOLATOR.unet))
    stage = interpolator.train(small_world, autoencoder, INTERPOLATOR, tmp_path, optimisation(30))
    assert loss(stage.unet) < 0.9 * before
    scores = interpolator.measured(stage, small_world, autoencoder, 1)
    assert scores.keys() == {"gain_db", "blend_db", "latent_gain_db"}
    assert all(np.isfinite(value) for value in scores.values())
    assert len(list(tmp_path.glob("preview-*.png"))) == 1


def test_a_perfect_interpolator_gains_and_a_blend_does_not(
    small_world: World, autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement itself: fed with the truth it reads high, with the blend near nothing."""
    torch.manual_seed(0)
    stage = Interpolator(INTERPOLATOR, UNet(INTERPOLATOR.unet).eval())
    exact = Autoencoder(TINY.autoencoder)
    frames: list[Tensor] = []
    monkeypatch.setattr(exact, "encode", lambda clip: frames.append(clip) or clip)
    monkeypatch.setattr(exact, "decode", lambda clip: clip)

    def read(kind: str) -> float:
        def given(*arguments: object, **named: object) -> Tensor:
            truth = frames[-1]
            if kind == "truth":
                return truth
            share = torch.arange(25) % 4 / 4
            left = truth[:, :, (torch.arange(25) // 4) * 4]
            right = truth[:, :, ((torch.arange(25) + 3) // 4 * 4)]
            return left + (right - left) * share.view(-1, 1, 1)

        monkeypatch.setattr(interpolator, "interpolated", given)
        return interpolator.measured(stage, small_world, exact, 2)["gain_db"]

    assert read("truth") > 10
    assert abs(read("blend")) < 0.1


def test_windows_hold_true_frames_at_their_times(
    small_world: World, autoencoder: Autoencoder
) -> None:
    maker = interpolator.WindowMaker(small_world, autoencoder, 3)
    for seed in range(20):
        latents, times = maker.batch(2, random.Random(seed))
        assert latents.shape[:3] == (2, 4, times.shape[1])
        assert 3 <= times.shape[1] <= 5
        assert (times.diff(dim=1) > 1e-4).all()
        assert (times[:, -1] - times[:, 0]).max() <= 0.5 + 1e-9


def test_the_decoder_learns_and_leaves_the_autoencoder_alone(
    small_world: World, autoencoder: Autoencoder, tmp_path: Path
) -> None:
    kept = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    frames = small_world.render(
        [small_world.sample(random.Random(5)) for _ in range(2)],
        clip_times(2, 8, 24.0, random.Random(6)).float(),
    )

    def loss(stage: TemporalDecoder) -> float:
        return mean_loss(
            lambda drawn: decoder.decoding_loss(stage, autoencoder, frames, drawn.torch)["loss"]
        )

    before = loss(TemporalDecoder(DECODER, TINY.autoencoder))
    stage = decoder.train(small_world, autoencoder, DECODER, tmp_path, optimisation(25, 2))
    assert loss(stage) < 0.97 * before
    assert all(torch.equal(value, kept[name]) for name, value in autoencoder.state_dict().items())
    scores = decoder.measured(stage, autoencoder, small_world, 1)
    assert scores["flicker_ratio"] < 1


def test_an_untrained_decoder_flickers_as_the_image_decoder(
    small_world: World, autoencoder: Autoencoder
) -> None:
    scores = decoder.measured(
        TemporalDecoder(DECODER, TINY.autoencoder), autoencoder, small_world, 1
    )
    assert scores["flicker_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert scores["gain_db"] == pytest.approx(0.0, abs=1e-4)


def test_the_upsampler_learns_all_of_its_parts(world: LargeWorld, tmp_path: Path) -> None:
    upsampler.train_enlarger(world, UPSAMPLER, tmp_path / "enlarger", optimisation(40, 4))
    coding, folder = tmp_path / "autoencoder", tmp_path / "network"
    config = upsampler.train_autoencoder(world, UPSAMPLER, coding, optimisation(20, 4))
    assert config.autoencoder.latent_std != UPSAMPLER.autoencoder.latent_std
    frames = patches(world, 2, clip_times(2, 8, 24.0, random.Random(1)), random.Random(2))
    times = clip_times(2, 8, 24.0, random.Random(1))

    def loss(stage: Upsampler) -> float:
        return mean_loss(lambda drawn: upsampler.upsampling_loss(stage, frames, times, drawn))

    torch.manual_seed(0)
    fresh = Upsampler(config)
    made = upsampler.train_network(world, config, tmp_path, folder, optimisation(30, 2))
    fresh.autoencoder.load_state_dict(made.autoencoder.state_dict())
    assert loss(made) < 0.9 * loss(fresh)
    small = upsampler.reduced(frames, UPSAMPLER.factor)
    assert distance(made.enlarger(small), frames) < distance(fresh.enlarger(small), frames)
    scores = upsampler.measured(made, world, 1, 64)
    assert all(np.isfinite(value) for value in scores.values())


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean().detach())


def test_detail_is_what_enlargement_lacks(world: LargeWorld) -> None:
    frames = patches(world, 1, torch.tensor([[1.0]]), random.Random(0), 64, 32)
    assert frames.shape == (1, 3, 1, 32, 32)
    plain = torch.full_like(frames, 0.3)
    assert upsampler.lacking(plain, 4).abs().max() < 1e-5
    whole = world.render([world.sample(random.Random(1))], torch.tensor([[1.0]]), 128)
    assert upsampler.lacking(whole, 4).abs().max() > 0.2


# ---------------------------------------------------------------------------- few steps


def words_batch(count: int, drawn: Draws) -> ClipBatch:
    latents = torch.randn(count, 4, 2, 8, 8, generator=drawn.torch)
    text = torch.randn(count, 3, 24, generator=drawn.torch)
    mask = torch.ones(count, 3, dtype=torch.bool)
    told = text_only(text, mask, frame_times(2, 6).expand(count, -1), 6.0, (4, 8, 8))
    return ClipBatch(latents, told, torch.ones(1))


@pytest.fixture(scope="module")
def base() -> UNet:
    torch.manual_seed(0)
    return stirred(UNet(TINY.unet)).eval().requires_grad_(False)  # type: ignore[return-value]


def test_one_step_to_the_target_lands_where_two_of_the_teachers_do(base: UNet) -> None:
    drawn = draws(3, 1)
    batch = words_batch(4, drawn)
    teacher, scale = distillation.guided(base), torch.full((4,), 2.0)
    place = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    sigma, middle, end = (distillation._sigma((place - done) / 4) for done in (0.0, 0.5, 1.0))
    assert end[0] == 0
    x = batch.latents
    half = distillation.ddim_step(x, teacher(x, sigma, batch.conditions, scale), sigma, middle)
    v = teacher(half, middle, batch.conditions, scale)
    landed = distillation.ddim_step(half, v, middle, end)
    target = distillation.distillation_target(x, landed, sigma, end)
    v_star = distillation.v_from_x0(x, target, sigma)
    once = distillation.ddim_step(x, v_star, sigma, end)
    torch.testing.assert_close(once, landed, atol=1e-4, rtol=1e-4)


def test_guidance_of_the_teacher_has_the_usual_scales(base: UNet) -> None:
    batch, sigma = words_batch(2, draws(0, 0)), torch.tensor([0.5, 0.9], dtype=torch.float64)
    told, teacher = batch.conditions, distillation.guided(base)
    level = distillation.lambda_of(sigma).float()
    full, null = base(batch.latents, level, told), base(batch.latents, level, told.without_text())
    guided = teacher(batch.latents, sigma, told, torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(guided[0], full[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(guided[1], 3 * full[1] - 2 * null[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", ["16,8,3", "8,16", "4,2,1,0", "8,8"])
def test_levels_that_are_no_halvings_are_refused(text: str) -> None:
    assert distillation.halvings("16,8,4") == (16, 8, 4)
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        distillation.halvings(text)


def test_levels_learn_and_finished_ones_are_passed_through(base: UNet, tmp_path: Path) -> None:
    config = StudentConfig(steps=(4, 2), guidance=(3.0, 4.0))
    batch = words_batch(4, draws(7, 0))

    def train(*levels_of: int) -> StudentUNet:
        steps = optimisation(10, 4, 1e-3)
        return distillation.train(base, lambda _: batch, levels_of, config, tmp_path, steps).unet

    def loss(unet: StudentUNet) -> float:
        teacher = distillation.guided(base)
        return mean_loss(
            lambda drawn: distillation.halving_loss(unet, teacher, batch, 4, config, drawn)
        )

    first = train(4)
    assert loss(first) < 0.85 * loss(StudentUNet(TINY.unet).taught_by(base))
    weights = (tmp_path / "4" / "weights.safetensors").read_bytes()
    second = train(4, 2)
    assert (tmp_path / "4" / "weights.safetensors").read_bytes() == weights
    assert any(
        not torch.equal(value, first.state_dict()[name])
        for name, value in second.state_dict().items()
    )


def test_the_comparison_is_one_for_the_base_itself(base: UNet) -> None:
    batch = words_batch(2, draws(4, 0))
    comparison = distillation.Comparison(base, batch.conditions, batch.latents, scale=1.0)
    student = distillation.Student(
        StudentConfig(steps=(4,)), StudentUNet(TINY.unet).taught_by(base).eval()
    )
    assert comparison.measured(student) == {"distance_ratio_4": pytest.approx(1.0, abs=1e-4)}


# ---------------------------------------------------------------------------- personal subjects


def test_a_subject_is_learned_from_three_pictures(tmp_path: Path) -> None:
    model = load_preset(build_preset(tmp_path / "tiny"))
    pictures = [np.rot90(disc(48)[0], turns).copy() for turns in range(3)]
    own = personalisation.encoded(model.autoencoder, pictures, 32)
    assert own.shape == (6, 4, 1, 8, 8)
    prior = personalisation.drawn_prior(model.unet, model.text, "dog", own, 4, 2)
    lesson = personalisation.Lesson(model.unet, model.text, own, prior, "sks", "dog")
    adapter = personalisation.train(lesson, tmp_path / "run", optimisation(20, 4, 2e-2))
    assert personalisation.measured(lesson, adapter)["subject_error_ratio"] < 0.97
    write_adapter(adapter, tmp_path / "sks.safetensors")
    assert read_adapter(tmp_path / "sks.safetensors", model.unet).word == "sks"


@pytest.mark.parametrize("count", [2, 9])
def test_too_few_or_too_many_pictures_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} pictures: between 3 and 8"):
        personalisation.read_pictures([Path("x.png")] * count)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.png"
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"no\.png: no picture"):
        personalisation.read_pictures([path] * 3)


# ---------------------------------------------------------------------------- shared


def test_a_published_stage_is_present_and_loads(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    assert not has_stage(folder, "interpolator")
    module = stirred(UNet(INTERPOLATOR.unet))
    publish(folder, "interpolator", module, INTERPOLATOR)
    stage = load_preset(folder).stages.interpolator
    assert stage is not None
    assert stage.config == INTERPOLATOR
    for name, value in stage.unet.state_dict().items():
        assert torch.equal(value, module.state_dict()[name].half().float())


def test_a_stage_in_eight_bits_is_half_a_step_from_what_was_trained_at_most(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    module = stirred(UNet(INTERPOLATOR.unet))
    publish(folder, "interpolator", module, INTERPOLATOR, eight_bits=True)
    stage = load_preset(folder).stages.interpolator
    assert stage is not None
    floats = sum(4 * value.numel() for value in module.state_dict().values())
    assert (folder / "interpolator.safetensors").stat().st_size < 0.5 * floats
    for name, value in stage.unet.state_dict().items():
        trained = module.state_dict()[name]
        if trained.ndim < 2:
            assert torch.equal(value, trained)
            continue
        steps = trained.flatten(1).abs().amax(1) / 127
        assert ((value - trained).flatten(1).abs().amax(1) <= 0.51 * steps + 1e-7).all()


def test_levels_cover_a_batch_and_some_are_pure_noise() -> None:
    u = levels(400, torch.Generator().manual_seed(0), 0.25)
    assert 0 < float(u.min()) < 0.01
    assert 60 < int((u == 1).sum()) < 140
    assert (levels(400, torch.Generator().manual_seed(0)) < 1).all()


def test_a_blend_of_two_runs_lies_between_them_and_keeps_what_the_preset_can(
    tmp_path: Path,
) -> None:
    preset = build_preset(tmp_path / "preset")
    config = replace(read_config(preset / "config.json"), abilities=("sketch",))
    write_config(config, preset / "config.json")
    state = UNet(config.unet).state_dict()
    for name, level in (("before", 0.0), ("after", 1.0)):
        (tmp_path / name).mkdir()
        flat = {key: torch.full_like(value, level) for key, value in state.items()}
        for file in ("weights", "average"):
            save_file(flat, tmp_path / name / f"{file}.safetensors")
    denoiser.blend(0.25, tmp_path / "after", tmp_path / "before", preset)
    made = load_file(preset / "unet.safetensors")
    assert set(made) == set(state)
    assert all((value == 0.25).all() for value in made.values())
    assert read_config(preset / "config.json") == config
    with pytest.raises(typer.BadParameter, match="2"):
        denoiser.blend(2.0, tmp_path / "after", tmp_path / "before", preset)
