"""Creating a video: what is accepted, what is refused, and what a repetition does."""

import json
from dataclasses import replace

import pytest

from tests.cards import plain_card
from tests.service.conftest import serve

PROMPT = "a red fox walks to the left"
LONG = "x" * 10_000_000


def create(client, body, **options):
    return client.post("/v1/videos", json=body, **options)


def refused(answer, status, code, param):
    """The envelope of a refusal, checked for shape."""
    assert answer.status_code == status, answer.text[:500]
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)
    assert len(body["error"]["message"]) < 500
    return body["error"]["message"]


def test_create_answers_with_the_whole_video_object(client):
    answer = create(client, {"prompt": PROMPT, "seed": 7})
    assert answer.status_code == 200
    video = answer.json()
    assert video == {
        "id": video["id"],
        "object": "video",
        "created_at": video["created_at"],
        "completed_at": None,
        "expires_at": None,
        "status": "queued",
        "progress": 0,
        "model": "pocket",
        "prompt": PROMPT,
        "seconds": "2",
        "size": "64x64",
        "error": None,
        "remixed_from_video_id": None,
        "task_type": "text",
        "stage": "queued",
        "started_at": None,
        "queue_position": 1,
        "eta_seconds": None,
        "attempt": 0,
        "cancel_requested": False,
        "negative_prompt": "",
        "seed": 7,
        "fps": 8,
        "num_frames": 16,
        "num_inference_steps": 16,
        "guidance_scale": 3.0,
        "sampler": "dpmpp_2m",
        "quality": None,
        "guidance_rescale": 0.0,
        "guidance_schedule": "constant",
        "context_frames": None,
        "context_guidance": None,
        "reconstruction_weight": None,
        "adapter": None,
        "adapter_scale": None,
        "last_frame_is_sketch": False,
        "first_frame_strength": None,
        "last_frame_strength": None,
        "reference_strength": None,
        "upscale_factor": None,
        "source_video_id": None,
        "shots": [],
        "metadata": {},
        "user": None,
        "service_tier": "default",
        "gpu_class": None,
        "cached": False,
        "url": None,
        "thumbnail_url": None,
        "spritesheet_url": None,
        "last_frame_url": None,
        "metrics": {"queue_wait_s": None, "inference_time_s": None, "peak_memory_mb": None},
        "model_sha256": None,
        "content_sha256": None,
        "warnings": [],
    }
    assert isinstance(video["created_at"], int)
    assert answer.headers["location"] == f"/v1/videos/{video['id']}"
    assert int(answer.headers["openai-poll-after-ms"]) > 0
    assert int(answer.headers["retry-after"]) >= 1


def test_every_field_reaches_the_job(client, store):
    answer = create(
        client,
        {
            "model": "pocket",
            "prompt": "{not json}",
            "task": "text",
            "duration": "3",
            "width": 64,
            "height": "64",
            "negative_prompt": "[blurry",
            "seed": "9223372036854775807",
            "steps": 10.0,
            "cfg_scale": "2.5",
            "fps": 8,
            "extra_params": '{"sampler": "ddim"}',
            "metadata": {"scene": "4"},
            "user": "u-1",
            "execution_expires_after": 60,
            "service_tier": "default",
            "n": 1,
            "enhance_prompt": False,
        },
    )
    request = store.get(answer.json()["id"]).request
    assert request.model_dump(exclude_defaults=True) == {
        "model": "pocket",
        "task_type": "text",
        "prompt": "{not json}",
        "negative_prompt": "[blurry",
        "width": 64,
        "height": 64,
        "num_frames": 24,
        "fps": 8,
        "seed": 2**63 - 1,
        "num_inference_steps": 10,
        "guidance_scale": 2.5,
        "sampler": "ddim",
        "metadata": {"scene": "4"},
        "user": "u-1",
    }


def test_a_seed_is_drawn_once_and_echoed(client):
    drawn = {create(client, {"prompt": PROMPT, "seed": None}).json()["seed"] for _ in range(5)}
    assert len(drawn) == 5


