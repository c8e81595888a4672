"""Following, listing, cancelling and deleting videos, each tenant for itself."""

import pytest

from worker.jobs import keys
from worker.jobs.contract import ErrorCode
from worker.jobs.settings import DAY_S

PROMPT = "a red fox walks to the left"
MISSING = "video_" + "0" * 32
TWO = ("studio:key-one", "lab:key-two")


def order(client, **fields):
    answer = client.post("/v1/videos", json={"prompt": PROMPT} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_a_job_is_followed_from_queue_to_content(client, hand):
    order(client)
    made = order(client)
    assert made["queue_position"] == 2
    path = f"/v1/videos/{made['id']}"

    _, exec = hand.start(made["id"])
    hand.step(made["id"], exec, 10, 20)
    answer = client.get(path)
    running = answer.json()
    assert (running["status"], running["stage"]) == ("in_progress", "denoising")
    assert 0 < running["progress"] < 100
    assert 0 < running["eta_seconds"] <= 1.5  # said a moment ago
    assert running["attempt"] == 1
    assert isinstance(running["started_at"], int)
    assert running["queue_position"] is None
    assert int(answer.headers["retry-after"]) >= 1

    other = order(client)
    hand.finish(other["id"])
    answer = client.get(f"/v1/videos/{other['id']}")
    done = answer.json()
    assert (done["status"], done["stage"], done["progress"]) == ("completed", "done", 100)
    assert done["expires_at"] > done["completed_at"] >= done["created_at"]
    for variant in ("url", "thumbnail_url", "spritesheet_url"):
        assert done[variant].startswith(f"/v1/videos/{other['id']}/content?variant=")
    assert done["last_frame_url"] is None  # it was not asked for
    assert done["metrics"]["inference_time_s"] == 1.5
    assert done["metrics"]["peak_memory_mb"] == 321.5
    assert done["metrics"]["queue_wait_s"] >= 0
    assert done["model_sha256"] == "ab" * 32
    assert len(done["content_sha256"]) == 64
    assert "retry-after" not in answer.headers
    assert answer.headers["openai-poll-after-ms"].isdigit()


def test_a_failed_job_is_an_answer_like_any_other(client, hand):
    made = order(client)
    hand.fail(made["id"], ErrorCode.OUT_OF_MEMORY, "needs 9 GB, has 8 GB")
    answer = client.get(f"/v1/videos/{made['id']}")
    assert answer.status_code == 200
    failed = answer.json()
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "out_of_memory", "message": "needs 9 GB, has 8 GB"}
    assert failed["url"] is None


def test_no_answer_holds_a_path_of_the_server(client, hand, job_settings):
    made = order(client)
    hand.finish(made["id"])
    for path in (f"/v1/videos/{made['id']}", "/v1/videos"):
        assert str(job_settings.data_dir) not in client.get(path).text
        assert "artifact" not in client.get(path).text


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("video_id", [MISSING, "video_1", "..", "video_%00", "video_" + "é" * 32])
def test_unknown_ids_are_not_found(client, method, video_id):
    answer = client.request(method, f"/v1/videos/{video_id}")
    if video_id == "..":  # the client library folds it away
        assert answer.status_code in (404, 405)
    else:
        assert code(answer) == (404, "video_not_found")


def test_paging_visits_every_video_once(client):
    ids = [order(client)["id"] for _ in range(7)]
    for direction, expected in (("desc", ids[::-1]), ("asc", ids)):
        seen, after = [], None
        while True:
            params = {"limit": 3, "order": direction} | ({"after": after} if after else {})
            page = client.get("/v1/videos", params=params).json()
            assert page["object"] == "list"
            assert page["first_id"] == page["data"][0]["id"]
            assert page["last_id"] == page["data"][-1]["id"]
            seen += [video["id"] for video in page["data"]]
            after = page["last_id"]
            if not page["has_more"]:
                break
        assert seen == expected


def test_an_empty_list_ends_the_paging(client):
    page = client.get("/v1/videos").json()
    assert page == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_lists_can_be_filtered(client, hand):
    ids = [order(client)["id"] for _ in range(3)]
    hand.finish(ids[1])

    def listed(**params):
        return [video["id"] for video in client.get("/v1/videos", params=params).json()["data"]]

    assert listed(status="completed") == [ids[1]]
    assert listed(status="queued") == [ids[2], ids[0]]
    assert listed(task_type="text", model="pocket") == ids[::-1]
    assert listed(model="other") == []
    assert listed(model="other") == []


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order": "sideways"}, "order"),
        ({"status": "running"}, "status"),
        ({"after": MISSING}, "after"),
    ],
)
def test_bad_list_parameters_are_named(client, params, param):
    answer = client.get("/v1/videos", params=params)
    assert code(answer) == (400, "invalid_value")
    error = answer.json()["error"]
    assert error["param"] == param
    assert next(iter(params.values())) in error["message"]


