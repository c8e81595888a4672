"""Equal requests over HTTP: one film, told as `cached`, with an id and a file for each."""

import time
from typing import Any

import pytest

from service.outlook import FRESH_S
from worker.jobs.outcomes import Serving, WorkerInfo

BODY = {"prompt": "a red fox walks to the left", "seed": 5}


def of_weights(name: str, sha256: str) -> WorkerInfo:
    told = Serving(model="pocket", loaded=True, weights_sha256=sha256)
    return WorkerInfo(name=name, model="pocket", state="idle", pid=1, serving=(told,))


@pytest.fixture
def make(client: Any, store: Any) -> Any:
    """Orders with a worker up whose weights are those of the hand's films."""
    info = of_weights("w", "ab" * 32)
    store.put_worker(info, ttl_s=600)
    time.sleep(FRESH_S + 0.1)  # what the API knew of another test's workers is stale by then

    def order(**fields: Any) -> dict[str, Any]:
        answer = client.post("/v1/videos", json=BODY | fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return order


def content(client: Any, video: dict[str, Any]) -> bytes:
    answer = client.get(f"/v1/videos/{video['id']}/content")
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


def test_an_equal_request_gets_the_film_at_once(client: Any, make: Any, hand: Any) -> None:
    first = make(metadata={"take": "1"})
    hand.finish(first["id"])
    again = make(metadata={"take": "2"})
    assert (first["cached"], again["cached"]) == (False, True)
    assert (again["status"], again["metadata"]) == ("completed", {"take": "2"})
    assert again["id"] != first["id"]
    assert again["model_sha256"] == "ab" * 32
    film = content(client, first)
    assert content(client, again) == film
    assert client.delete(f"/v1/videos/{first['id']}").status_code == 200
    assert content(client, again) == film
    assert not make()["cached"]


def test_other_seeds_no_seed_and_no_cache_are_made_anew(make: Any, hand: Any) -> None:
    hand.finish(make()["id"])
    others = [make(seed=6), make(seed=None), make(seed=None), make(cache=False)]
    assert [video["cached"] for video in others] == [False] * 4
    assert [video["status"] for video in others] == ["queued"] * 4


def test_a_request_while_an_equal_one_waits_joins_it(client: Any, make: Any) -> None:
    first, second = make(), make(user="somebody")
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["status"] == "queued"
    assert client.post(f"/v1/videos/{first['id']}/cancel").status_code == 200
    now = client.get(f"/v1/videos/{second['id']}").json()
    assert (now["status"], now["cached"]) == ("queued", False)


def test_other_weights_make_another_film(make: Any, hand: Any, store: Any) -> None:
    hand.finish(make()["id"])
    info = of_weights("w2", "cd" * 32)
    store.put_worker(info, ttl_s=600)
    time.sleep(FRESH_S + 0.1)
    assert not make()["cached"]


def test_a_repeated_call_is_the_same_job(client: Any, make: Any, hand: Any) -> None:
    hand.finish(make()["id"])
    headers = {"Idempotency-Key": "once"}
    calls = [client.post("/v1/videos", json=BODY, headers=headers) for _ in range(2)]
    assert calls[0].json()["cached"]
    assert calls[0].json()["id"] == calls[1].json()["id"]
    assert calls[1].headers["idempotency-replayed"] == "true"
