"""Following a job: events that can be cut anywhere and resumed, and answers that wait."""

import json
import threading
import time

import httpx
import pytest

from worker.jobs import keys
from worker.jobs.contract import ErrorCode, JobError

PROMPT = "a red fox walks to the left"


def order(client, **fields):
    answer = client.post("/v1/videos", json={"prompt": PROMPT} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def parse(text):
    """The events of a whole stream; the last data must be [DONE]."""
    *blocks, last, rest = text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    events = []
    for block in blocks:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        data = json.loads(fields["data"])
        assert data["type"] == fields["event"]
        assert set(data) <= {"type", "sequence_number", "snapshot", "video"}
        events.append((fields.get("id"), data))
    return events


def follow(client, job_id, after=None):
    headers = {"Last-Event-ID": after} if after else {}
    answer = client.get(f"/v1/videos/{job_id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    return parse(answer.text)


def run(hand, job_id, steps=3):
    """Play a whole job."""
    _, exec = hand.start(job_id)
    for step in range(steps):
        hand.step(job_id, exec, step, steps)
    return exec


def subscribers(redis):
    return dict(redis.pubsub_numsub(keys.WAKE))[keys.WAKE.encode()]


def soon(condition, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_finished_job_is_replayed_from_queue_to_end(client, hand):
    job_id = order(client)
    hand.finish(job_id)
    events = follow(client, job_id)
    assert [data["type"] for _, data in events] == [
        "video.queued",
        "video.in_progress",
        "video.completed",
    ]
    assert [data["sequence_number"] for _, data in events] == [1, 2, 3]
    assert events[-1][1]["video"]["url"]
    assert not any("snapshot" in data for _, data in events)


def test_a_stream_cut_anywhere_resumes_without_gap_or_duplicate(client, hand, store):
    job_id = order(client)
    exec = run(hand, job_id)
    store.fail(job_id, exec, failure("internal_error"))
    whole = follow(client, job_id)
    assert len(whole) == 6
    for cut, (event_id, _) in enumerate(whole, start=1):
        assert follow(client, job_id, event_id) == whole[cut:]


def test_live_events_reach_a_follower_as_they_happen(client, hand, store):
    job_id = order(client)
    seen = []

    def play():
        soon(lambda: seen)
        hand.finish(job_id)

    player = threading.Thread(target=play)
    player.start()
    text = ""
    with client.stream("GET", f"/v1/videos/{job_id}/events") as answer:
        for chunk in answer.iter_text():
            seen.append(chunk)
            text += chunk
    player.join()
    events = parse(text)
    assert [data["sequence_number"] for _, data in events] == [1, 2, 3]
    assert events[0][1]["video"]["queue_position"] == 1


def test_an_id_older_than_the_stream_yields_a_snapshot_first(client, hand, store):
    job_id = order(client)
    first = follow_first(client, job_id)
    _, exec = hand.start(job_id)
    for step in range(500):
        hand.step(job_id, exec, step, 500)
    hand.store.cancel(job_id, "anonymous")
    store.fail(job_id, exec, failure("cancelled"))
    events = follow(client, job_id, first)
    assert [data["type"] for _, data in events] == ["video.failed"]
    assert events[0][1]["snapshot"] is True
    assert follow(client, job_id, events[0][0]) == []


def failure(code):
    return JobError(code=ErrorCode(code), message="x")


def follow_first(client, job_id):
    """The id of the first event of a running stream, which is then cut."""
    with client.stream("GET", f"/v1/videos/{job_id}/events") as answer:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                return line.removeprefix("id: ")
    raise AssertionError("no event")


def test_a_stream_that_is_gone_leaves_the_row(client, hand, redis):
    job_id = order(client)
    hand.finish(job_id)
    redis.delete(keys.events(job_id))
    [(event_id, data)] = follow(client, job_id)
    assert (event_id, data["snapshot"]) == (None, True)
    assert data["video"]["status"] == "completed"


def test_an_idle_stream_is_kept_alive_by_a_comment_of_one_line(serving):
    with serving(keep_alive_s=0.1).client() as client:
        job_id = order(client)
        text = ""
        with client.stream("GET", f"/v1/videos/{job_id}/events") as answer:
            for chunk in answer.iter_text():
                text += chunk
                if text.count(": ka\n") == 3:
                    break
    head, _, kept = text.partition("\n\n")
    assert kept == ": ka\n" * 3
    assert "event: video.queued" in head


def test_a_hundred_followers_share_one_subscription_and_leave_nothing(serving, redis, hand):
    with serving().client() as client:
        jobs = [order(client) for _ in range(4)]
        texts = ["" for _ in range(100)]

        def read(index):
            with another(client) as own:
                texts[index] = own.get(f"/v1/videos/{jobs[index % 4]}/events").text

        threads = [threading.Thread(target=read, args=(index,)) for index in range(100)]
        for thread in threads:
            thread.start()
        soon(lambda: subscribers(redis) == 1)
        time.sleep(1.0)
        assert subscribers(redis) == 1
        for job_id in jobs:
            hand.finish(job_id)
        for thread in threads:
            thread.join(60)
        for text in texts:
            assert [data["sequence_number"] for _, data in parse(text)] == [1, 2, 3]
        soon(lambda: subscribers(redis) == 0)


def another(client):
    """A second client of the same API."""
    return httpx.Client(base_url=client.base_url, timeout=60, trust_env=False)


def test_a_client_that_hangs_up_releases_everything(serving, redis):
    with serving().client() as client:
        job_id = order(client)
        follow_first(client, job_id)
        soon(lambda: subscribers(redis) == 0)


def test_followers_of_others_jobs_and_bad_ids_are_refused(serving):
    api = serving(api_keys=("studio:key-one", "lab:key-two"))
    with api.client("key-one") as client, api.client("key-two") as other:
        job_id = order(client)
        path = f"/v1/videos/{job_id}/events"
        assert other.get(path).status_code == 404
        for bad in ("abc", "1", "1-2-3"):
            answer = client.get(path, headers={"Last-Event-ID": bad})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")


def test_a_deleted_job_ends_its_stream(client, hand):
    job_id = order(client)
    with client.stream("GET", f"/v1/videos/{job_id}/events") as answer:
        for chunk in answer.iter_text():
            if "video.queued" in chunk:
                with another(client) as other:
                    other.delete(f"/v1/videos/{job_id}")


def test_an_outage_loses_no_event(serving, valkey, hand, store):
    with serving().client() as client:
        job_id = order(client)
        text = ""
        with client.stream("GET", f"/v1/videos/{job_id}/events") as answer:
            for chunk in answer.iter_text():
                if not text:
                    valkey.stop()
                    valkey.start()
                    hand.finish(job_id)
                text += chunk
        assert [data["sequence_number"] for _, data in parse(text)] == [1, 2, 3]


@pytest.mark.parametrize("call", ["create", "retrieve"])
def test_prefer_waits_for_the_end(client, hand, call):
    job_id = order(client) if call == "retrieve" else None
    prefer = {"Prefer": "respond-async, wait=20"}
    answers = []

    def ask():
        with another(client) as own:
            if job_id:
                answers.append(own.get(f"/v1/videos/{job_id}", headers=prefer))
            else:
                answers.append(own.post("/v1/videos", json={"prompt": PROMPT}, headers=prefer))

    thread = threading.Thread(target=ask)
    began = time.monotonic()
    thread.start()
    soon(lambda: hand.store.live_ids())
    time.sleep(0.3)
    assert not answers
    hand.finish(next(iter(hand.store.live_ids())))
    thread.join(30)
    assert time.monotonic() - began < 15
    [answer] = answers
    assert answer.json()["status"] == "completed"
    assert answer.headers["preference-applied"] == "wait=20"


def test_prefer_answers_when_the_time_is_over(client):
    job_id = order(client)
    began = time.monotonic()
    answer = client.get(f"/v1/videos/{job_id}", headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - began < 10
    assert answer.json()["status"] == "queued"
    assert answer.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["wait", "wait=x", "wait=-1", "waiting=5", "return=minimal"])
def test_a_preference_not_understood_is_not_applied(client, prefer):
    job_id = order(client)
    answer = client.get(f"/v1/videos/{job_id}", headers={"Prefer": prefer})
    assert answer.json()["status"] == "queued"
    assert "preference-applied" not in answer.headers


def test_waiting_clients_hold_no_thread(client, hand):
    """More wait than there are threads, and others are answered all the same."""
    job_id = order(client)

    def ask():
        with another(client) as own:
            own.get(f"/v1/videos/{job_id}", headers={"Prefer": "wait=20"})

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    began = time.monotonic()
    assert client.get(f"/v1/videos/{job_id}").status_code == 200
    assert time.monotonic() - began < 5
    hand.finish(job_id)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_the_sdks_stream_reads_it_to_the_end_and_resumes(serving, hand, sdk):
    api = serving(keep_alive_s=0.05)  # keep-alives between all events
    with api.client() as client:
        job_id = order(client)
        first = follow_first(client, job_id)
    play = threading.Timer(3.0, lambda: hand.fail(job_id, ErrorCode.OUT_OF_MEMORY, "too large"))
    play.start()
    report = sdk.drive("follow", job_id, first, url=api.url)
    play.join()
    kinds = [event["type"] for event in report["whole"]]
    assert kinds == ["video.queued", "video.in_progress", "video.failed"]
    assert report["whole"][-1]["video"]["error"]["code"] == "out_of_memory"
    assert report["rest"] == report["whole"][1:]