BAD = [
    ({}, "missing_required_parameter", "prompt", ["prompt"]),
    ({"prompt": None}, "missing_required_parameter", "prompt", ["prompt"]),
    ({"prompt": ""}, "invalid_value", "prompt", ["''", "256"]),
    ({"prompt": " \n"}, "invalid_value", "prompt", ["256"]),
    ({"prompt": LONG}, "invalid_value", "prompt", ["10000000", "256"]),
    ({"prompt": 7}, "invalid_value", "prompt", ["string", "7"]),
    ({"prompt": "\ud800"}, "invalid_value", "prompt", ["\\ud800"]),
    ({"negative_prompt": "y" * 257}, "invalid_value", "negative_prompt", ["257", "256"]),
    ({"size": "1x1"}, "invalid_value", "size", ["1x1", "64x64"]),
    ({"size": "99999x99999"}, "invalid_value", "size", ["99999x99999", "64x64"]),
    ({"size": "-64x64"}, "invalid_value", "size", ["-64x64"]),
    ({"size": 64}, "invalid_value", "size", ["64"]),
    ({"width": 64}, "missing_required_parameter", "height", ["width"]),
    ({"width": 32, "height": 64}, "invalid_value", "width", ["32x64", "64x64"]),
    ({"size": "64x64", "width": 32, "height": 32}, "invalid_value", "width", ["32x32"]),
    ({"resolution": "720p"}, "invalid_value", "resolution", ["720p", "64x64"]),
    ({"aspect_ratio": "16:9"}, "invalid_value", "aspect_ratio", ["16:9", "64x64"]),
    ({"aspect_ratio": "0:0"}, "invalid_value", "aspect_ratio", ["0:0"]),
    ({"guidance_scale": float("nan")}, "invalid_value", "guidance_scale", ["nan", "1"]),
    ({"guidance_scale": float("inf")}, "invalid_value", "guidance_scale", ["inf"]),
    ({"guidance_scale": 10**400}, "invalid_value", "guidance_scale", ["1"]),
    ({"guidance_scale": 0.5}, "invalid_value", "guidance_scale", ["0.5", "1"]),
    ({"guidance_scale": 16}, "invalid_value", "guidance_scale", ["16", "15"]),
    ({"seconds": float("-inf")}, "invalid_value", "seconds", ["-inf"]),
    ({"seconds": 0}, "invalid_value", "seconds", ["0"]),
    ({"seconds": "8"}, "invalid_value", "seconds", ["8", "between 1 and 4"]),
    ({"seconds": 1e300}, "invalid_value", "seconds", ["1e+300", "between 1 and 4"]),
    ({"seconds": "four"}, "invalid_value", "seconds", ["four"]),
    ({"num_frames": 33}, "invalid_value", "num_frames", ["33", "between 8 and 32"]),
    ({"num_frames": 16, "seconds": 3}, "incompatible_inputs", "num_frames", ["16", "24"]),
    ({"num_frames": True}, "invalid_value", "num_frames", ["True"]),
    ({"fps": 24}, "invalid_value", "fps", ["24", "8"]),
    ({"seed": True}, "invalid_value", "seed", ["True"]),
    ({"seed": -1}, "invalid_value", "seed", ["-1", "0"]),
    ({"seed": 2**63}, "invalid_value", "seed", [str(2**63), str(2**63 - 1)]),
    ({"seed": 1.5}, "invalid_value", "seed", ["1.5"]),
    ({"seed": [1]}, "invalid_value", "seed", ["[1]"]),
    ({"seed": "1_000"}, "invalid_value", "seed", ["1_000"]),
    ({"num_inference_steps": 0}, "invalid_value", "num_inference_steps", ["0", "1"]),
    ({"steps": 101}, "invalid_value", "num_inference_steps", ["101", "between 1 and 100"]),
    ({"sampler": "euler"}, "invalid_value", "sampler", ["euler", "ddim"]),
    ({"n": 2}, "invalid_value", "n", ["2", "1"]),
    ({"model": "sora-2"}, "model_not_found", "model", ["sora-2", "pocket"]),
    ({"model": 3}, "invalid_value", "model", ["3"]),
    ({"task_type": "dream"}, "invalid_value", "task_type", ["dream", "text"]),
    ({"metadata": {"a": 1}}, "invalid_value", "metadata.a", ["1"]),
    ({"metadata": {str(i): "" for i in range(17)}}, "invalid_value", "metadata", ["17", "16"]),
    ({"metadata": {"a": "v" * 513}}, "invalid_value", "metadata.a", ["513", "512"]),
    ({"metadata": "[broken"}, "invalid_value", "metadata", ["JSON"]),
    ({"user": "u" * 257}, "invalid_value", "user", ["257", "256"]),
    ({"wings": 2}, "unknown_parameter", "wings", ["wings"]),
    ({"\ud800": 2}, "unknown_parameter", "\\ud800", ["ud800"]),
    ({"tau": 3}, "unknown_parameter", "tau", ["last_frame_strength"]),
    ({"extra_params": {"x": 1}}, "unknown_parameter", "extra_params.x", ["sampler"]),
    ({"extra_body": 3}, "invalid_value", "extra_body", ["3"]),
    ({"seconds": 1, "duration": 2}, "invalid_value", "duration", ["2", "seconds"]),
    (
        {"steps": 4, "num_inference_steps": 5},
        "invalid_value",
        "num_inference_steps",
        ["contradicts steps, ", "5"],
    ),
    ({"enhance_prompt": True}, "invalid_value", "enhance_prompt", ["True", "false"]),
    ({"enhance_prompt": "yes"}, "invalid_value", "enhance_prompt", ["yes"]),
    ({"service_tier": "turbo"}, "invalid_value", "service_tier", ["turbo", "flex"]),
    ({"execution_expires_after": 0}, "invalid_value", "execution_expires_after", ["0", "1"]),
]


