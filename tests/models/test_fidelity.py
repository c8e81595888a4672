"""What is told of quality tiers is measured on the model's own films, and written into its card."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.catalog import read_card
from models.openweights.__main__ import add, read_turbo
from models.openweights.families import Wishes
from models.openweights.fidelity import ignore, main, measure, similarity, task_of
from models.openweights.folder import FolderError
from models.openweights.pipeline import OpenModel
from models.registry import load_model
from tests.models.wilds import FRAMES, build

# Of diffusers' own making: a scheduler hands a tensor to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WISHES = Wishes(("32x32",), FRAMES, 6, 3.0, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registered checkpoint whose LoRA makes do with two steps."""
    base = tmp_path_factory.mktemp("fidelity")
    weights = build("wan-2.1", base / "weights")
    add("wild", weights, base / "models", WISHES, None, turbo=(2, base / "rex.safetensors"))
    return base / "models"


@pytest.fixture(scope="module")
def model(folder: Path) -> OpenModel:
    loaded = load_model("wild", folder / "wild", "cpu")
    assert isinstance(loaded, OpenModel)
    return loaded


def test_a_turbo_film_has_its_own_steps_and_lora_and_leaves_nothing_behind(
    model: OpenModel,
) -> None:
    (turbo,) = (tier for tier in model.card.qualities if tier.name == "turbo")
    assert (turbo.base_steps, turbo.exact, len(turbo.sha256)) == (2, False, 64)
    assert model.card.adapters == (), "requests could name it as any other"
    plain = task_of(model, "a red fox")
    short = replace(plain, num_inference_steps=2, guidance_scale=1.0)
    before = model.draw(short, ignore)
    film = model.draw(replace(short, quality="turbo"), ignore)
    assert film.shape == before.shape
    assert not np.array_equal(film, before), "its LoRA was not on"
    assert np.array_equal(model.draw(short, ignore), before)
    for wrong in ({"num_inference_steps": 6}, {"guidance_scale": 3.0}, {"adapter": "rex"}):
        with pytest.raises(ValueError, match="cannot make"):
            model.draw(replace(short, quality="turbo", **wrong), ignore)


def test_what_is_measured_stands_in_the_card(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["wild", "--models-dir", str(folder), "--device", "cpu", "--prompt", "a red fox"]
    assert main(command) == 0
    told = {line.split(":")[0] for line in capsys.readouterr().out.splitlines()}
    tiers = {tier.name: tier for tier in read_card(folder / "wild" / "card.json").tiers}
    assert told == {"fast", "turbo"} == {*tiers} - {"standard"}
    assert tiers["standard"].fidelity is None
    for name in told:
        found = tiers[name].fidelity
        assert found is not None
        assert (found.size, found.frames, found.steps, found.device) == ("32x32", FRAMES, 6, "cpu")
        assert 0 < found.ssim <= 1
        assert 0 < found.psnr_db < 99
        assert found.speedup > 0


def test_a_film_that_is_the_exact_one_is_told_as_that(
    model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.openweights.tiers.TOLERANCE", 0.0)  # nothing is ever left out
    found = measure(model, "a red fox")
    assert (found["fast"].ssim, found["fast"].psnr_db) == (1, 99)
    assert found["turbo"].ssim < 1


def test_a_model_that_wants_two_pictures_is_measured_on_a_film_between_them(
    tmp_path: Path,
) -> None:
    weights = build("wan-2.1-flf2v", tmp_path / "weights")
    wishes = Wishes(("32x32",), FRAMES, 2, 3.0, None)
    add("wild", weights, tmp_path / "models", wishes, None)
    loaded = load_model("wild", tmp_path / "models" / "wild", "cpu")
    assert isinstance(loaded, OpenModel)
    assert task_of(loaded, "a red fox").task_type == "first_last_frame"
    assert list(measure(loaded, "a red fox")) == ["fast"]


def test_a_model_of_one_quality_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add("plain", build("modelscope", tmp_path / "weights"), tmp_path / "models", WISHES, None)
    assert main(["plain", "--models-dir", str(tmp_path / "models"), "--device", "cpu"]) == 1
    assert "one quality only" in capsys.readouterr().err
    assert main(["nobody", "--models-dir", str(tmp_path / "models")]) == 1
    assert "'nobody' is none of ['plain']" in capsys.readouterr().err


def test_a_lora_for_few_steps_says_how_many_and_fits_or_is_refused(tmp_path: Path) -> None:
    assert read_turbo("4=a.safetensors") == (4, Path("a.safetensors"))
    for wrong in ("a.safetensors", "0=a", "17=a", "x=a"):
        with pytest.raises(ValueError, match="STEPS=FILE"):
            read_turbo(wrong)
    weights = build("wan-2.2-a14b", tmp_path / "a14b" / "weights")
    lora = weights.parent / "rex.safetensors"
    with pytest.raises(ValueError, match="takes no LoRA"):
        add("two", weights, tmp_path / "models", WISHES, None, turbo=(4, lora))
    told = build("hunyuan", tmp_path / "told" / "weights")
    with pytest.raises(ValueError, match="told a scale"):
        add("three", told, tmp_path / "models", WISHES, None, turbo=(4, lora))
    small = build("wan-2.1", tmp_path / "small" / "weights")
    with pytest.raises(ValueError, match="taken by --turbo"):
        add("one", small, tmp_path / "models", WISHES, None, [("turbo", "", lora)])
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no")
    with pytest.raises(FolderError):
        add("one", small, tmp_path / "models", WISHES, None, turbo=(4, bad))
    assert not (tmp_path / "models" / "one").exists()


def test_the_card_tells_json_that_every_reader_takes(folder: Path) -> None:
    fields = json.loads((folder / "wild" / "card.json").read_text(encoding="utf-8"))
    assert [tier["name"] for tier in fields["tiers"]] == ["standard", "fast", "turbo"]


def test_similarity_is_one_for_the_same_film_and_falls_with_noise() -> None:
    draw = np.random.default_rng(1)
    film = draw.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    little = np.clip(film + draw.normal(0, 5, film.shape), 0, 255).astype(np.uint8)
    much = np.clip(film + draw.normal(0, 60, film.shape), 0, 255).astype(np.uint8)
    assert similarity(film, film) == pytest.approx(1)
    assert 1 > similarity(film, little) > similarity(film, much)
