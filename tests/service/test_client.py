"""The client against the real API over a socket; `hand` plays the worker."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import Client, JobFailed, ServiceError, Unreachable, completed


@pytest.fixture
def praxino(api: Any) -> Iterator[Client]:
    with Client(api.url) as client:
        yield client


def test_film_arrives_whole_and_under_its_own_name(
    praxino: Client, hand: Any, clip: Path, tmp_path: Path
) -> None:
    video = praxino.create("a fox", seed=5)
    hand.finish(video["id"])
    seen: list[str] = []
    done = completed(praxino.follow(video, lambda now: seen.append(now["status"]), 0.01))
    assert seen == ["queued", "completed"]
    assert done["seed"] == 5
    target = tmp_path / "deep" / "fox.mp4"
    praxino.download(done["id"], target)
    assert target.read_bytes() == clip.read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_the_end_of_a_job_is_waited_for_with_one_question(praxino: Client, hand: Any) -> None:
    video = praxino.create("a fox")
    asked: list[str] = []
    praxino._http.event_hooks["request"].append(lambda request: asked.append(request.method))
    end = threading.Timer(0.3, hand.finish, [video["id"]])
    end.start()
    assert completed(praxino.settled(video))["id"] == video["id"]
    end.join()
    assert asked == ["GET"]


def test_whoever_waits_asks_again_after_an_answer_that_came_too_early(
    praxino: Client, hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.client.WAIT_S", 1)
    video = praxino.create("a fox")
    end = threading.Timer(1.3, hand.finish, [video["id"]])
    end.start()
    assert completed(praxino.settled(video))["id"] == video["id"]
    end.join()


def test_refused_download_leaves_no_file(praxino: Client, tmp_path: Path) -> None:
    video = praxino.create("a fox")
    with pytest.raises(ServiceError) as caught:
        praxino.download(video["id"], tmp_path / "fox.mp4")
    assert (caught.value.status, caught.value.code) == (404, "video_not_ready")
    assert not list(tmp_path.iterdir())


def test_refusal_carries_field_and_code(praxino: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        praxino.create("a fox", num_inference_steps=100_000)
    assert caught.value.status == 400
    assert caught.value.param == "num_inference_steps"
    assert "100" in str(caught.value)


def test_fields_that_are_none_are_left_to_the_service(praxino: Client) -> None:
    video = praxino.create("a fox", size=None, seed=None)
    assert video["size"] == "64x64"
    assert video["seed"] >= 0


def test_listing_walks_all_pages_newest_first(praxino: Client) -> None:
    made = [praxino.create(f"fox {index}")["id"] for index in range(5)]
    assert [video["id"] for video in praxino.videos(limit=100)] == made[::-1]
    assert [video["id"] for video in praxino.videos(limit=2)] == made[:-3:-1]


def test_listing_goes_beyond_one_page(praxino: Client, hand: Any) -> None:
    made = []
    for index in range(103):
        made.append(praxino.create(f"fox {index}")["id"])
        if index == 50:  # the tenant's cap on active jobs is 100
            for job_id in made[:20]:
                praxino.cancel(job_id)
    assert [video["id"] for video in praxino.videos(limit=1000)] == made[::-1]
    assert len(list(praxino.videos(limit=1000, status="failed"))) == 20


def test_cancelled_job_did_not_complete(praxino: Client) -> None:
    video = praxino.create("a fox")
    praxino.cancel(video["id"])
    ended = praxino.follow(video, lambda _: None, 0.01)
    with pytest.raises(JobFailed, match="cancelled"):
        completed(ended)


def test_deleted_job_is_gone(praxino: Client) -> None:
    video = praxino.create("a fox")
    praxino.delete(video["id"])
    with pytest.raises(ServiceError) as caught:
        praxino.retrieve(video["id"])
    assert caught.value.status == 404


def test_key_is_shown(serving: Any) -> None:
    running = serving(api_keys="studio:sesame")
    with Client(running.url) as client, pytest.raises(ServiceError) as caught:
        client.models()
    assert caught.value.status == 401
    with Client(running.url, "sesame") as client:
        assert client.models()[0]["id"] == "pocket"


def test_silence_is_not_an_error_of_the_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(Unreachable, match=str(port)),
    ):
        client.models()
