"""Quality, guidance and context: told to a model that takes them, refused before the queue else.

The model is a tiny one with every stage, so what is admitted is also made.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import SecretStr

from models.catalog import TASKS, AdapterCard, read_card
from models.videoldm.config import read_config, write_config
from models.videoldm.pipeline import load_videoldm
from models.videoldm.staged import StagedLDM, staged
from service.settings import ServiceSettings
from tests.models.stages import build_cascade
from tests.service.conftest import Running, serve
from tests.service.media import data_url, film, picture
from worker.inputs import read_task
from worker.jobs.artifacts import open_store
from worker.jobs.settings import JobSettings

PICTURE = data_url(picture((40, 40), (200, 40, 40)))
STORY = {"shots": [{"prompt": "a cat", "seconds": 1}]}
UPSCALED = {"video": "video_" + "0" * 32, "upscale_factor": 4}
DENSER = {"video": "video_" + "0" * 32, "target_fps": 24}
TWO = {"first_frame": PICTURE, "last_frame": PICTURE}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> StagedLDM:
    folder = build_cascade(tmp_path_factory.mktemp("models") / "tiny")
    config_path, card_path = folder / "config.json", folder / "card.json"
    kinds = [kind for kind in TASKS if kind not in ("interpolate", "upscale")]
    write_config(replace(read_config(config_path), tasks=tuple(kinds)), config_path)
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card["sizes"] = ["32x32", "64x64"]
    card_path.write_text(json.dumps(card | {"tasks": list(TASKS)}), encoding="utf-8")
    torch.set_num_threads(1)
    loaded = staged(load_videoldm(folder, "cpu", torch.float32))
    assert isinstance(loaded, StagedLDM)
    assert loaded.card == read_card(card_path)
    return loaded


@pytest.fixture(scope="module")
def tiny_api(valkey_server, model, tmp_path_factory) -> Iterator[Running]:
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("tiny"),
        default_model="tiny",
    )
    worded = replace(model.card, id="worded", tasks=frozenset({"text", "story", "edit"}))
    subjects = (AdapterCard("rex", "sks", "dog"), AdapterCard("tom", "sks", "cat"))
    worded = replace(worded, adapters=subjects)
    undrawn = replace(model.card.inputs, last_frame_sketches=False)
    other = replace(model.card, id="other", kind="openweights", cascade=None, inputs=undrawn)
    loose = replace(model.card, id="loose", guidance_defaults=(("image", 1.5),))
    cards = {"tiny": model.card, "worded": worded, "other": other, "loose": loose}
    with serve(settings, cards) as running:
        yield running


@pytest.fixture
def job_settings(valkey, tiny_api) -> JobSettings:
    return tiny_api.settings


@pytest.fixture
def api(valkey, tiny_api) -> Running:
    return tiny_api


def send(client, body):
    return client.post("/v1/videos", json={"prompt": "a cat"} | body)


def test_a_kind_of_job_may_have_a_default_guidance_of_its_own(client, model):
    def scale(**wishes):
        return send(client, {"model": "loose"} | wishes).json()["guidance_scale"]

    usual = model.card.guidance.default
    assert usual != 1.5
    assert scale() == scale(**TWO) == usual
    assert scale(first_frame=PICTURE) == 1.5
    assert scale(first_frame=PICTURE, guidance_scale=4) == 4
    told = {each["id"]: each for each in client.get("/v1/videos/models").json()["data"]}
    assert told["loose"]["guidance_defaults"] == {"image": 1.5}
    assert told["worded"]["guidance_defaults"] == {}  # it serves no such kind


def test_what_is_asked_for_reaches_the_model_and_is_echoed(client, store, job_settings):
    asked = {
        "quality": "draft",
        "guidance_rescale": 0.5,
        "guidance_schedule": "oscillating",
        "reconstruction_weight": 4.0,
        "sampler": "ddim",
    }
    video = send(client, asked | TWO).json()
    assert {name: video[name] for name in asked} == asked
    task = read_task(store.get(video["id"]).request, open_store(job_settings))
    assert {name: getattr(task, name) for name in asked} == asked
    told = STORY | {"context_frames": 1, "context_guidance": 2, "guidance_schedule": "linear"}
    video = send(client, told).json()
    assert (video["context_frames"], video["context_guidance"]) == (1, 2.0)
    task = read_task(store.get(video["id"]).request, open_store(job_settings))
    found = (task.context_frames, task.context_guidance, task.guidance_schedule)
    assert found == (1, 2.0, "linear")


def test_a_personal_subject_is_picked_listed_and_echoed(client, store, job_settings):
    video = send(client, {"model": "worded", "adapter": "rex", "adapter_scale": 0.5}).json()
    assert (video["adapter"], video["adapter_scale"]) == ("rex", 0.5)
    task = read_task(store.get(video["id"]).request, open_store(job_settings))
    assert (task.adapter, task.adapter_scale) == ("rex", 0.5)
    video = send(client, {"model": "worded"}).json()
    assert (video["adapter"], video["adapter_scale"]) == (None, None)
    models = {model["id"]: model for model in client.get("/v1/videos/models").json()["data"]}
    assert models["tiny"]["adapters"] == []
    assert models["worded"]["adapters"][0] == {"id": "rex", "word": "sks", "kind": "dog"}


def test_a_quality_says_how_many_steps_the_stages_have(client):
    video = send(client, {}).json()
    assert (video["size"], video["fps"]) == ("128x128", 24)
    assert (video["quality"], video["num_inference_steps"]) == ("standard", 2)
    assert send(client, {"quality": "draft"}).json()["num_inference_steps"] == 4
    plain = send(client, {"size": "64x64", "fps": 8}).json()
    assert plain["num_inference_steps"] == 16  # no stage makes it


def test_steps_of_a_few_step_student_bind_only_what_it_draws(client):
    begun = {"quality": "draft", "first_frame": PICTURE}
    assert send(client, begun).json()["num_inference_steps"] == 16
    assert send(client, begun | {"num_inference_steps": 12}).json()["num_inference_steps"] == 12
    refused = send(client, {"quality": "draft", "num_inference_steps": 12})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "num_inference_steps")


def test_a_quality_is_told_only_where_it_changes_anything(client, store):
    assert send(client, {"size": "32x32", "fps": 8}).json()["quality"] is None
    assert send(client, {"size": "32x32", "fps": 24}).json()["quality"] == "standard"


def test_a_shot_without_a_prompt_has_that_of_its_story(client, store):
    video = send(client, {"shots": [{"seconds": 1}, {"prompt": "a dog", "seconds": 1}]}).json()
    assert [shot["prompt"] for shot in video["shots"]] == ["a cat", "a dog"]
    assert video["warnings"] == []
    (warning,) = send(client, {"prompt": "a day", **STORY}).json()["warnings"]
    assert "title" in warning
    empty = client.post("/v1/videos", json={"shots": [{"seconds": 1}]})
    assert empty.json()["error"]["param"] == "shots.0.prompt"


def test_a_shot_with_a_first_frame_is_a_cut_unless_it_is_the_first(client, store):
    begun = {"prompt": "a dog", "first_frame": PICTURE}
    first = begun | {"transition": "continue"}
    video = send(client, {"shots": [first, begun, "a cow", begun | {"transition": "cut"}]}).json()
    told = [shot["transition"] for shot in video["shots"]]
    assert told == ["continue", "cut", "continue", "cut"]


def test_the_factors_listed_are_those_that_clips_are_upscaled_by(client):
    listed = {one["id"]: one for one in client.get("/v1/videos/models").json()["data"]}["tiny"]
    assert listed["inputs"]["upscale_factors"] == [4]


def test_what_belongs_to_a_clip_has_its_size_and_rate_unless_others_are_asked_for(
    client, store, tmp_path
):
    def made(rate, **wishes):
        data = film(Path(tmp_path) / "clip.mp4", frames=2 * rate, fps=rate, size=(32, 32))
        files = {"file": data.read_bytes()}
        sent = client.post("/v1/files", data={"purpose": "user_data"}, files=files).json()
        asked = {"video": {"file_id": sent["id"]}, "seconds": 1} | wishes
        answer = send(client, asked)
        video = answer.json()
        if answer.status_code == 400:
            return video["error"]["param"]
        return video["size"], video["fps"], video["num_frames"], video["quality"]

    assert made(8) == ("32x32", 8, 16 + 8, None)
    assert made(8, fps=24) == ("32x32", 24, 48 + 24, "standard")
    assert made(30) == ("32x32", 24, 48 + 24, "standard")
    assert made(8, size="128x128", quality="draft") == ("128x128", 8, 16 + 8, "draft")
    assert made(8, quality="draft") == "quality"  # the base alone makes it


def test_a_clip_of_a_length_that_cannot_be_edited_is_told_which_can(client, tmp_path):
    data = film(Path(tmp_path) / "short.mp4", frames=5).read_bytes()
    sent = client.post("/v1/files", data={"purpose": "user_data"}, files={"file": data})
    asked = {"video": {"file_id": sent.json()["id"]}, "task_type": "edit", "last_frame": PICTURE}
    error = send(client, asked).json()["error"]
    assert error["param"] == "video"
    assert all(word in error["message"] for word in ("8 and 32", "8 fps", "5 frames"))


def test_shortest_clips_are_listed_as_the_default_rate_allows_them(client, model):
    listed = {one["id"]: one for one in client.get("/v1/videos/models").json()["data"]}["tiny"]
    shortest = listed["num_frames"]["minimum"]
    assert (shortest, listed["seconds"]["minimum"]) == (24, 1.0)
    assert send(client, {"num_frames": shortest}).status_code == 200
    assert send(client, {"num_frames": shortest - 1}).status_code == 400


REFUSED = [
    ({"adapter": "rex"}, "adapter", ["tiny has none", "rex"]),
    ({"model": "worded", "adapter": "fido"}, "adapter", ["rex, tom", "fido"]),
    ({"model": "worded", "adapter": "rex", "adapter_scale": 3}, "adapter_scale", ["2", "3"]),
    ({"model": "worded", "adapter_scale": 1}, "adapter_scale", ["adapter"]),
    ({"model": "worded", "adapter": "rex", "quality": "draft"}, "adapter", ["draft"]),
    ({"upscale_factor": 2}, "upscale_factor", ["one of 4", "2"]),
    ({"upscale_factor": 4, "size": "128x128"}, "size", ["32x32", "128x128"]),
    ({"target_fps": 25}, "target_fps", ["24", "25"]),
    ({"target_fps": 24, "fps": 8}, "fps", ["6", "8"]),
    (
        {"target_fps": 24, "frame_interpolation_factor": 2},
        "frame_interpolation_factor",
        ["24", "12"],
    ),
    ({"model": "other", "enable_upscaling": True}, "enable_upscaling", ["other", "tiny, worded"]),
    ({"model": "other", "target_fps": 24}, "target_fps", ["other", "tiny, worded"]),
    ({"quality": "best"}, "quality", ["standard, draft", "best"]),
    ({"quality": "draft", "num_inference_steps": 9}, "num_inference_steps", ["draft", "4", "9"]),
    ({"model": "other", "quality": "draft"}, "quality", ["draft"]),
    ({"model": "other", "guidance_rescale": 0.5}, "guidance_rescale", ["other", "0.5"]),
    ({"guidance_rescale": 1.5}, "guidance_rescale", ["1.5"]),
    ({"guidance_schedule": "wavy"}, "guidance_schedule", ["linear", "wavy"]),
    ({"guidance_schedule": "oscillating"}, "guidance_schedule", ["dpmpp_2m", "ddim"]),
    ({"quality": "draft", "negative_prompt": "a dog"}, "negative_prompt", ["draft", "dog"]),
    ({"quality": "draft", "sampler": "ddim"}, "sampler", ["draft", "ddim"]),
    ({"quality": "draft", "guidance_rescale": 0.5}, "guidance_rescale", ["draft", "0.5"]),
    ({"quality": "draft", "guidance_schedule": "linear"}, "guidance_schedule", ["linear"]),
    ({"quality": "draft", "guidance_scale": 7}, "guidance_scale", ["1 and 6", "draft", "7"]),
    ({"size": "32x32", "fps": 8, "quality": "draft"}, "quality", ["base", "draft"]),
    ({"guidance_scale": 1, "negative_prompt": "a dog"}, "negative_prompt", ["1", "dog"]),
    (UPSCALED | {"num_inference_steps": 9}, "num_inference_steps", ["upscale", "9"]),
    (UPSCALED | {"guidance_scale": 2}, "guidance_scale", ["upscale", "2"]),
    (DENSER | {"negative_prompt": "a dog"}, "negative_prompt", ["interpolate", "dog"]),
    (DENSER | {"sampler": "ddim"}, "sampler", ["interpolate", "ddim"]),
    (STORY | {"last_frame_strength": 0.5}, "last_frame_strength", ["no last_frame", "0.5"]),
    (STORY | {"reference_strength": 0.5}, "reference_strength", ["no references", "0.5"]),
    (
        {"shots": ["a cat", {"transition": "continue", "first_frame": PICTURE}]},
        "shots.1.transition",
        ["continue", "first_frame"],
    ),
    (
        {"prompt": "@bob runs", "reference_images": [{"image_url": PICTURE, "name": "al"}]},
        "prompt",
        ["al", "@bob"],
    ),
    (
        {
            "shots": [{"prompt": "@bob runs", "reference_images": ["al"]}],
            "reference_images": [{"image_url": PICTURE, "name": "al"}],
        },
        "shots.0.prompt",
        ["al", "@bob"],
    ),
    (STORY | {"context_frames": 3}, "context_frames", ["2", "3"]),
    ({"context_frames": 1}, "context_frames", ["story", "text"]),
    (STORY | {"context_guidance": 5}, "context_guidance", ["4", "5"]),
    (TWO | {"context_guidance": 2}, "context_guidance", ["extend, story", "first_last_frame"]),
    (STORY | {"context_guidance": 2, "context_frames": 0}, "context_guidance", ["no context", "2"]),
    (
        STORY | {"context_guidance": 2, "reconstruction_weight": 3},
        "context_guidance",
        ["reconstruction_weight", "2"],
    ),
    (TWO | {"guidance_scale": 1, "guidance_rescale": 0.5}, "guidance_rescale", ["1", "0.5"]),
    (TWO | {"reconstruction_weight": 101}, "reconstruction_weight", ["100", "101"]),
    (
        TWO | {"model": "other", "last_frame_is_sketch": True},
        "last_frame_is_sketch",
        ["false", "other is not trained", "True"],
    ),
    (STORY | {"size": "64x64", "fps": 24}, "fps", ["8", "24"]),
    (STORY | {"num_inference_steps": 9}, "num_inference_steps", ["standard", "2", "9"]),
    (STORY | {"size": "32x32", "fps": 8, "quality": "draft"}, "quality", ["base", "draft"]),
    ({"shots": [{"prompt": "a cat", "seconds": 0.9}]}, "shots.0.seconds", ["1", "24 fps", "0.9"]),
    ({"size": "64x64", "fps": 24}, "fps", ["8", "24"]),
    ({"size": "128x128", "fps": 8, "num_frames": 33}, "num_frames", ["32", "33"]),
    (
        {"reference_images": [{"image_url": PICTURE, "reference_type": "style"}]},
        "reference_images.0.reference_type",
        ["subject", "style"],
    ),
    (STORY | {"model": "worded", "reference_images": [PICTURE]}, "reference_images", ["worded"]),
    (
        {"video": "video_" + "0" * 32, "extend_before": True, "last_frame": PICTURE},
        "last_frame",
        ["clip"],
    ),
]


FINISHED = [
    ({"upscale_factor": 4}, "128x128", 24),
    ({"size": "32x32", "enable_upscaling": True, "upscaling_scale": 4}, "128x128", 24),
    ({"size": "32x32", "enable_upscaling": True, "target_fps": 24}, "128x128", 24),
    ({"size": "32x32", "target_fps": 24}, "32x32", 24),
    ({"size": "32x32", "fps": 6, "frame_interpolation_factor": 4}, "32x32", 24),
    ({"size": "32x32", "enable_frame_interpolation": True}, "32x32", 24),
    ({"size": "32x32", "fps": 8, "upscale_factor": 4}, "128x128", 8),
    ({"size": "32x32", "fps": 8, "upscale_factor": 4, "enable_upscaling": False}, "32x32", 8),
]


@pytest.mark.parametrize(("body", "size", "fps"), FINISHED)
def test_post_processing_of_a_generation_is_its_size_and_rate(client, store, body, size, fps):
    answer = send(client, body)
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert (video["task_type"], video["size"], video["fps"]) == ("text", size, fps)
    request = store.get(video["id"]).request
    assert (request.upscale_factor, request.target_fps) == (None, None)


@pytest.mark.parametrize(("body", "param", "says"), REFUSED)
def test_what_the_model_would_refuse_dies_before_the_queue(client, store, body, param, says):
    answer = send(client, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert all(word in error["message"] for word in says), error
    assert not store.live_ids()


KINDS = {
    "text": {"seconds": 1},
    "first_last_frame": TWO | {"seconds": 1, "fps": 12},
    "reference": {"reference_images": [PICTURE], "seconds": 1, "fps": 6, "size": "32x32"},
    "story": {"shots": ["a cow", {"prompt": "a dog", "seconds": 1.5, "transition": "cut"}]},
    "extend": {"seconds": 1, "size": "128x128", "fps": 24},
    "edit": {"last_frame": PICTURE, "task_type": "edit", "size": "128x128", "fps": 12},
    "interpolate": {"target_fps": 24},
    "upscale": {"upscale_factor": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_admitted_at_default_sizes_is_made(
    client, store, job_settings, model, tmp_path, kind
):
    body = KINDS[kind] | {"quality": "draft"} if kind in ("text",) else dict(KINDS[kind])
    if kind in ("extend", "edit", "interpolate", "upscale"):
        data = film(Path(tmp_path) / "clip.mp4", frames=8).read_bytes()
        sent = client.post("/v1/files", data={"purpose": "user_data"}, files={"file": data})
        body |= {"video": {"file_id": sent.json()["id"]}}
    answer = send(client, body)
    assert answer.status_code == 200, answer.text
    titled = kind in ("story", "interpolate", "upscale")
    assert ["title" in warning for warning in answer.json()["warnings"]] == [True] * titled
    request = store.get(answer.json()["id"]).request
    task = read_task(request, open_store(job_settings))
    count = 0
    for piece in model.stream(task, lambda step: None):
        assert piece.shape[1:] == (request.height, request.width, 3)
        count += len(piece)
    assert (request.task_type, count) == (kind, request.num_frames)
