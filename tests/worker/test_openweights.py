"""A registered checkpoint, loaded as a child loads it, makes stored films and is gone on with."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from models.catalog import read_card, registered_folder
from models.openweights.__main__ import add
from models.openweights.families import Wishes
from models.registry import load_model
from tests.models.wilds import build
from tests.worker.test_checkpoints import film, left, order
from worker.film import Equipment, make_film
from worker.jobs.artifacts import VIDEO
from worker.jobs.catalog import REGISTERED
from worker.jobs.contract import ErrorCode
from worker.jobs.disk import DiskStore
from worker.messages import Failed
from worker.shelf import Shelf

# Of diffusers' own making: a scheduler hands a tensor to numpy, and two LoRAs are on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]

NAME = "wan-2.1"
FIELDS = {"model": NAME, "num_frames": 9, "fps": 16, "sampler": "native", "guidance_scale": 3.0}


@pytest.fixture
def tools(tmp_path: Path) -> Equipment:
    (tmp_path / "scratch").mkdir()
    weights = build(NAME, tmp_path / "wild" / "weights")
    wishes = Wishes(("32x32",), 9, 6, 3.0, None)
    lora = ("rex", "", weights.parent / "rex.safetensors")
    add(NAME, weights, tmp_path / REGISTERED, wishes, None, [lora], turbo=(2, lora[2]))
    return Equipment(
        model=load_model(NAME, registered_folder(tmp_path, NAME), "cpu"),
        store=DiskStore(tmp_path / "artifacts"),
        shelf=Shelf(tmp_path / "shelf"),
        scratch_dir=tmp_path / "scratch",
        encoder="libx264",
        storage_patience_s=0,
        checkpoint_overhead=0.0,
    )


def test_an_attempt_that_leaves_is_gone_on_with_to_the_same_film(tools: Equipment) -> None:
    whole = film(order("whole", **FIELDS), tools)
    assert whole.shape[0] == 9
    checkpoint = left(order("left", **FIELDS), tools, after=4)
    assert 0 < checkpoint.steps < 6
    again = film(order("again", checkpoint, **FIELDS), tools)
    assert np.array_equal(again, whole)


def test_a_prompt_that_would_be_cut_off_fails_its_job_with_both_numbers(tools: Equipment) -> None:
    run = order("long", **FIELDS | {"prompt": "fox " * 600})
    answer = make_film(run, tools, lambda message: None, lambda: False)
    assert isinstance(answer, Failed)
    assert re.fullmatch(r"The prompt has \d+ tokens, the model reads 512\.", answer.message), (
        answer.message
    )
    assert (answer.code, answer.retryable) == (ErrorCode.INTERNAL_ERROR, False)


def test_a_film_says_which_weights_lora_and_packages_made_it(
    tools: Equipment, tmp_path: Path
) -> None:
    card = read_card(tmp_path / REGISTERED / NAME / "card.json")
    (turbo,) = (tier for tier in card.tiers if tier.name == "turbo")
    few = {"quality": "turbo", "num_inference_steps": 2, "guidance_scale": 1.0}
    for job, fields, sha256 in (
        ("one", {"adapter": "rex"}, card.adapters[0].sha256),
        ("two", few, turbo.sha256),
        ("three", {"quality": "fast"}, None),
    ):
        run = order(job, **FIELDS | fields)
        film(run, tools)
        with tools.store.open(run.artifact_prefix + VIDEO) as file, av.open(file) as container:
            told = json.loads(container.metadata["comment"])
        assert told["model_sha256"] == tools.model.weights_sha256
        assert told.get("adapter_sha256") == sha256
        assert {"diffusers", "transformers", "peft", "torch"} <= set(told["versions"])
