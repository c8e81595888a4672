"""Given frames, references, clips and shots: read in every form, prepared, stored with a job."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from service.settings import ServiceSettings
from tests.cards import plain_card
from tests.service.conftest import Running, serve
from tests.service.media import data_url, encoded, film, halves, picture
from tests.service.test_create import refused
from worker.expiry import Sweeper
from worker.inputs import read_task
from worker.jobs import keys
from worker.jobs.artifacts import open_store
from worker.jobs.catalog import TASKS, InputLimits, Span
from worker.jobs.contract import ErrorCode, JobError, Progress, Stage
from worker.jobs.settings import JobSettings

PROMPT = "a red fox walks to the left"
RED, BLUE = (220, 30, 30), (30, 30, 220)
PNG = picture(colour=RED)


@pytest.fixture(scope="module")
def able_api(valkey_server, tmp_path_factory) -> Iterator[Running]:
    """An API whose model says that it can do everything, in two shapes."""
    card = replace(
        plain_card(),
        id="able",
        tasks=frozenset(TASKS),
        sizes=("64x64", "96x64", "128x128"),
        samplers=("ddim",),
        inputs=InputLimits(
            max_references=3,
            max_shots=4,
            max_total_frames=100,
            first_frame_strength=Span(1, 1, 1),
            last_frame_strength=Span(0, 1, 1),
            upscale_factors=(2, 4),
            target_fps=Span(1, 60, 24),
            reference_roles=("subject", "style", "scene"),
        ),
    )
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("able"),
        default_model="able",
        max_body_bytes=8 << 20,
    )
    plain = replace(card, id="plain", tasks=frozenset({"text"}))
    with serve(settings, {"able": card, "plain": plain}) as running:
        yield running


@pytest.fixture
def job_settings(valkey, able_api) -> JobSettings:
    return able_api.settings


@pytest.fixture
def api(valkey, able_api) -> Running:
    return able_api


@pytest.fixture
def clip_bytes(tmp_path) -> bytes:
    """16 frames at 8 a second, 64 by 64, frame i of grey 8 * i."""
    return film(tmp_path / "clip.mp4").read_bytes()


def order(client, body=None, files=None, **fields):
    """Create by JSON, or by a form if there are files."""
    body = {"prompt": PROMPT} | (body or {}) | fields
    if files is None:
        return client.post("/v1/videos", json=body)
    parts = [(name, (None, value)) for name, value in body.items()]
    return client.post("/v1/videos", files=parts + files)


def made(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def task_of(store, job_settings):
    """What a worker would be given for a job, and that its files are the tenant's own."""

    def load(video):
        request = store.get(video["id"]).request
        prefix = f"anonymous/{video['id']}/inputs/"
        for key in keys_in(json.loads(request.model_dump_json())):
            assert key.startswith(prefix)
        return read_task(request, open_store(job_settings))

    return load


def keys_in(value):
    if isinstance(value, dict):
        yield from ([value["key"]] if "key" in value else [])
        for item in value.values():
            yield from keys_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_in(item)


def inputs_on_disk(settings):
    return [path for path in settings.artifacts_dir.glob("*/*/inputs/*") if path.is_file()]


FORMS = [
    lambda c: {"image_url": data_url(PNG)},
    lambda c: {"image_url": {"url": data_url(PNG), "detail": "high"}},
    lambda c: {"type": "image_url", "image_url": {"url": data_url(PNG)}},
    lambda c: data_url(PNG, "text/html"),
    lambda c: json.dumps({"image_url": data_url(PNG)}),
    lambda c: {"file_id": uploaded(c, PNG)},
    lambda c: uploaded(c, PNG),
]