def test_cancelling_a_queued_job_ends_it(client, store):
    made = order(client)
    answer = client.post(f"/v1/videos/{made['id']}/cancel", json={})
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]["code"] == "cancelled"
    assert store.depth() == 0
    assert client.post(f"/v1/videos/{made['id']}/cancel").status_code == 200


def test_cancelling_a_running_job_flags_it(client, hand, store):
    made = order(client)
    hand.start(made["id"])
    answer = client.post(f"/v1/videos/{made['id']}/cancel", json={})
    assert answer.status_code == 200
    assert answer.json()["status"] == "in_progress"
    assert answer.json()["cancel_requested"] is True
    assert store.cancel_requested(made["id"])


def test_an_ended_job_cannot_be_cancelled(client, hand):
    made = order(client)
    hand.finish(made["id"])
    answer = client.post(f"/v1/videos/{made['id']}/cancel", json={})
    assert code(answer) == (409, "video_not_cancellable")
    assert answer.headers["x-should-retry"] == "false"
    unknown = client.post(f"/v1/videos/{MISSING}/cancel", json={})
    assert code(unknown) == (404, "video_not_found")


def test_deleting_purges_job_and_files_and_may_be_repeated_for_a_day(client, hand, redis):
    made = order(client)
    job = hand.finish(made["id"])
    path = f"/v1/videos/{made['id']}"
    receipt = {"id": made["id"], "object": "video.deleted", "deleted": True}
    assert client.delete(path).json() == receipt
    assert not hand.artifacts.exists(job.result.video.key)
    assert not hand.artifacts.exists(job.result.sidecar.key)
    assert code(client.get(path)) == (404, "video_not_found")
    assert code(client.get(path + "/content")) == (404, "video_not_found")
    assert client.get("/v1/videos").json()["data"] == []
    again = client.delete(path)
    assert (again.status_code, again.json()) == (200, receipt)
    # The tombstone stands for a day and not for ever; nothing but it is left.
    assert DAY_S - 60 < redis.ttl(keys.job(made["id"])) <= DAY_S
    assert redis.hget(keys.job(made["id"]), "params") is None
    redis.delete(keys.job(made["id"]))
    assert code(client.delete(path)) == (404, "video_not_found")


def test_deleting_a_queued_job_takes_it_off_the_queue(client, store):
    made = order(client)
    assert client.delete(f"/v1/videos/{made['id']}").status_code == 200
    assert store.depth() == 0
    assert store.live_ids() == set()


def test_tenants_cannot_see_or_touch_each_other(serving, hand):
    api = serving(api_keys=TWO)
    with api.client("key-one") as owner, api.client("key-two") as stranger:
        done, waiting = order(owner)["id"], order(owner)["id"]
        hand.finish(done)
        calls = [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/content"),
            ("HEAD", "/content"),
        ]
        for video_id in (done, waiting):
            for method, rest in calls:
                answer = stranger.request(method, f"/v1/videos/{video_id}{rest}")
                assert answer.status_code == 404
                twin = stranger.request(method, f"/v1/videos/{MISSING}{rest}")
                assert answer.text.replace(video_id, MISSING) == twin.text
        assert stranger.get("/v1/videos").json()["data"] == []
        after = stranger.get("/v1/videos", params={"after": done})
        assert code(after) == (400, "invalid_value")
        assert owner.get(f"/v1/videos/{waiting}").json()["status"] == "queued"
        assert owner.get(f"/v1/videos/{done}/content").status_code == 200


def test_tenants_do_not_share_keys_or_retries(serving, store):
    api = serving(api_keys=TWO)
    headers = {"Idempotency-Key": "same", "x-stainless-retry-count": "1"}
    made = []
    for key in ("key-one", "key-two"):
        with api.client(key) as client:
            answer = client.post("/v1/videos", json={"prompt": PROMPT}, headers=headers)
            made.append(answer.json()["id"])
    assert made[0] != made[1]
    assert {store.get(job_id).tenant for job_id in made} == {"studio", "lab"}


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic key-one"])
def test_unknown_callers_are_turned_away_before_their_body_is_read(serving, header):
    with serving(api_keys=TWO).client() as client:
        headers = {"Authorization": header} if header else {}
        for method, path in (("GET", "/v1/videos"), ("GET", "/v1/models")):
            assert code(client.request(method, path, headers=headers)) == (401, "invalid_api_key")
        answer = client.post("/v1/videos", content=b"{", headers=headers)
        assert code(answer) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"
        assert client.get("/healthz").status_code == 200
