"""No tenant sees, guesses, cancels, lists, downloads or builds on what another one has."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from worker.jobs.callers import CallerBook

PROMPT = "a heron that nobody else may see"
PNG_1X1 = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415478"
    "9c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
CHARACTERS = "/v1/videos/characters"
# Of each kind of thing that a path can name: one that nobody has.
UNKNOWN = {
    "video_id": "video_" + "0" * 32,
    "file_id": "file-" + "0" * 32,
    "character_id": "char_" + "0" * 32,
}
SHARED = {"model_id"}  # everybody's


class Pair:
    """Two tenants of one API, and what the first one owns."""

    def __init__(self, owner: httpx.Client, other: httpx.Client, owned: dict[str, str]) -> None:
        self.owner = owner
        self.other = other
        self.owned = owned

    def ask(self, method: str, path: str, ids: dict[str, str], **options: Any) -> tuple[int, str]:
        """What the other tenant is answered, with the ids it asked for blotted out."""
        answer = self.other.request(method, path.format(**ids), **options)
        text = answer.text
        for one in ids.values():
            text = text.replace(one, "ID")
        return answer.status_code, re.sub(r"\d{10}", "NOW", text)


@pytest.fixture
def pair(api: Any, redis: Redis, hand: Any) -> Iterator[Pair]:
    book = CallerBook(redis)
    keys = [book.create(f"key-{tenant}", tenant) for tenant in ("owner", "other")]
    with api.client(keys[0]) as owner, api.client(keys[1]) as other:
        video_id = owner.post("/v1/videos", json={"prompt": PROMPT}).json()["id"]
        hand.finish(video_id)
        upload = {"file": ("a.png", PNG_1X1)}
        made = owner.post("/v1/files", data={"purpose": "vision"}, files=upload)
        owned = {"video_id": video_id, "file_id": made.json()["id"]}
        if CHARACTERS in owner.get("/openapi.json").json()["paths"]:
            cast = {"data": {"name": "heron"}, "files": {"video": ("a.png", PNG_1X1)}}
            owned["character_id"] = owner.post(CHARACTERS, **cast).json()["id"]
        yield Pair(owner, other, owned)


def routes(client: httpx.Client) -> list[tuple[str, str, list[str]]]:
    """Method, path and names of the path's parameters, of every documented operation."""
    paths = client.get("/openapi.json").json()["paths"]
    return [
        (method, path, re.findall(r"\{(\w+)\}", path))
        for path, calls in paths.items()
        for method in calls
    ]


def test_every_route_answers_for_anothers_thing_as_for_none(pair: Pair) -> None:
    asked = 0
    for method, path, names in routes(pair.owner):
        for name in set(names) - SHARED:
            assert name in pair.owned, f"{path}: give the owner a {name} in this test"
            options = {} if method in ("get", "delete") else {"json": {"prompt": "mine now"}}
            theirs = pair.ask(method, path, pair.owned, **options)
            nobodys = pair.ask(method, path, UNKNOWN, **options)
            assert theirs == nobodys, (method, path)
            assert theirs[0] == 404, (method, path)
            asked += 1
    content = "/v1/videos/{video_id}/content"
    assert pair.ask("head", content, pair.owned) == pair.ask("head", content, UNKNOWN)
    assert asked >= 7
    # Nothing of it had an effect.
    assert pair.owner.get(f"/v1/videos/{pair.owned['video_id']}/content").status_code == 200
    assert pair.owner.get(f"/v1/files/{pair.owned['file_id']}/content").content == PNG_1X1


def test_the_owner_is_answered_by_every_route(pair: Pair) -> None:
    for method, path, names in routes(pair.owner):
        if set(names) & pair.owned.keys() and method == "get":
            answer = pair.owner.get(path.format(**pair.owned))
            assert answer.status_code == 200, path


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/files"])
def test_lists_hold_the_callers_own_things_only(pair: Pair, path: str) -> None:
    owned = pair.owned["video_id" if path.endswith("videos") else "file_id"]
    assert [item["id"] for item in pair.owner.get(path).json()["data"]] == [owned]
    assert pair.other.get(path).json()["data"] == []
    known = UNKNOWN["video_id" if path.endswith("videos") else "file_id"]
    answers = [pair.ask("get", f"{path}?after={one}", {"id": one}) for one in (owned, known)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


INPUTS: list[Callable[[dict[str, str]], dict[str, Any]]] = [
    lambda ids: {"video": {"id": ids["video_id"]}, "task_type": "extend"},
    lambda ids: {"video": {"file_id": ids["file_id"]}, "task_type": "extend"},
    lambda ids: {"input_reference": {"video_id": ids["video_id"], "frame": "last"}},
    lambda ids: {"input_reference": {"file_id": ids["file_id"]}},
    lambda ids: {"reference_images": [{"file_id": ids["file_id"]}]},
    lambda ids: {"characters": [{"id": ids["character_id"]}]},
    lambda ids: {"previous_job_id": ids["video_id"]},
]


@pytest.mark.parametrize("build", INPUTS)
def test_anothers_things_are_no_inputs(
    pair: Pair, build: Callable[[dict[str, str]], dict[str, Any]]
) -> None:
    answers = []
    for ids in (pair.owned, UNKNOWN):
        body = {"prompt": "mine now"} | build(ids)
        answers.append(pair.ask("post", "/v1/videos", ids, json=body))
    assert answers[0] == answers[1]
    assert 400 <= answers[0][0] < 500


def test_a_running_job_of_another_is_neither_seen_nor_stopped(pair: Pair, hand: Any) -> None:
    made = pair.owner.post("/v1/videos", json={"prompt": PROMPT}).json()
    _, exec = hand.start(made["id"])
    hand.step(made["id"], exec, 3, 10)
    path = f"/v1/videos/{made['id']}"
    for method, suffix in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/content")):
        answer = pair.other.request(method, path + suffix)
        assert answer.status_code == 404, (method, suffix)
        assert "heron" not in answer.text
    now = pair.owner.get(path).json()
    assert (now["status"], now["cancel_requested"]) == ("in_progress", False)


def test_idempotency_keys_of_tenants_do_not_meet(pair: Pair) -> None:
    headers = {"Idempotency-Key": "same"}
    body = {"prompt": "twice"}
    made = [
        tenant.post("/v1/videos", json=body, headers=headers) for tenant in (pair.owner, pair.other)
    ]
    assert made[0].json()["id"] != made[1].json()["id"]
    assert "idempotency-replayed" not in made[1].headers
    retried = {"x-stainless-retry-count": "1"}
    again = pair.other.post("/v1/videos", json={"prompt": PROMPT}, headers=retried).json()
    assert again["id"] != pair.owned["video_id"]


def test_queue_positions_tell_nothing_but_a_number(pair: Pair) -> None:
    pair.owner.post("/v1/videos", json={"prompt": PROMPT})
    made = pair.other.post("/v1/videos", json={"prompt": "mine"}).json()
    assert made["queue_position"] == 2
    assert PROMPT not in json.dumps(made)