@pytest.mark.parametrize(("fields", "code", "param", "said"), BAD)
def test_bad_input_names_field_value_and_limit(client, store, fields, code, param, said):
    body = json.dumps({"prompt": PROMPT} | fields if fields else {})
    answer = client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    message = refused(answer, 400, code, param)
    assert all(part in message for part in said), message
    assert store.depth() == 0


@pytest.fixture(scope="module")
def worded(shared_api):
    """A client of an API whose one model makes clips of words alone."""
    card = replace(plain_card(), id="worded", tasks=frozenset({"text"}))
    settings = shared_api.settings.model_copy(update={"default_model": "worded"})
    with serve(settings, {"worded": card}) as running, running.client() as client:
        yield client


INPUTS = [
    ({"input_reference": "file-1"}, "input_reference", "image"),
    ({"input_reference": ["a", "b"]}, "input_reference", "reference"),
    ({"image": {"image_url": "https://x/y.png"}}, "input_reference", "image"),
    ({"first_frame": "x"}, "first_frame", "image"),
    ({"first_frame": "x", "last_frame": {"file_id": "f"}}, "last_frame", "first_last_frame"),
    ({"reference_images": ["a"]}, "reference_images", "reference"),
    ({"characters": [{"id": "c"}]}, "characters", "reference"),
    ({"video": {"id": "video_1"}}, "video", "extend"),
    ({"video": {"id": "video_1"}, "upscale_factor": 2}, "video", "upscale"),
    ({"video": {"id": "video_1"}, "target_fps": 48}, "video", "interpolate"),
    ({"shots": [{"prompt": "a", "seconds": 1}]}, "shots", "story"),
    ({"storyboard": "[]"}, "shots", "story"),
    ({"task_type": "edit"}, "task_type", "edit"),
    ({"task_type": "text", "last_frame": "x"}, "last_frame", "first_last_frame"),
    ({"upscale_factor": 2}, "upscale_factor", "upscale"),
    ({"enable_frame_interpolation": True}, "enable_frame_interpolation", "interpolate"),
    ({"last_frame_strength": 0.5}, "last_frame_strength", "first_last_frame"),
]


@pytest.mark.parametrize(("fields", "param", "task"), INPUTS)
def test_kinds_the_model_lacks_are_refused_by_name(worded, fields, param, task):
    answer = create(worded, {"prompt": PROMPT} | fields)
    message = refused(answer, 400, "unsupported_task", param)
    assert task in message
    assert "worded" in message
    assert "none on this server" in message


def test_a_switch_that_is_off_asks_for_nothing(client):
    assert create(client, {"prompt": PROMPT, "enable_upscaling": False}).status_code == 200


