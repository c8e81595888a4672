"""Characters: named reference sets made of a clip or a picture, used in later jobs by their ids."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pydantic import SecretStr

from service.settings import ServiceSettings
from tests.service.conftest import Running, serve
from tests.service.media import data_url, film, picture
from tests.service.sdks import NEWER
from tests.service.test_create import refused
from worker.expiry import Sweeper
from worker.inputs import read_task
from worker.jobs import keys
from worker.jobs.artifacts import open_store
from worker.jobs.callers import CallerBook

CHARACTERS = "/v1/videos/characters"
RED, BLUE = (220, 30, 30), (30, 30, 220)
PNG = picture(colour=RED)
NOBODY = "char_" + "0" * 32


@pytest.fixture(scope="module")
def able_api(valkey_server, able_card, tmp_path_factory) -> Iterator[Running]:
    """An API whose model takes four references, and that keeps four characters."""
    settings = ServiceSettings(
        redis_url=SecretStr(valkey_server.url),
        data_dir=tmp_path_factory.mktemp("able"),
        default_model="able",
        max_characters_per_tenant=4,
    )
    with serve(settings, {"able": able_card}) as running:
        yield running


@pytest.fixture
def job_settings(valkey, able_api):
    return able_api.settings


@pytest.fixture
def api(valkey, able_api) -> Running:
    return able_api


@pytest.fixture
def task_of(store, job_settings):
    """What a worker would be given for a job."""
    artifacts = open_store(job_settings)
    return lambda video: read_task(store.get(video["id"]).request, artifacts)


def made(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def name(client, called, field="image", data=PNG):
    files = {field: ("upload", data, "application/octet-stream")}
    return made(client.post(CHARACTERS, data={"name": called}, files=files))


def pictures(settings):
    return sorted(settings.artifacts_dir.glob("*/characters/*/*"))


def test_a_clip_becomes_views_from_all_over_it(client, task_of, tmp_path):
    """First, middle and last frame, as references of the name; the prompt calls them."""
    clip = film(tmp_path / "clip.mp4", frames=17).read_bytes()
    hero = name(client, "hero", "video", clip)
    assert set(hero) == {"id", "created_at", "name"}
    assert hero["name"] == "hero"
    assert made(client.get(f"{CHARACTERS}/{hero['id']}")) == hero
    body = {"prompt": "@hero runs", "characters": [{"id": hero["id"]}]}
    video = made(client.post("/v1/videos", json=body))
    assert video["task_type"] == "reference"
    references = task_of(video).references
    assert [reference.name for reference in references] == ["hero"] * 3
    greys = [np.asarray(reference.picture)[..., :3].mean() for reference in references]
    assert greys == pytest.approx([0, 64, 128], abs=4)


def test_a_picture_is_a_character_in_every_form(client, task_of, hand):
    film_id = made(client.post("/v1/videos", json={"prompt": "a fox"}))["id"]
    hand.finish(film_id)
    forms = [
        name(client, "a"),
        name(client, "b", "video"),  # a picture, whatever its field is called
        made(client.post(CHARACTERS, json={"name": "c", "image": data_url(PNG)})),
    ]
    body = {"prompt": "x", "characters": [{"id": one["id"]} for one in forms]}
    references = task_of(made(client.post("/v1/videos", json=body))).references
    assert [reference.name for reference in references] == ["a", "b", "c"]
    for reference in references:
        assert tuple(np.asarray(reference.picture)[0, 0][:3]) == RED
    frame = {"name": "d", "image": {"video_id": film_id, "frame": "last"}}
    last = made(client.post(CHARACTERS, json=frame))
    body = {"prompt": "x", "characters": [last["id"]]}
    assert len(task_of(made(client.post("/v1/videos", json=body))).references) == 1


def test_room_for_references_is_shared_between_characters(client, task_of, store, tmp_path):
    """Each has a view before any has two; other references come first."""
    clip = film(tmp_path / "clip.mp4", frames=3).read_bytes()
    cast = [name(client, called, "video", clip)["id"] for called in ("a", "b")]
    body = {"prompt": "x", "characters": [{"id": one} for one in cast]}
    other = {"image_url": data_url(PNG), "name": "c"}
    for others, expected in (([], "aabb"), ([other], "caab"), ([PIC] * 2, "ab")):
        whole = body | ({"reference_images": others} if others else {})
        references = task_of(made(client.post("/v1/videos", json=whole))).references
        assert "".join(reference.name or "" for reference in references) == expected
    depth = store.depth("able")
    crowd = body | {"reference_images": [PIC] * 3}
    message = refused(client.post("/v1/videos", json=crowd), 400, "invalid_value", "characters")
    assert "4" in message
    twice = body | {"reference_images": [other | {"name": "a"}]}
    refused(client.post("/v1/videos", json=twice), 400, "invalid_value", "characters")
    twin = body | {"characters": [{"id": cast[0]}] * 2}
    refused(client.post("/v1/videos", json=twin), 400, "invalid_value", "characters")
    assert store.depth("able") == depth


PIC = {"image_url": data_url(picture(colour=BLUE))}


def test_shots_call_characters_by_name(client, task_of, tmp_path):
    clip = film(tmp_path / "clip.mp4", frames=3).read_bytes()
    hero = name(client, "hero", "video", clip)
    shots = [{"prompt": "a", "reference_images": ["@hero"]}, {"prompt": "b"}]
    body = {"shots": shots, "characters": [{"id": hero["id"]}]}
    task = task_of(made(client.post("/v1/videos", json=body)))
    assert [len(shot.references) for shot in task.shots] == [3, 0]


def test_a_deleted_character_is_gone_and_jobs_keep_theirs(client, task_of, job_settings):
    hero = name(client, "hero")["id"]
    body = {"prompt": "x", "characters": [{"id": hero}]}
    video = made(client.post("/v1/videos", json=body))
    kept = pictures(job_settings)
    assert made(client.delete(f"{CHARACTERS}/{hero}")) == {"id": hero, "deleted": True}
    assert len(pictures(job_settings)) == len(kept) - 1
    assert len(task_of(video).references) == 1
    for answer in (client.get(f"{CHARACTERS}/{hero}"), client.delete(f"{CHARACTERS}/{hero}")):
        refused(answer, 404, "character_not_found", "character_id")
    answer = client.post("/v1/videos", json=body)
    refused(answer, 404, "character_not_found", "characters.0.id")


BAD = [
    ({"image": data_url(PNG)}, "missing_required_parameter", "name"),
    ({"name": "a"}, "missing_required_parameter", "video"),
    ({"name": "a", "image": data_url(PNG), "video": data_url(PNG)}, None, "video"),
    ({"name": "two words", "image": data_url(PNG)}, "invalid_value", "name"),
    ({"name": 3, "image": data_url(PNG)}, "invalid_value", "name"),
    ({"name": "a", "image": data_url(PNG), "wings": 2}, "unknown_parameter", "wings"),
    ({"name": "a", "image": data_url(PNG[:60])}, "invalid_input_media", "image"),
    ({"name": "a", "video": data_url(PNG)}, "invalid_input_media", "video"),
]


@pytest.mark.parametrize(("body", "code", "param"), BAD)
def test_a_bad_character_is_refused_and_leaves_nothing(
    client, redis, job_settings, body, code, param
):
    before = pictures(job_settings)
    answer = client.post(CHARACTERS, json=body)
    refused(answer, 400, code or "missing_required_parameter", param)
    assert pictures(job_settings) == before
    assert not redis.keys(keys.character("*"))


def test_a_character_named_again_under_its_key_is_one(client, redis):
    headers = {"Idempotency-Key": "k"}
    body = {"name": "hero", "image": data_url(PNG)}
    first, again = (client.post(CHARACTERS, json=body, headers=headers) for _ in range(2))
    assert made(again) == made(first)
    assert again.headers["idempotency-replayed"] == "true"
    assert len(redis.keys(keys.character("*"))) == 1
    other = client.post(CHARACTERS, json=body | {"name": "heroine"}, headers=headers)
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")


def test_a_repeated_order_is_answered_though_its_character_is_gone(client, store):
    hero = made(client.post(CHARACTERS, data={"name": "h"}, files={"image": ("h.png", PNG)}))["id"]
    body = {"prompt": "@h runs", "characters": [hero]}
    key, retry = {"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}
    first = made(client.post("/v1/videos", json=body, headers=key))["id"]
    client.delete(f"{CHARACTERS}/{hero}")
    again = client.post("/v1/videos", json=body, headers=key)
    assert made(again)["id"] == first
    assert again.headers["idempotency-replayed"] == "true"
    assert made(client.post("/v1/videos", json=body, headers=retry))["id"] == first
    refused(client.post("/v1/videos", json=body), 404, "character_not_found", "characters.0")
    assert store.live_ids() == {first}


def test_a_model_without_subjects_takes_no_characters(serving, able_card, api):
    inputs = replace(able_card.inputs, reference_roles=("style", "scene"))
    cards = {"painter": replace(able_card, id="painter", inputs=inputs)}
    with serving(cards, default_model="painter").client() as client:
        body = {"prompt": "x", "characters": [{"id": name(client, "hero")["id"]}]}
        said = refused(
            client.post("/v1/videos", json=body), 400, "incompatible_inputs", "characters"
        )
    assert "painter show only style, scene" in said


def test_a_tenant_keeps_so_many_characters(client):
    for called in "abcd":
        name(client, called)
    body = {"name": "e", "image": data_url(PNG)}
    assert "4" in refused(client.post(CHARACTERS, json=body), 400, "invalid_value", "name")


def test_anothers_character_is_like_none(api, redis):
    book = CallerBook(redis)
    first, second = (book.create(f"key-{tenant}", tenant) for tenant in ("owner", "other"))
    with api.client(first) as owner, api.client(second) as other:
        hero = name(owner, "hero")["id"]
        for method, path in (("GET", f"{CHARACTERS}/{{}}"), ("DELETE", f"{CHARACTERS}/{{}}")):
            said = [other.request(method, path.format(one)) for one in (hero, NOBODY)]
            assert [answer.status_code for answer in said] == [404, 404]
        said = [
            other.post("/v1/videos", json={"prompt": "x", "characters": [{"id": one}]})
            for one in (hero, NOBODY)
        ]
        for answer in said:
            refused(answer, 404, "character_not_found", "characters.0.id")
        assert said[0].text.replace(hero, NOBODY) == said[1].text
        made(owner.get(f"{CHARACTERS}/{hero}"))


def test_pictures_cut_short_are_swept_and_kept_ones_stay(client, redis, job_settings):
    """A server that dies between bytes and row leaves nothing for good."""
    hero = name(client, "hero")["id"]
    assert redis.zcard(keys.CHARACTERS) == 0
    artifacts = open_store(job_settings)
    half = job_settings.artifacts_dir / "anonymous" / "characters" / NOBODY / "view-0.png"
    half.parent.mkdir(parents=True)
    half.write_bytes(PNG)
    redis.zadd(keys.CHARACTERS, {f"anonymous/{NOBODY}": 1})
    Sweeper(job_settings, redis, artifacts).expire_inputs()
    assert not half.exists()
    assert redis.zcard(keys.CHARACTERS) == 0
    assert any(hero in str(path) for path in pictures(job_settings))


@pytest.mark.parametrize("sdk", NEWER, ids=" ".join, indirect=True)
def test_the_sdks_characters_play_in_a_job(api, sdk, clip, task_of):
    """`create_character` and `get_character` as each version has them."""
    report = sdk.drive("characters", clip, url=api.url)
    assert report["made"] == report["got"]
    assert report["made"]["name"] == "hero"
    assert report["video"]["task_type"] == "reference"
    assert {one.name for one in task_of(report["video"]).references} == {"hero"}
