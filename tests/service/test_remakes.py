"""Jobs made of earlier ones: remix, extend, edit, upscale, interpolate, by paths of their own."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from tests.service.conftest import Running, serve
from tests.service.media import data_url, picture
from tests.service.sdks import OLDEST
from tests.service.test_create import refused
from worker.expiry import Sweeper
from worker.inputs import read_task
from worker.jobs import keys
from worker.jobs.artifacts import open_store
from worker.jobs.contract import VideoRequest

PROMPT = "a red fox walks to the left"
RED, BLUE = (220, 30, 30), (30, 30, 220)
FIRST, LAST = data_url(picture(colour=RED)), data_url(picture(colour=BLUE))


@pytest.fixture(scope="module")
def able_api(valkey_server, able_card, tmp_path_factory) -> Iterator[Running]:
    """An API whose model says that it can do everything."""
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("able"),
        default_model="able",
    )
    inputs = replace(able_card.inputs, masks=True, max_keyframes=1)
    masked = replace(able_card, id="masked", inputs=inputs)
    with serve(settings, {"able": able_card, "masked": masked}) as running:
        yield running


@pytest.fixture
def job_settings(valkey, able_api):
    return able_api.settings


@pytest.fixture
def api(valkey, able_api) -> Running:
    return able_api


@pytest.fixture
def film_id(client, hand) -> str:
    """A finished film of 2 seconds."""
    made = client.post("/v1/videos", json={"prompt": PROMPT, "metadata": {"scene": "4"}}).json()
    hand.finish(made["id"])
    return made["id"]


def made(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


PATHS = [
    ("extensions", {"prompt": PROMPT, "seconds": "1"}, "extend", {"seconds": "3"}),
    ("edits", {"prompt": "in winter"}, "edit", {"seconds": "2", "prompt": "in winter"}),
    ("{id}/upscale", {"upscale_factor": 2}, "upscale", {"size": "128x128", "prompt": ""}),
    ("{id}/interpolate", {"target_fps": 16}, "interpolate", {"fps": 16, "num_frames": 31}),
]


@pytest.mark.parametrize(("path", "body", "task_type", "said"), PATHS)
def test_every_path_makes_its_kind_of_job(
    client, store, job_settings, film_id, path, body, task_type, said
):
    """The very job that the create call would make, for which the source's frames are stored."""
    whole = body | {"video": {"id": film_id}}
    answer = client.post(
        f"/v1/videos/{path.format(id=film_id)}", json=body if "{id}" in path else whole
    )
    video = made(answer)
    assert answer.headers["location"] == f"/v1/videos/{video['id']}"
    assert (video["task_type"], video["source_video_id"]) == (task_type, film_id)
    assert {name: video[name] for name in said} == said
    task = read_task(store.get(video["id"]).request, open_store(job_settings))
    assert task.video is not None
    assert len(task.video) == 16
    plain = made(client.post("/v1/videos", json=whole | {"task_type": task_type, "seed": 1}))
    differ = {name for name in plain if plain[name] != video[name]}
    assert differ <= {"id", "seed", "created_at", "queue_position", "eta_seconds"}


def test_a_path_says_what_the_body_may_not_contradict(client, store, film_id):
    video = {"id": film_id}
    for body, param in (
        ({"task_type": "edit"}, "task_type"),
        ({"task": "edit"}, "task_type"),
    ):
        answer = client.post(
            "/v1/videos/extensions", json={"prompt": PROMPT, "seconds": 1, "video": video} | body
        )
        refused(answer, 400, "invalid_value", param)
    other = {"video": {"id": "video_" + "1" * 32}, "upscale_factor": 2}
    refused(client.post(f"/v1/videos/{film_id}/upscale", json=other), 400, "invalid_value", "video")
    agreeing = {"video": video, "upscale_factor": 2, "task_type": "upscale"}
    made(client.post(f"/v1/videos/{film_id}/upscale", json=agreeing))
    assert store.depth("able") == 1


@pytest.mark.parametrize(
    ("path", "absent"),
    [
        ("extensions", "prompt"),
        ("extensions", "seconds"),
        ("extensions", "video"),
        ("edits", "prompt"),
        ("edits", "video"),
        ("{id}/upscale", "upscale_factor"),
        ("{id}/interpolate", "target_fps"),
        ("{id}/remix", "prompt"),
    ],
)
def test_what_a_path_cannot_do_without_is_named(client, film_id, path, absent):
    body = {"prompt": PROMPT, "seconds": "1", "video": {"id": film_id}}
    if path == "edits":
        del body["seconds"]
    if "{id}" in path:
        body = {}
    body.pop(absent, None)
    answer = client.post(f"/v1/videos/{path.format(id=film_id)}", json=body)
    refused(answer, 400, "missing_required_parameter", absent)


def test_an_unfinished_video_cannot_be_built_on(client, store):
    waiting = made(client.post("/v1/videos", json={"prompt": PROMPT}))["id"]
    answer = client.post(f"/v1/videos/{waiting}/upscale", json={"upscale_factor": 2})
    refused(answer, 404, "video_not_ready", "video")
    body = {"prompt": PROMPT, "seconds": 1, "video": {"id": waiting}}
    refused(client.post("/v1/videos/extensions", json=body), 404, "video_not_ready", "video")
    assert store.depth("able") == 1


