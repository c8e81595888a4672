"""Registered open weights over HTTP: what a checkpoint would ignore is refused before the queue."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr
from safetensors.numpy import save_file
from typer.testing import CliRunner

from models.catalog import Fidelity
from models.openweights.__main__ import add
from models.openweights.families import Wishes
from models.openweights.fidelity import write as write_fidelity
from service.offer import app
from service.settings import ServiceSettings
from tests.models.test_folders import part, write
from tests.service.conftest import Running, serve
from tests.service.media import data_url, picture
from worker.jobs.catalog import REGISTERED, read_offer
from worker.jobs.settings import JobSettings

PICTURE = data_url(picture((64, 48), (200, 40, 40)))
SVD_PARTS = {
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
}


@pytest.fixture(scope="module")
def open_api(valkey_server, tmp_path_factory) -> Iterator[Running]:
    """An API with three registered checkpoints, which no worker has."""
    data = tmp_path_factory.mktemp("offer")
    for name, pipeline, parts in (
        ("vace", "WanVACEPipeline", {}),
        ("five", "WanPipeline", {"expand_timesteps": True, "transformer": {"num_layers": 30}}),
        ("svd", "StableVideoDiffusionPipeline", SVD_PARTS),
    ):
        folder = write(data / "weights" / name, pipeline, **parts)
        if "unet" in parts:
            part(folder, "feature_extractor", "preprocessor_config.json", {}, weights=False)
            part(folder, "image_encoder", "config.json", {}, weights=True)
            part(folder, "unet", "config.json", {}, weights=True)
        turbo = (4, write_lora(data / "lora.safetensors")) if name == "five" else None
        add(name, folder, data / REGISTERED, Wishes(steps=8), None, turbo=turbo)
    measured = {"ssim": 0.97, "psnr_db": 31.5, "speedup": 2.2, "device": "cuda"}
    measured |= {"size": "1280x704", "frames": 121, "steps": 8}
    write_fidelity({"fast": Fidelity(**measured)}, data / REGISTERED / "five" / "card.json")
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url), data_dir=data, default_model="vace"
    )
    with serve(settings, read_offer(data)) as running:
        yield running


@pytest.fixture
def job_settings(valkey, open_api) -> JobSettings:
    return open_api.settings


@pytest.fixture
def api(valkey, open_api) -> Running:
    return open_api


def write_lora(path: Path) -> Path:
    """A file that a LoRA might be."""
    save_file({f"transformer.a.lora_{s}.weight": np.ones((2, 2), np.float32) for s in "AB"}, path)
    return path


def test_a_listing_says_where_weights_are_and_a_model_what_memory_it_needs(open_api, client):
    data = open_api.settings.data_dir
    runner = CliRunner(env={"COLUMNS": "400"})
    listed = runner.invoke(app, ("list", "--data-dir", str(data))).stdout
    assert all(str(data / "weights" / name) in listed for name in ("vace", "five", "svd"))
    card = read_offer(data)["five"]
    told = {m["id"]: m["memory_mb"] for m in client.get("/v1/videos/models").json()["data"]}
    assert told["five"] == (card.cost.memory_mb or None)
    assert told["pocket"] == read_offer(data)["pocket"].cost.memory_mb


TAKEN = {
    "words": {"model": "vace", "prompt": "a fox"},
    "a frame": {"model": "vace", "first_frame": PICTURE},
    "two frames": {"model": "vace", "first_frame": PICTURE, "last_frame": PICTURE},
    "references": {"model": "vace", "prompt": "a fox", "reference_images": [PICTURE]},
    "words for the 5B": {"model": "five", "prompt": "a fox", "negative_prompt": "rain"},
    "a frame for the 5B": {"model": "five", "prompt": "a fox", "first_frame": PICTURE},
    "less work": {"model": "five", "prompt": "a fox", "quality": "fast"},
    "few steps": {"model": "five", "prompt": "a fox", "quality": "turbo"},
    "a frame without words": {"model": "svd", "first_frame": PICTURE},
}

REFUSED = {
    "first_frame": {
        "model": "vace",
        "prompt": "a fox",
        "task_type": "text",
        "first_frame": PICTURE,
    },
    "last_frame": {
        "model": "vace",
        "task_type": "image",
        "first_frame": PICTURE,
        "last_frame": PICTURE,
    },
    "negative_prompt": {
        "model": "vace",
        "prompt": "a fox",
        "negative_prompt": "rain",
        "guidance_scale": 1,
    },
    "prompt": {"model": "svd", "first_frame": PICTURE, "prompt": "a fox"},
    "adapter": {"model": "vace", "prompt": "a fox", "adapter": "rex"},
    "quality": {"model": "vace", "prompt": "a fox", "quality": "fast"},
    "num_inference_steps": {
        "model": "five",
        "prompt": "a fox",
        "quality": "turbo",
        "num_inference_steps": 8,
    },
    "guidance_scale": {
        "model": "five",
        "prompt": "a fox",
        "quality": "turbo",
        "guidance_scale": 5,
    },
    "guidance_rescale": {"model": "vace", "prompt": "a fox", "guidance_rescale": 0.5},
    "last_frame_strength": {
        "model": "vace",
        "first_frame": PICTURE,
        "last_frame": PICTURE,
        "last_frame_strength": 0.5,
    },
}


IGNORED_SILENTLY = {"model": "five", "first_frame": PICTURE, "last_frame": PICTURE}  # by diffusers


@pytest.mark.parametrize("what", TAKEN)
def test_what_a_checkpoint_takes_is_queued(client, what):
    answer = client.post("/v1/videos", json=TAKEN[what])
    assert answer.status_code == 200, answer.text


BODIES = [*REFUSED.items(), ("last_frame", IGNORED_SILENTLY)]


@pytest.mark.parametrize(("param", "body"), BODIES)
def test_what_a_checkpoint_would_ignore_is_refused_before_the_queue(client, store, param, body):
    answer = client.post("/v1/videos", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert store.list("default", after=None, limit=9, descending=True).jobs == ()


def test_few_steps_come_without_guidance(client, store):
    body = {"model": "five", "prompt": "a fox", "quality": "turbo", "guidance_scale": 1}
    job = store.get(client.post("/v1/videos", json=body).json()["id"])
    request = job.request
    assert (request.num_inference_steps, request.guidance_scale) == (4, 1)


def test_callers_are_told_how_near_each_quality_comes(client):
    models = {m["id"]: m for m in client.get("/v1/videos/models").json()["data"]}
    standard, fast, turbo = models["five"]["tiers"]
    assert standard == {
        "name": "standard",
        "exact": True,
        "num_inference_steps": None,
        "fidelity": None,
    }
    assert (fast["exact"], fast["fidelity"]["ssim"], fast["fidelity"]["speedup"]) == (
        False,
        0.97,
        2.2,
    )
    assert (turbo["num_inference_steps"], turbo["fidelity"]) == (4, None)
    assert models["svd"]["tiers"] == []
