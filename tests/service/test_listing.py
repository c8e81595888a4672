"""Filters hold over the wire, alone and together, and pages stay whole under them."""

import pytest


def order(client, **fields):
    return client.post("/v1/videos", json={"prompt": "a fox", **fields}).json()["id"]


def walk(client, limit, **params):
    """All ids that a filter lets through, page by page, as the SDKs walk them."""
    found, after = [], None
    while True:
        asked = params | {"limit": limit} | ({"after": after} if after else {})
        page = client.get("/v1/videos", params=asked).json()
        found += [video["id"] for video in page["data"]]
        assert page["last_id"] == (found[-1] if page["data"] else None)
        if not page["has_more"]:
            return found
        assert len(page["data"]) == limit
        after = page["last_id"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_stay_whole_under_a_filter(client, hand, limit):
    ids = [order(client, metadata={"scene": str(i % 2), "take": "x"}) for i in range(7)]
    for job_id in ids[2:5]:
        hand.finish(job_id)
    even = ids[::2][::-1]
    assert walk(client, limit, **{"metadata[scene]": "0"}) == even
    assert walk(client, limit, **{"metadata[scene]": "0", "order": "asc"}) == even[::-1]
    assert walk(client, limit, status="completed") == ids[2:5][::-1]
    both = {"metadata[scene]": "0", "metadata[take]": "x", "status": "completed"}
    assert walk(client, limit, **both) == [ids[4], ids[2]]
    assert walk(client, limit, **{"metadata[scene]": "2"}) == []
    assert walk(client, limit, **{"metadata[scene]": "0", "metadata[take]": "y"}) == []


def test_a_cursor_may_be_a_video_that_the_filter_hides(client, hand):
    ids = [order(client, metadata={"scene": str(i)}) for i in range(3)]
    page = client.get("/v1/videos", params={"metadata[scene]": "0", "after": ids[1]}).json()
    assert [video["id"] for video in page["data"]] == [ids[0]]


def test_odd_keys_are_keys_like_any_other(client):
    odd = {"a]b": "1", "ü [x]": "2", "": "3"}
    job_id = order(client, metadata={key: value for key, value in odd.items() if key})
    for key, value in odd.items():
        if key:
            assert walk(client, 5, **{f"metadata[{key}]": value}) == [job_id]


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"task_type": "hologram"}, "task_type"),
        ({"status": "running"}, "status"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata[]": "x"}, "metadata"),
        ({"metadata[a": "x"}, "metadata"),
        ({"metadata[a]": ["x", "y"]}, "metadata[a]"),
        ({f"metadata[{i}]": "x" for i in range(17)}, "metadata"),
        ({"metadata[" + "k" * 65 + "]": "x"}, None),
    ],
)
def test_a_filter_that_cannot_be_is_named(client, params, param):
    answer = client.get("/v1/videos", params=params)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_value"
    if param is not None:
        assert error["param"] == param