def stored(settings, job_id) -> set[str]:
    folder = settings.artifacts_dir / "anonymous" / job_id / "inputs"
    return {path.name for path in folder.glob("*")}


def test_a_remix_is_the_stored_request_with_another_prompt(client, store, job_settings):
    """The drawn seed and the given frames included; each job owns its own inputs."""
    body = {
        "prompt": PROMPT,
        "first_frame": FIRST,
        "last_frame": LAST,
        "last_frame_strength": 0.5,
        "num_inference_steps": 7,
        "metadata": {"scene": "4"},
    }
    source = made(client.post("/v1/videos", json=body))
    remix = made(client.post(f"/v1/videos/{source['id']}/remix", json={"prompt": "a blue fox"}))
    assert (remix["prompt"], remix["remixed_from_video_id"]) == ("a blue fox", source["id"])
    assert source["remixed_from_video_id"] is None
    differ = {name for name in source if source[name] != remix[name]}
    differ -= {"created_at", "queue_position", "eta_seconds"}
    assert differ == {"id", "prompt", "remixed_from_video_id"}
    before, after = (store.get(video["id"]).request for video in (source, remix))
    assert keys_of(after) == [key.replace(source["id"], remix["id"]) for key in keys_of(before)]
    assert stored(job_settings, remix["id"]) == stored(job_settings, source["id"])
    client.delete(f"/v1/videos/{source['id']}")
    task = read_task(after, open_store(job_settings))
    assert task.first_frame is not None
    assert abs(task.first_frame[0, 0].astype(int) - RED).max() == 0


def keys_of(request: VideoRequest) -> list[str]:
    frames = (request.first_frame, request.last_frame)
    return [frame.artifact.key for frame in frames if frame is not None]


def test_a_remix_keeps_clip_references_and_shots(client, store, job_settings, film_id):
    bodies = [
        {"prompt": PROMPT, "video": {"id": film_id}, "seconds": 1},
        {"prompt": "@one runs", "reference_images": [{"image_url": FIRST, "name": "one"}]},
        {"shots": [{"prompt": "a", "first_frame": FIRST}, {"prompt": "b"}]},
        {"model": "masked", "prompt": PROMPT, "video": {"id": film_id}, "mask": FIRST},
        {"model": "masked", "prompt": PROMPT, "keyframes": [{"frame": 4, "image_url": FIRST}]},
    ]
    for body in bodies:
        source = made(client.post("/v1/videos", json=body))
        remix = made(client.post(f"/v1/videos/{source['id']}/remix", json={"prompt": "anew"}))
        before, after = (store.get(video["id"]).request for video in (source, remix))
        text = before.model_copy(
            update={"prompt": "anew", "remixed_from_video_id": source["id"]}
        ).model_dump_json()
        assert after.model_dump_json() == text.replace(
            f"{source['id']}/inputs", f"{remix['id']}/inputs"
        )
        client.delete(f"/v1/videos/{source['id']}")
        read_task(after, open_store(job_settings))


def test_a_remixed_story_has_the_new_prompt_where_shots_had_the_old_one(client):
    def remixed(*shots):
        source = made(client.post("/v1/videos", json={"prompt": PROMPT, "shots": shots}))
        remix = made(client.post(f"/v1/videos/{source['id']}/remix", json={"prompt": "anew"}))
        return [shot["prompt"] for shot in remix["shots"]], remix["warnings"]

    assert remixed({"seconds": 1}, {"prompt": "a dog"}) == (["anew", "a dog"], [])
    prompts, (warning,) = remixed({"prompt": "a cat"}, {"prompt": "a dog"})
    assert prompts == ["a cat", "a dog"]
    assert "title" in warning


def test_a_remix_of_inputs_that_are_gone_answers_410(client, store, redis, job_settings, hand):
    """After the source's time is over; a request of words alone can be repeated even then."""
    given = made(client.post("/v1/videos", json={"prompt": PROMPT, "first_frame": FIRST}))["id"]
    words = made(client.post("/v1/videos", json={"prompt": PROMPT}))["id"]
    for one in (given, words):
        hand.finish(one)
        redis.hset(keys.job(one), mapping={"expires_at": 1, "completed_at": 1, "result_ttl": 1})
    redis.zadd(keys.INPUTS, {f"anonymous/{given}": 1})
    Sweeper(job_settings, redis, open_store(job_settings)).expire_inputs()
    answer = client.post(f"/v1/videos/{given}/remix", json={"prompt": "anew"})
    refused(answer, 410, "video_expired", "video_id")
    assert redis.zcard(keys.INPUTS) == 0, "nothing is left of what was refused"
    made(client.post(f"/v1/videos/{words}/remix", json={"prompt": "anew"}))
    assert store.depth("able") == 1