def test_priority_is_for_keys_that_may(client):
    answer = create(client, {"prompt": PROMPT, "service_tier": "priority"})
    refused(answer, 403, "permission_denied", "service_tier")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[1]", "object"),
        (b"\xff\xfe\xfd", "JSON"),
        (b"[" * 100_000, "deep"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "JSON"),
        (b"--x\r\nContent-Disposition: form-data", "multipart"),
    ],
)
def test_a_body_that_is_no_object_is_refused(client, raw, said):
    answer = client.post("/v1/videos", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_other_body_types_are_refused(client):
    answer = client.post("/v1/videos", content=b"<a/>", headers={"Content-Type": "text/xml"})
    assert "text/xml" in refused(answer, 415, "unsupported_media_type", "Content-Type")


def test_form_bodies_mean_the_same_as_json(client, store):
    fields = {"prompt": PROMPT, "seed": "5", "seconds": "1", "metadata[scene]": "4"}
    created = [
        client.post("/v1/videos", data=fields),
        client.post("/v1/videos", files={name: (None, value) for name, value in fields.items()}),
        create(client, {"prompt": PROMPT, "seed": 5, "seconds": 1, "metadata": {"scene": "4"}}),
        client.post(
            "/v1/videos",
            data={
                "prompt": PROMPT,
                "extra_body": '{"seed": 5, "seconds": 1, "prompt": "overruled"}',
                "metadata": '{"scene": "4"}',
            },
        ),
    ]
    assert [answer.status_code for answer in created] == [200] * 4
    requests = [store.get(answer.json()["id"]).request for answer in created]
    assert len({request.model_dump_json() for request in requests}) == 1


def test_a_text_part_above_a_mebibyte_is_read(worded):
    data = "data:image/png;base64," + "A" * (3 << 20)
    parts = {"prompt": (None, PROMPT), "first_frame[image_url]": (None, data)}
    answer = worded.post("/v1/videos", files=parts)
    assert "first_frame" in refused(answer, 400, "unsupported_task", "first_frame")


def test_an_upload_is_told_from_a_string(worded):
    files = {"input_reference": ("a.png", b"\x89PNG", "application/octet-stream")}
    answer = worded.post("/v1/videos", data={"prompt": PROMPT}, files=files)
    refused(answer, 400, "unsupported_task", "input_reference")


def test_bodies_over_the_limit_are_refused(serving):
    api = serving(max_body_bytes=10_000, max_part_bytes=2000, max_form_fields=3)
    with api.client() as client:
        message = refused(create(client, {"prompt": "x" * 200_000}), 413, "payload_too_large", None)
        assert "10000" in message
        streamed = client.post(
            "/v1/videos",
            content=iter([b"x" * 8000] * 8),
            headers={"Content-Type": "application/json"},
        )
        refused(streamed, 413, "payload_too_large", None)
        part = client.post("/v1/videos", files={"prompt": (None, "x" * 5000)})
        refused(part, 413, "payload_too_large", None)
        many = client.post("/v1/videos", data={str(index): "" for index in range(9)})
        refused(many, 413, "payload_too_large", None)
        assert create(client, {"prompt": PROMPT}).status_code == 200


def test_limits_come_from_the_model_asked_for(serving, two_cards):
    with serving(cards=two_cards).client() as client:
        made = create(client, {"prompt": PROMPT, "model": "wide", "seconds": "5"}).json()
        assert (made["size"], made["num_frames"], made["seconds"]) == ("832x480", 81, "5.0625")
        assert made["sampler"] == "ddim"
        tall = {"prompt": PROMPT, "model": "wide", "resolution": "480p", "aspect_ratio": "9:16"}
        refused(create(client, tall), 400, "invalid_value", "resolution")
        tall["aspect_ratio"] = "26:45"
        assert create(client, tall).json()["size"] == "480x832"
        body = {"prompt": PROMPT, "model": "wide", "num_frames": 18}
        message = refused(create(client, body), 400, "invalid_value", "num_frames")
        assert "1 + a multiple of 4" in message
        body = {"prompt": "z" * 51, "model": "wide"}
        assert "50" in refused(create(client, body), 400, "invalid_value", "prompt")


def test_full_queue_refuses(serving, store):
    with serving(max_queue_depth=2).client() as client:
        for _ in range(2):
            assert create(client, {"prompt": PROMPT}).status_code == 200
        answer = create(client, {"prompt": PROMPT})
        assert "2" in refused(answer, 503, "queue_full", None)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["type"] == "server_error"
        assert store.depth() == 2


def test_a_tenant_over_its_cap_is_told_to_wait(serving):
    with serving(max_active_per_tenant=1).client() as client:
        assert create(client, {"prompt": PROMPT}).status_code == 200
        answer = create(client, {"prompt": PROMPT})
        refused(answer, 429, "concurrency_limit", None)
        assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_an_idempotency_key_makes_one_job(client, store):
    headers = {"Idempotency-Key": "k-1"}
    first = create(client, {"prompt": PROMPT}, headers=headers)
    again = client.post("/v1/videos", data={"prompt": PROMPT}, headers=headers)
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["seed"] == first.json()["seed"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = create(client, {"prompt": "another"}, headers=headers)
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")
    assert store.depth() == 1
    long = create(client, {"prompt": PROMPT}, headers={"Idempotency-Key": "k" * 256})
    refused(long, 400, "invalid_value", "Idempotency-Key")


def test_an_sdk_retry_finds_the_job_of_its_first_try(client, store):
    first = create(client, {"prompt": PROMPT}, headers={"x-stainless-retry-count": "0"})
    retry = client.post(
        "/v1/videos",
        files={"prompt": (None, PROMPT)},
        headers={"x-stainless-retry-count": "1"},
    )
    assert retry.json()["id"] == first.json()["id"]
    assert retry.headers["idempotency-replayed"] == "true"
    fresh = create(client, {"prompt": PROMPT}, headers={"x-stainless-retry-count": "0"})
    assert fresh.json()["id"] != first.json()["id"]
    assert store.depth() == 2
