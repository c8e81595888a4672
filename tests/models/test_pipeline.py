"""Laws of the pipeline and of loading it, on a tiny preset written to disk."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.catalog import read_card, read_catalog
from models.protocol import Cancelled, LongPrompt, Shot, Step, Task
from models.registry import load_model
from models.videoldm.config import read_config
from models.videoldm.pipeline import VideoLDM, load_videoldm
from models.videoldm.weights import PARTS, WeightsError
from tests.cards import plain_card
from tests.models.presets import POCKET, build_preset

TASK = Task(
    task_type="text",
    prompt="a cat moving left over a sunset",
    negative_prompt="",
    width=32,
    height=32,
    num_frames=8,
    fps=8,
    seed=7,
    num_inference_steps=4,
    guidance_scale=3.0,
    sampler="dpmpp_2m",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoLDM]:
    torch.set_num_threads(1)
    folder = build_preset(tmp_path_factory.mktemp("models") / "tiny")
    return load_videoldm(folder, "cpu", torch.float32)


def silent(step: Step) -> None:
    del step


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddim", "ancestral"])
def test_same_request_and_seed_make_the_same_film(model: VideoLDM, sampler: str) -> None:
    task = replace(TASK, sampler=sampler)
    film = model.generate(task, silent)
    assert film.shape == (8, 32, 32, 3)
    assert film.dtype == np.uint8
    assert np.array_equal(film, model.generate(task, silent))
    assert not np.array_equal(film, model.generate(replace(task, seed=8), silent))


def test_words_change_the_film(model: VideoLDM) -> None:
    other = replace(TASK, prompt="a bus in the snow")
    assert not np.array_equal(model.generate(TASK, silent), model.generate(other, silent))


def test_a_negative_prompt_changes_a_guided_film_only(model: VideoLDM) -> None:
    def film(scale: float, negative: str) -> np.ndarray:
        task = replace(TASK, guidance_scale=scale, negative_prompt=negative)
        return model.generate(task, silent)

    assert not np.array_equal(film(3.0, ""), film(3.0, "snow"))
    assert np.array_equal(film(1.0, ""), film(1.0, "snow"))


def test_scale_one_runs_the_network_once_a_step(model: VideoLDM) -> None:
    calls = []
    handle = model.preset.unet.register_forward_hook(lambda *_: calls.append(1))
    model.generate(replace(TASK, guidance_scale=1.0), silent)
    unguided = len(calls)
    model.generate(TASK, silent)
    handle.remove()
    assert (unguided, len(calls) - unguided) == (4, 8)


def test_every_stage_and_step_is_told_in_order(model: VideoLDM) -> None:
    told: list[Step] = []
    model.generate(TASK, told.append)
    assert told[0] == Step("encoding", 0, 1)
    assert told[1:6] == [Step("denoising", i, 4, shot_done=i / 4) for i in range(5)]
    assert [(step.stage, step.index, step.total) for step in told[6:]] == [
        ("decoding", 0, 1),
        ("decoding", 1, 1),
    ]
    assert all(step.shot_done == 1 for step in told[6:])


def test_a_cancelled_film_leaves_nothing_behind(model: VideoLDM) -> None:
    before = model.generate(TASK, silent)

    def stop(step: Step) -> None:
        if step.index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.generate(replace(TASK, seed=99), stop)
    assert np.array_equal(before, model.generate(TASK, silent))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("task_type", "upscale", "upscale"),
        ("width", 48, "48x32"),
        ("num_frames", 400, "400 frames"),
        ("fps", 9, "9 frames per second"),
        ("num_inference_steps", 1000, "1000 steps"),
        ("guidance_scale", 0.5, "scale 0.5"),
        ("sampler", "euler", "euler"),
    ],
)
def test_a_task_outside_the_card_is_refused(
    model: VideoLDM, field: str, value: object, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        model.generate(replace(TASK, **{field: value}), silent)


@pytest.mark.parametrize("part", [*PARTS, "config", "tokenizer"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, part: str, damage: str) -> None:
    folder = build_preset(tmp_path / "tiny")
    path = next(folder.glob(f"{part}.*"))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=path.name):
        load_videoldm(folder, "cpu", torch.float32)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"embed_width": 32', '"embed_width": 64'))
    with pytest.raises(WeightsError, match=r"unet\.safetensors: does not fit the config"):
        load_videoldm(folder, "cpu", torch.float32)


def test_the_digest_names_the_weights(tmp_path: Path) -> None:
    one = load_videoldm(build_preset(tmp_path / "one"), "cpu", torch.float32).weights_sha256
    same = load_videoldm(build_preset(tmp_path / "same"), "cpu", torch.float32).weights_sha256
    folder = build_preset(tmp_path / "other")
    path = folder / "unet.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    other = load_videoldm(folder, "cpu", torch.float32).weights_sha256
    assert one == same != other


def test_an_unknown_model_is_refused_naming_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'sora' is none of \[.*'pocket'.*\]"):
        load_model("sora")


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny")
    with pytest.raises(ValueError, match="holds model 'tiny', not 'pocket'"):
        load_model("pocket", folder)
    assert load_model("tiny", folder, "cpu", "float32").card.id == "tiny"


@pytest.mark.parametrize(("device", "dtype"), [("abacus", "float32"), ("cpu", "int3")])
def test_unknown_devices_and_dtypes_are_refused(tmp_path: Path, device: str, dtype: str) -> None:
    folder = build_preset(tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"abacus|int3"):
        load_model("tiny", folder, device, dtype)


def test_pockets_card_equals_what_its_config_yields() -> None:
    card, config = plain_card(), read_config(POCKET / "config.json")
    assert card.tasks == set(config.tasks)
    for size in card.sizes:
        wide, high = map(int, size.split("x"))
        cells = config.autoencoder.factor * config.unet.patch * 2 ** (len(config.unet.widths) - 1)
        assert wide % cells == 0
        assert high % cells == 0
    assert card.frames.allows(card.default_frames)
    assert card.default_frames == config.unet.trained_frames
    rule = read_card(POCKET / "card.json").cascade
    rates = card.fps if rule is None else (*card.fps, rule.key_fps)
    assert max(card.frames.maximum / fps for fps in card.fps) <= config.unet.max_clip_s
    assert all(1 / fps >= config.unet.min_gap_s for fps in rates)
    assert rule is None or rule.max_seconds <= config.unet.max_clip_s


def test_every_card_of_the_catalog_reads() -> None:
    assert "pocket" in read_catalog()


@pytest.mark.parametrize("wrong", [{"image": 99.0}, {"dance": 1.5}])
def test_a_default_guidance_out_of_range_or_of_no_kind_is_named(
    tmp_path: Path, wrong: dict[str, float]
) -> None:
    fields = json.loads((POCKET / "card.json").read_text(encoding="utf-8"))
    path = tmp_path / "card.json"
    path.write_text(json.dumps(fields | {"guidance_defaults": wrong}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"guidance_defaults: '{next(iter(wrong))}'"):
        read_card(path)


@pytest.mark.parametrize("where", ["prompt", "negative_prompt"])
def test_words_that_the_encoder_would_not_read_are_refused(model: VideoLDM, where: str) -> None:
    most = model.preset.text.max_tokens
    fit = "a"
    while model.preset.text.count(fit + " a") <= most:
        fit += " a"
    model.stream(replace(TASK, **{where: fit}), silent)
    beyond = fit + " a"
    with pytest.raises(LongPrompt, match=rf"the {where} has {most + 1} tokens.* reads {most}"):
        model.stream(replace(TASK, **{where: beyond}), silent)
    shot = Shot(**{"prompt": "a cat", "num_frames": 8, "seed": 1} | {where: beyond})
    with pytest.raises(LongPrompt, match=where):
        model.check_words(replace(TASK, shots=(shot,)))
