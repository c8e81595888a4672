"""Every kind of job goes from a body over HTTP to frames of a real model, through what is stored.

The worker's own processes are left out here; see `tests/worker`.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from models.catalog import TASKS
from models.videoldm.config import read_config, write_config
from models.videoldm.pipeline import VideoLDM, load_videoldm
from service.settings import ServiceSettings
from tests.models.presets import build_preset
from tests.service.conftest import Running, serve
from tests.service.media import data_url, film, picture
from worker.inputs import read_task
from worker.jobs.artifacts import open_store
from worker.jobs.settings import JobSettings

PICTURE = data_url(picture((40, 30), (200, 40, 40)))
CLIP = "the clip"  # replaced by one that is uploaded


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> VideoLDM:
    """A tiny preset of the family, with random weights, that may do every kind."""
    folder = build_preset(tmp_path_factory.mktemp("models") / "tiny")
    kinds = [kind for kind in TASKS if kind not in ("interpolate", "upscale")]
    config_path, card_path = folder / "config.json", folder / "card.json"
    write_config(replace(read_config(config_path), tasks=tuple(kinds)), config_path)
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card_path.write_text(json.dumps(card | {"tasks": kinds}), encoding="utf-8")
    torch.set_num_threads(1)
    return load_videoldm(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def tiny_api(valkey_server, model, tmp_path_factory) -> Iterator[Running]:
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("tiny"),
        default_model="tiny",
    )
    with serve(settings, {"tiny": model.card}) as running:
        yield running


@pytest.fixture
def job_settings(valkey, tiny_api) -> JobSettings:
    return tiny_api.settings


@pytest.fixture
def api(valkey, tiny_api) -> Running:
    return tiny_api


KINDS = {
    "text": {"prompt": "a cat"},
    "image": {"first_frame": PICTURE},
    "reference": {
        "prompt": "@one runs",
        "reference_images": [{"image_url": PICTURE, "name": "one"}],
    },
    "first_last_frame": {"first_frame": PICTURE, "last_frame": PICTURE, "last_frame_strength": 0.5},
    "extend": {"video": CLIP, "seconds": 1},
    "story": {"shots": [{"prompt": "a cat", "seconds": 1}, {"prompt": "a dog", "seconds": 1.5}]},
    "edit": {"video": CLIP, "last_frame": PICTURE, "task_type": "edit"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_of_every_kind_becomes_frames(client, store, job_settings, model, tmp_path, kind):
    body = KINDS[kind] | {"num_inference_steps": 1, "size": "32x32"}
    if body.get("video") is CLIP:
        files = {"file": film(Path(tmp_path) / "clip.mp4", frames=10).read_bytes()}
        uploaded = client.post("/v1/files", data={"purpose": "user_data"}, files=files).json()
        body = body | {"video": {"file_id": uploaded["id"]}}
    answer = client.post("/v1/videos", json=body)
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert video["task_type"] == kind
    request = store.get(video["id"]).request
    frames = model.generate(read_task(request, open_store(job_settings)), lambda step: None)
    assert frames.shape == (request.num_frames, 32, 32, 3)
    assert float(video["seconds"]) == pytest.approx(request.num_frames / 8)