def uploaded(client, data):
    files = {"file": ("x", data)}
    return client.post("/v1/files", data={"purpose": "vision"}, files=files).json()["id"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_is_read(client, task_of, form):
    video = made(order(client, first_frame=form(client)))
    assert (video["task_type"], video["first_frame_strength"]) == ("image", 1.0)
    frame = task_of(video).first_frame
    assert frame.shape == (64, 64, 3)
    assert (frame == RED).all()


def test_a_picture_in_a_form_is_read_however_it_is_named(client, task_of):
    for name in ("input_reference", "image", "first_frame", "input_reference[]"):
        files = [(name, ("../a.exe", PNG, "application/octet-stream"))]
        video = made(order(client, files=files))
        assert video["task_type"] == "image"
        assert (task_of(video).first_frame == RED).all()


def test_bracketed_forms_and_urlencoded_bodies_carry_pictures(client, task_of):
    fields = {"prompt": PROMPT, "first_frame[image_url]": data_url(PNG), "seed": "3"}
    for answer in (
        client.post("/v1/videos", data=fields),
        client.post("/v1/videos", files={name: (None, text) for name, text in fields.items()}),
    ):
        assert (task_of(made(answer)).first_frame == RED).all()


def test_a_data_url_above_a_mebibyte_is_read(client, task_of):
    noise = np.random.default_rng(1).integers(0, 256, (800, 800, 3), np.uint8)
    text = data_url(encoded(Image.fromarray(noise)))
    assert len(text) > 2 << 20
    assert task_of(made(order(client, first_frame=text))).first_frame.shape == (64, 64, 3)
    parts = {"prompt": (None, PROMPT), "first_frame[image_url]": (None, text)}
    assert made(client.post("/v1/videos", files=parts))["task_type"] == "image"


def test_a_frame_is_cropped_to_the_shape_that_is_asked_for(client, task_of):
    wide = encoded(halves((192, 64), RED, BLUE))
    square = task_of(made(order(client, first_frame=data_url(wide)))).first_frame
    assert (square[:, :28] == RED).all()
    assert (square[:, 36:] == BLUE).all()
    video = made(order(client, first_frame=data_url(wide), size="96x64"))
    assert task_of(video).first_frame.shape == (64, 96, 3)


def test_first_and_last_frame_make_a_pair(client, task_of):
    blue = data_url(picture(colour=BLUE))
    body = {"first_frame": data_url(PNG), "last_frame": {"image_url": blue, "strength": "0.5"}}
    video = made(order(client, body, prompt=""))
    assert (video["task_type"], video["last_frame_strength"]) == ("first_last_frame", 0.5)
    task = task_of(video)
    assert (task.first_frame == RED).all()
    assert (task.last_frame == BLUE).all()
    assert (task.last_frame_strength, task.prompt) == (0.5, "")


@pytest.mark.parametrize(
    "body",
    [
        {
            "frame_images": [
                {"type": "image_url", "image_url": {"url": data_url(PNG)}, "frame_type": kind}
                for kind in ("first_frame", "last_frame")
            ]
        },
        {
            "content": [
                {"type": "text", "text": PROMPT},
                {"type": "image_url", "image_url": {"url": data_url(PNG)}, "role": "first_frame"},
                {"type": "image_url", "image_url": {"url": data_url(PNG)}, "role": "last_frame"},
            ]
        },
    ],
)
def test_lists_that_name_roles_are_sorted(client, task_of, body):
    video = made(client.post("/v1/videos", json={"prompt": PROMPT} | body))
    assert video["task_type"] == "first_last_frame"
    task = task_of(video)
    assert (task.first_frame == task.last_frame).all()


def test_references_keep_name_type_strength_and_alpha(client, task_of):
    clear = data_url(picture((40, 20), (*BLUE, 0)))
    body = {
        "reference_images": [
            {"image_url": data_url(PNG), "name": "fox", "strength": 0.5},
            {"image_url": clear, "reference_type": "style"},
        ],
        "reference_strength": 0.25,
    }
    video = made(order(client, body, prompt="@fox walks"))
    assert (video["task_type"], video["reference_strength"]) == ("reference", 0.25)
    fox, style = task_of(video).references
    assert (fox.name, fox.role, fox.strength, fox.picture.shape) == (
        "fox",
        "subject",
        0.5,
        (64, 64, 3),
    )
    assert (style.name, style.role, style.strength) == (None, "style", 1.0)
    assert style.picture.shape == (20, 40, 4)
    assert not style.picture[..., 3].any()


def test_several_input_references_are_references(client, task_of):
    files = [("input_reference[]", ("a", PNG)), ("input_reference[]", ("b", PNG))]
    video = made(order(client, files=files))
    assert video["task_type"] == "reference"
    assert len(task_of(video).references) == 2


def test_a_clip_is_extended_from_its_end_or_its_beginning(client, task_of, clip_bytes):
    files = [("video", ("clip", clip_bytes))]
    video = made(order(client, {"seconds": "1", "extend_before": "true"}, files))
    assert (video["task_type"], video["num_frames"], video["seconds"]) == ("extend", 24, "3")
    task = task_of(video)
    assert (task.extend_before, task.video.shape, task.video_fps) == (True, (16, 64, 64, 3), 8.0)
    assert np.allclose(task.video.mean((1, 2, 3)), 8 * np.arange(16), atol=3)


def test_an_interpolation_is_as_long_as_its_source(client, task_of, clip_bytes):
    file_id = uploaded(client, clip_bytes)
    for asked in (
        {"target_fps": 24},
        {"frame_interpolation_exp": 1},
        {"frame_interpolation_factor": 4},
    ):
        video = made(order(client, {"video": {"file_id": file_id}} | asked, prompt=""))
        factor = {24: 3, 1: 2, 4: 4}[next(iter(asked.values()))]
        assert (video["task_type"], video["fps"]) == ("interpolate", 8 * factor)
        assert video["num_frames"] == 15 * factor + 1
        task = task_of(video)
        assert (len(task.video), task.video_fps, task.target_fps) == (16, 8.0, 8 * factor)


def test_an_upscaled_clip_has_its_new_size(client, task_of, clip_bytes):
    files = [("video", ("clip", clip_bytes))]
    video = made(order(client, {"upscaling_scale": "2", "enable_upscaling": "true"}, files))
    assert (video["task_type"], video["size"], video["upscale_factor"]) == ("upscale", "128x128", 2)
    task = task_of(video)
    assert (task.video.shape[1:3], task.width, task.num_frames) == ((64, 64), 128, 16)


def test_an_edit_takes_a_clip_and_an_edited_frame(client, task_of, clip_bytes):
    files = [("video", ("clip", clip_bytes)), ("first_frame", ("frame", PNG))]
    video = made(order(client, {"task_type": "edit"}, files))
    assert (video["task_type"], video["num_frames"], video["seconds"]) == ("edit", 16, "2")
    assert (task_of(video).first_frame == RED).all()


def test_an_earlier_film_is_an_input(client, hand, task_of):
    """By id as a clip, and by one of its frames as a picture."""
    earlier = made(order(client))
    for body in ({"video": {"id": earlier["id"]}}, {"video": earlier["id"]}):
        refused(order(client, body), 404, "video_not_ready", "video")
    hand.finish(earlier["id"])
    for body in (
        {"video": {"id": earlier["id"]}},
        {"video": earlier["id"]},
        {"previous_job_id": earlier["id"]},
    ):
        video = made(order(client, body))
        assert (video["task_type"], video["source_video_id"]) == ("extend", earlier["id"])
        assert video["num_frames"] == 32
    first, last = (
        task_of(
            made(order(client, first_frame={"video_id": earlier["id"], "frame": end}))
        ).first_frame
        for end in ("first", "last")
    )
    rolled = np.roll(first.astype(int), 15, axis=1)
    assert abs(rolled - last).mean() * 2 < abs(first.astype(int) - last).mean()
    client.delete(f"/v1/videos/{earlier['id']}")
    refused(order(client, video={"id": earlier["id"]}), 404, "video_not_found", "video_id")


def test_a_story_has_shots_with_inputs_of_their_own(client, task_of):
    body = {
        "prompt": "a day of the fox",
        "seed": 5,
        "fps": 8,
        "negative_prompt": "rain",
        "reference_images": [{"image_url": data_url(PNG), "name": "fox"}],
        "shots": [
            {"prompt": "@fox wakes", "seconds": 2, "reference_images": ["fox"]},
            {"prompt": "it runs", "duration": "1.5", "transition": "cut", "seed": 99},
            {
                "prompt": "it sleeps",
                "negative_prompt": "sun",
                "first_frame": data_url(PNG),
                "last_frame": {"image_url": data_url(picture(colour=BLUE))},
                "reference_images": [{"image_url": data_url(PNG), "reference_type": "scene"}],
            },
        ],
    }
    video = made(client.post("/v1/videos", json=body))
    assert (video["task_type"], video["num_frames"]) == ("story", 16 + 12 + 16)
    assert [(shot["index"], shot["seconds"]) for shot in video["shots"]] == [
        (0, "2"),
        (1, "1.5"),
        (2, "2"),
    ]
    wakes, runs, sleeps = task_of(video).shots
    assert (wakes.seed, wakes.negative_prompt, wakes.references[0].name) == (5, "rain", "fox")
    assert (runs.seed, runs.transition, runs.num_frames) == (99, "cut", 12)
    assert (sleeps.seed, sleeps.negative_prompt, sleeps.references[0].role) == (7, "sun", "scene")
    assert (sleeps.last_frame == BLUE).all()
    assert {(shot["status"], shot["progress"]) for shot in video["shots"]} == {("queued", 0)}
    form = {
        "shots": json.dumps(body["shots"][:2]),
        "reference_images": json.dumps(body["reference_images"]),
    }
    assert made(client.post("/v1/videos", data=form))["task_type"] == "story"


def test_each_shot_of_a_story_says_how_far_it_is(client, hand, store):
    shots = [{"prompt": prompt, "seconds": 1} for prompt in ("it wakes", "it runs", "it sleeps")]

    def seen(job_id):
        video = client.get(f"/v1/videos/{job_id}").json()
        return [(shot["status"], shot["progress"]) for shot in video["shots"]]

    def told(job_id, exec, stage):
        progress = Progress(stage=stage, step=7, total=12, eta_s=None, shot=1, shot_done=0.75)
        assert store.report(job_id, exec, progress)

    ended, lost, stopped = (order(client, shots=shots).json()["id"] for _ in range(3))
    _, exec = hand.start(ended)
    assert seen(ended) == [("in_progress", 0), ("queued", 0), ("queued", 0)]
    told(ended, exec, Stage.DENOISING)
    assert seen(ended) == [("completed", 100), ("in_progress", 75), ("queued", 0)]
    told(ended, exec, Stage.UPLOADING)
    assert seen(ended) == [("completed", 100)] * 3
    assert store.requeue(ended, exec, "lost", counts=True)
    assert seen(ended) == [("queued", 0)] * 3
    hand.finish(ended)
    assert seen(ended) == [("completed", 100)] * 3
    _, exec = hand.start(lost)
    told(lost, exec, Stage.DENOISING)
    error = JobError(code=ErrorCode.INTERNAL_ERROR, message="It broke.")
    assert store.fail(lost, exec, error)
    assert seen(lost) == [("completed", 100), ("failed", 75), ("failed", 0)]
    client.post(f"/v1/videos/{stopped}/cancel")
    assert seen(stopped) == [("failed", 0)] * 3


CLIP = {"video": {"file_id": "file-" + "0" * 32}}
PIC = data_url(PNG)
BAD = [
    ({"task_type": "image"}, "missing_required_parameter", "first_frame", ["image"]),
    ({"last_frame": PIC}, "missing_required_parameter", "first_frame", ["first_last_frame"]),
    ({"task_type": "reference"}, "missing_required_parameter", "reference_images", []),
    ({"task_type": "upscale"}, "missing_required_parameter", "video", ["upscale"]),
    ({"task_type": "upscale"} | CLIP, "missing_required_parameter", "upscale_factor", []),
    ({"task_type": "interpolate"} | CLIP, "missing_required_parameter", "target_fps", []),
    ({"task_type": "edit"} | CLIP, "missing_required_parameter", "first_frame", ["edit"]),
    ({"shots": []}, "missing_required_parameter", "shots", ["story"]),
    ({"first_frame": "fox.png"}, "invalid_value", "first_frame", ["fox.png", "image_url"]),
    ({"first_frame": {}}, "invalid_value", "first_frame", ["image_url"]),
    ({"first_frame": {"image_url": 3}}, "invalid_value", "first_frame.image_url", ["3"]),
    ({"first_frame": {"image_url": PIC, "wings": 2}}, "unknown_parameter", "first_frame.wings", []),
    ({"first_frame": {"file_id": "../x"}}, "invalid_value", "first_frame.file_id", ["../x"]),
    (
        {"first_frame": {"video_id": "video_" + "0" * 32, "frame": 7}},
        "invalid_value",
        "first_frame.frame",
        ["7", "last"],
    ),
    ({"first_frame": [PIC, PIC]}, "invalid_value", "first_frame", []),
    ({"video": {"id": "video_1"}}, "invalid_value", "video.id", ["video_1"]),
    ({"reference_images": [PIC] * 4}, "invalid_value", "reference_images", ["4", "3"]),
    (
        {"reference_images": [{"image_url": PIC, "strength": 1.5}]},
        "invalid_value",
        "reference_images.0.strength",
        ["1.5", "between 0 and 1"],
    ),
    (
        {"reference_images": [{"image_url": PIC, "name": "a b"}]},
        "invalid_value",
        "reference_images.0.name",
        ["a b"],
    ),
    (
        {"reference_images": [{"image_url": PIC, "name": "a"}] * 2},
        "invalid_value",
        "reference_images",
        ["a", "twice"],
    ),
    ({"first_frame": PIC, "reference_images": [PIC]}, "incompatible_inputs", "first_frame", []),
    (
        {"first_frame": PIC, "first_frame_strength": 0.5},
        "invalid_value",
        "first_frame_strength",
        ["0.5", "between 1 and 1"],
    ),
    (
        {"first_frame": PIC, "last_frame": PIC, "last_frame_strength": 1.5},
        "invalid_value",
        "last_frame_strength",
        ["1.5"],
    ),
    (
        {
            "first_frame": PIC,
            "last_frame": {"image_url": PIC, "strength": 0.5},
            "last_frame_strength": 1,
        },
        "invalid_value",
        "last_frame.strength",
        ["0.5"],
    ),
    ({"shots": [{"prompt": "a"}] * 5}, "invalid_value", "shots", ["5", "4"]),
    (
        {"prompt": " ", "shots": [{"seconds": 1}]},
        "missing_required_parameter",
        "shots.0.prompt",
        [],
    ),
    (
        {"shots": [{"prompt": "a", "seconds": 0.1}]},
        "invalid_value",
        "shots.0.seconds",
        ["0.1", "between 1 and 12.5"],
    ),
    ({"shots": [{"prompt": "a", "seconds": 9}] * 2}, "invalid_value", "shots", ["144", "100"]),
    ({"shots": [{"prompt": "a", "wings": 2}]}, "unknown_parameter", "shots.0.wings", ["wings"]),
    (
        {"shots": [{"prompt": "a", "transition": "fade"}]},
        "invalid_value",
        "shots.0.transition",
        ["fade", "cut"],
    ),
    (
        {"shots": [{"prompt": "a", "reference_images": ["cat"]}]},
        "invalid_value",
        "shots.0.reference_images",
        ["cat"],
    ),
    ({"shots": [{"prompt": "a" * 257}]}, "invalid_value", "shots.0.prompt", ["257", "256"]),
    ({"shots": [{"prompt": "a"}], "seconds": 9}, "incompatible_inputs", "seconds", ["2 s"]),
    (CLIP | {"seconds": 30}, "invalid_value", "seconds", ["30", "99"]),
    (CLIP | {"upscale_factor": 3}, "invalid_value", "upscale_factor", ["3", "2, 4"]),
    (CLIP | {"upscale_factor": 2, "seconds": 3}, "incompatible_inputs", "seconds", ["source"]),
    (CLIP | {"target_fps": 100}, "invalid_value", "target_fps", ["100", "60"]),
    (CLIP | {"target_fps": 24, "fps": 8}, "incompatible_inputs", "fps", ["target_fps"]),
    ({"characters": [{"id": "c"}]}, "invalid_value", "characters.0.id", ["char_"]),
    (
        {"frame_images": [{"image_url": PIC, "frame_type": "middle"}]},
        "invalid_value",
        "input_reference.0.role",
        ["middle", "first_frame"],
    ),
]


@pytest.mark.parametrize(("fields", "code", "param", "said"), BAD)
def test_bad_inputs_are_refused_before_anything_is_read(client, store, fields, code, param, said):
    message = refused(order(client, fields), 400, code, param)
    assert all(part in message for part in said), message
    assert store.depth() == 0


UNUSABLE = [
    ({"first_frame": data_url(b"")}, "empty"),
    ({"first_frame": data_url(b"GIF89a....")}, "something else"),
    ({"first_frame": data_url(PNG[:60])}, "damaged"),
    ({"first_frame": "data:image/png;base64,%%%"}, "base64"),
    ({"first_frame": "data:image/png,abc"}, "base64"),
    ({"video": data_url(PNG)}, "image/png"),
]


@pytest.mark.parametrize(("body", "said"), UNUSABLE)
def test_unusable_files_are_refused_and_leave_nothing(client, store, api, body, said, redis):
    (param,) = body
    before = inputs_on_disk(api.settings)
    assert said in refused(order(client, body), 400, "invalid_input_media", param)
    assert store.depth() == 0
    assert inputs_on_disk(api.settings) == before
    assert not redis.zcard(keys.INPUTS)
    assert not list((api.settings.data_dir / "scratch").iterdir())


def test_frames_of_too_different_shapes_are_refused(client):
    wide, square = data_url(picture((130, 100))), data_url(picture((100, 100)))
    body = {"first_frame": wide, "last_frame": square}
    message = refused(order(client, body), 400, "incompatible_inputs", "last_frame")
    assert "1.300" in message
    assert made(order(client, body | {"first_frame": data_url(picture((125, 100)))}))


def test_a_clip_too_long_for_the_job_is_refused(client, tmp_path):
    long = film(tmp_path / "long.mp4", frames=40).read_bytes()
    files = [("video", ("clip", long)), ("first_frame", ("frame", PNG))]
    message = refused(
        order(client, {"task_type": "edit"}, files), 400, "invalid_input_media", "video"
    )
    assert "32" in message
    files = files[:1]
    answer = order(client, {"seconds": "9"}, files)
    assert "28 frames" in refused(answer, 400, "invalid_input_media", "video")


def test_files_of_others_and_none_look_alike(client):
    for body in ({"first_frame": {"file_id": "file-" + "0" * 32}}, CLIP):
        refused(order(client, body), 404, "file_not_found", next(iter(body)))
    body = {"video": {"id": "video_" + "0" * 32}}
    refused(order(client, body), 404, "video_not_found", "video_id")


def test_kinds_the_model_lacks_name_those_that_can(client):
    message = refused(
        order(client, model="plain", first_frame=PIC), 400, "unsupported_task", "first_frame"
    )
    assert "able" in message


def test_equal_files_are_one_request_and_others_are_not(client, store):
    headers = {"Idempotency-Key": "k"}

    def send(data, name):
        files = [("prompt", (None, PROMPT)), ("input_reference", (name, data))]
        return client.post("/v1/videos", files=files, headers=headers)

    first = made(send(PNG, "a.png"))
    again = send(PNG, "b.png")
    assert made(again)["id"] == first["id"]
    assert again.headers["idempotency-replayed"] == "true"
    refused(send(picture(colour=BLUE), "a.png"), 422, "idempotency_key_reused", "Idempotency-Key")
    assert store.depth() == 1


def test_a_repeated_call_is_answered_from_its_job_though_its_inputs_are_gone(client, store):
    files = {"file": ("a.png", PNG)}
    file = made(client.post("/v1/files", data={"purpose": "vision"}, files=files))
    body = {"prompt": PROMPT, "first_frame": {"file_id": file["id"]}}
    headers = {"Idempotency-Key": "k"}
    first = made(client.post("/v1/videos", json=body, headers=headers))
    client.delete(f"/v1/files/{file['id']}")
    again = client.post("/v1/videos", json=body, headers=headers)
    assert made(again)["id"] == first["id"]
    assert again.headers["idempotency-replayed"] == "true"
    retry = client.post("/v1/videos", json=body, headers={"x-stainless-retry-count": "1"})
    assert made(retry)["id"] == first["id"]
    refused(client.post("/v1/videos", json=body), 404, "file_not_found", "first_frame")
    assert store.depth() == 1


def test_refused_and_replayed_requests_keep_no_inputs(serving, api, redis, client):
    files = [("prompt", (None, PROMPT)), ("input_reference", ("a", PNG))]
    headers = {"Idempotency-Key": "k"}
    before = len(inputs_on_disk(api.settings))
    for _ in range(2):
        made(client.post("/v1/videos", files=files, headers=headers))
    assert len(inputs_on_disk(api.settings)) == before + 1
    assert redis.zcard(keys.INPUTS) == 1


def test_deleting_a_job_deletes_its_inputs(client, api):
    video = made(order(client, first_frame=PIC))
    assert any(video["id"] in str(path) for path in inputs_on_disk(api.settings))
    client.delete(f"/v1/videos/{video['id']}")
    assert not any(video["id"] in str(path) for path in inputs_on_disk(api.settings))


def test_inputs_live_as_long_as_their_job(client, api, redis, hand):
    """Kept while it waits and as long as its result; gone with it, and without a row at once."""
    kept, ended, orphan = (made(order(client, first_frame=PIC))["id"] for _ in range(3))
    hand.finish(ended)
    sweeper = Sweeper(api.settings, redis, open_store(api.settings))

    def left():
        redis.zadd(keys.INPUTS, dict.fromkeys(redis.zrange(keys.INPUTS, 0, -1), 0))
        sweeper.expire_inputs()
        paths = " ".join(map(str, inputs_on_disk(api.settings)))
        return {name for name in (kept, ended, orphan) if name in paths}

    assert left() == {kept, ended, orphan}
    redis.delete(keys.job(orphan))
    assert left() == {kept, ended}
    redis.hset(keys.job(ended), "completed_at", "1.0")
    assert left() == {kept}


def test_no_url_leads_into_this_network(client):
    for url in ("http://x.example/a.png", "https://127.0.0.1/a.png", "https://169.254.169.254/"):
        refused(order(client, first_frame=url), 400, "invalid_input_media", "first_frame")
        refused(order(client, video={"video_url": url}), 400, "invalid_input_media", "video")


def test_inputs_come_from_other_servers(serving, able_api, receiver, authority, task_of):
    """By URL, through the guarded way out: counted, sniffed, never trusted."""
    card = replace(plain_card(), tasks=frozenset(TASKS))
    api = serving(
        cards={"pocket": card},
        outbound_networks="127.0.0.0/8",
        outbound_ca_file=authority.ca_file,
        max_image_bytes=100_000,
    )
    (receiver.folder / "fox.png").write_bytes(PNG)
    film(receiver.folder / "fox.mp4", frames=8)
    with api.client() as client:
        video = made(order(client, first_frame=receiver.url("file/fox.png")))
        assert (task_of(video).first_frame == RED).all()
        video = made(order(client, video_url=receiver.url("file/fox.mp4")))
        assert task_of(video).video.shape == (8, 64, 64, 3)
        for path, said in (
            ("bytes/2000000", "100000 bytes"),
            ("bytes/1000", "something else"),
            ("status/404", "404"),
            ("file/fox.mp4", "video/mp4"),
        ):
            answer = order(client, first_frame=receiver.url(path))
            assert said in refused(answer, 400, "invalid_input_media", "first_frame")


def test_limits_of_inputs_are_listed(client):
    models = client.get("/v1/videos/models").json()["data"]
    able = next(model for model in models if model["id"] == "able")
    assert set(able["task_types"]) == set(TASKS)
    assert able["inputs"] == {
        "max_reference_images": 3,
        "max_shots": 4,
        "max_total_frames": 100,
        "first_frame_strength": {"minimum": 1, "maximum": 1, "default": 1},
        "last_frame_strength": {"minimum": 0, "maximum": 1, "default": 1},
        "reference_strength": {"minimum": 0, "maximum": 1, "default": 1},
        "upscale_factors": [2, 4],
        "target_fps": {"minimum": 1, "maximum": 60, "default": 24},
        "reference_roles": ["subject", "style", "scene"],
        "last_frame_sketches": False,
        "max_keyframes": 0,
        "masks": False,
    }