def test_a_remix_takes_nothing_of_the_film_but_its_prompt(client, store, film_id):
    path = f"/v1/videos/{film_id}/remix"
    for body, code, param in (
        ({"prompt": "a", "seed": 3}, "unknown_parameter", "seed"),
        ({"prompt": "a", "wings": 2}, "unknown_parameter", "wings"),
        ({"prompt": " "}, "invalid_value", "prompt"),
        ({"prompt": "x" * 8001}, "invalid_value", "prompt"),
        ({"prompt": "a", "callback_url": "http://127.0.0.1/"}, "invalid_value", "callback_url"),
    ):
        refused(client.post(path, json=body), 400, code, param)
    # A key-less caller is nobody who may go before others.
    answer = client.post(path, json={"prompt": "a", "service_tier": "priority"})
    refused(answer, 403, "permission_denied", "service_tier")
    assert store.depth("able") == 0
    made(client.post(path, json={"prompt": "a", "service_tier": "flex"}))


ORDERS = [(path, body) for path, body, *_ in PATHS] + [("{id}/remix", None)]


@pytest.mark.parametrize(("path", "body"), ORDERS)
def test_repeated_orders_make_one_job(client, store, job_settings, film_id, path, body):
    """By idempotency key and by the SDK's retry header, as with create; keys are a path's own."""
    path = f"/v1/videos/{path.format(id=film_id)}"
    body = dict(body or {"prompt": "anew"})
    if film_id not in path:
        body["video"] = {"id": film_id}
    first = client.post(path, json=body, headers={"Idempotency-Key": "k"})
    again = client.post(path, json=body, headers={"Idempotency-Key": "k"})
    retry = client.post(path, json=body, headers={"x-stainless-retry-count": "1"})
    assert made(first)["id"] == made(again)["id"] == made(retry)["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    refused(
        client.post(path, json=body | {"prompt": "no"}, headers={"Idempotency-Key": "k"}),
        422,
        "idempotency_key_reused",
        "Idempotency-Key",
    )
    elsewhere = client.post("/v1/videos", json={"prompt": PROMPT}, headers={"Idempotency-Key": "k"})
    assert made(elsewhere)["id"] != made(first)["id"]
    assert store.depth("able") == 2
    folders = {path.parent.name for path in job_settings.artifacts_dir.glob("*/*/inputs")}
    kept = {one for one in folders if stored(job_settings, one)} & store.live_ids()
    waiting = {made(first)["id"]} if not path.endswith("remix") else set()
    assert kept == waiting, "replays leave no inputs of their own"


@pytest.mark.parametrize(("path", "body"), [*ORDERS, ("", {"prompt": PROMPT, "seconds": "1"})])
def test_a_repeated_order_is_answered_though_its_source_is_gone(client, store, film_id, path, body):
    """The repetition of a call that worked; a new one, or another body, is refused."""
    path = f"/v1/videos/{path.format(id=film_id)}".rstrip("/")
    body = dict(body or {"prompt": "anew"})
    if film_id not in path:
        body["video"] = {"id": film_id}
    key, retry = {"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}
    first = made(client.post(path, json=body, headers=key))["id"]
    assert client.delete(f"/v1/videos/{film_id}").json()["deleted"]
    again = client.post(path, json=body, headers=key)
    assert made(again)["id"] == first
    assert again.headers["idempotency-replayed"] == "true"
    assert made(client.post(path, json=body, headers=retry))["id"] == first
    other = client.post(path, json=body | {"prompt": "no"}, headers=key)
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")
    refused(client.post(path, json=body), 404, "video_not_found", "video_id")
    assert store.live_ids() == {first}


def test_orders_on_paths_may_wait_for_the_end(client, hand, film_id):
    with hand.working():
        answer = client.post(
            f"/v1/videos/{film_id}/remix", json={"prompt": "b"}, headers={"Prefer": "wait=30"}
        )
    assert made(answer)["status"] == "completed"
    assert answer.headers["preference-applied"] == "wait=30"


def test_an_uploaded_clip_is_extended_and_edited(client, clip):
    for path, fields in (("extensions", {"seconds": "1"}), ("edits", {})):
        answer = client.post(
            f"/v1/videos/{path}",
            data={"prompt": PROMPT} | fields,
            files={"video": ("clip.mp4", io.BytesIO(clip.read_bytes()), "video/mp4")},
        )
        assert made(answer)["source_video_id"] is None


def test_the_sdks_calls_reach_their_jobs(api, hand, film_id, sdk, clip):
    """`remix`, `extend`, `edit` as each version has them, with files and with ids."""
    report = sdk.drive("remakes", film_id, clip, url=api.url)
    assert report["remix"]["remixed_from_video_id"] == film_id
    assert report["remix"]["prompt"] == "a blue fox"
    offered = () if (sdk.language, sdk.version) == OLDEST else (("extend", "3"), ("edit", "2"))
    for name, seconds in offered:
        for form in ("file", "id"):
            video = report[f"{name} by {form}"]
            assert (video["task_type"], video["seconds"]) == (name, seconds)
            assert video["source_video_id"] == (film_id if form == "id" else None)
    assert report["upscale"]["size"] == "128x128"
    assert report["gone"] == ["NotFoundError", "video_not_found"]
