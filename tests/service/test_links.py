"""Signed links open one file for a while, to anybody, and nothing else."""

import time

import pytest

from service.links import Links
from worker.jobs import keys

TWO = ("studio:key-one", "other:key-two")


@pytest.fixture
def api(serving):
    return serving(api_keys=TWO)


@pytest.fixture
def owner(api):
    with api.client("key-one") as found:
        yield found


@pytest.fixture
def anybody(api):
    with api.client() as found:
        yield found


@pytest.fixture
def video(owner, hand):
    """A finished video with every variant."""
    made = owner.post("/v1/videos", json={"prompt": "a fox", "return_last_frame": True}).json()
    hand.finish(made["id"])
    return owner.get(f"/v1/videos/{made['id']}").json()


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("variant", ["video", "thumbnail", "spritesheet", "last_frame"])
def test_a_link_needs_no_key(video, owner, anybody, variant):
    link = video["url" if variant == "video" else f"{variant}_url"]
    path = f"/v1/videos/{video['id']}/content"
    got = anybody.get(link)
    assert got.status_code == 200
    assert got.content == owner.get(path, params={"variant": variant}).content
    assert anybody.head(link).headers["etag"] == got.headers["etag"]
    assert anybody.get(link, headers={"Range": "bytes=0-3"}).content == got.content[:4]


def test_without_link_or_key_nothing_opens(video, anybody):
    assert code(anybody.get(f"/v1/videos/{video['id']}/content")) == (401, "invalid_api_key")


def changed(link, **fields):
    path, _, query = link.partition("?")
    values = dict(pair.split("=") for pair in query.split("&")) | fields
    return path + "?" + "&".join(f"{name}={value}" for name, value in values.items() if value)


@pytest.mark.parametrize(
    "fields",
    [
        {"variant": "thumbnail"},
        {"variant": ""},
        {"expires": "99999999999"},
        {"expires": "1"},
        {"expires": ""},
        {"signature": "A" * 43},
        {"signature": "%C3%BC"},
    ],
)
def test_a_changed_link_opens_nothing(video, anybody, fields):
    if fields == {"variant": ""}:  # without one it is the video's, which is another file
        link = changed(video["thumbnail_url"], **fields)
    else:
        link = changed(video["url"], **fields)
    answer = anybody.get(link)
    assert code(answer) == (403, "permission_denied")
    assert answer.json()["error"]["param"] == "signature"


def test_a_link_opens_no_other_video(video, owner, anybody, hand):
    other = owner.post("/v1/videos", json={"prompt": "a fox"}).json()
    hand.finish(other["id"])
    assert code(anybody.get(video["url"].replace(video["id"], other["id"])))[0] == 403


def test_a_key_opens_its_own_video_even_with_a_spoiled_link(video, api, owner):
    spoiled = changed(video["url"], expires="1")
    assert owner.get(spoiled).status_code == 200
    with api.client("key-two") as stranger:
        assert code(stranger.get(spoiled)) == (404, "video_not_found")


def test_a_link_dies_with_its_video(video, owner, anybody):
    owner.delete(f"/v1/videos/{video['id']}")
    assert code(anybody.get(video["url"])) == (404, "video_not_found")


def test_every_process_of_a_service_knows_the_links_of_the_others(redis):
    first, second = (Links(redis, None, 60) for _ in range(2))
    link = first.write("/v1/videos/x/content", "video", None)
    fields = dict(pair.split("=") for pair in link.partition("?")[2].split("&"))
    asked = "/v1/videos/x/content", "video", int(fields["expires"]), fields["signature"]
    assert second.allows(*asked)
    redis.delete(keys.LINK_SECRET)
    assert not Links(redis, None, 60).allows(*asked)  # a new secret ends all links


def test_a_link_ends(redis):
    links = Links(redis, None, 60)
    for ends_in_s, holds in ((30, True), (-1, False)):
        link = links.write("/p", "video", time.time() + ends_in_s)
        fields = dict(pair.split("=") for pair in link.partition("?")[2].split("&"))
        asked = "/p", "video", int(fields["expires"]), fields["signature"]
        assert links.allows(*asked) is holds


def test_a_link_stays_the_same_for_a_while_and_never_outlives_its_file(redis):
    links = Links(redis, "https://films.example/", 3600)
    first = links.write("/p", "video", None)
    assert first.startswith("https://films.example/p?variant=video&expires=")
    expires = int(first.split("expires=")[1].split("&")[0])
    assert time.time() + 3600 <= expires <= time.time() + 7200
    assert links.write("/p", "video", None) == first or int(time.time()) % 3600 < 5
    soon = time.time() + 100
    assert f"expires={int(soon)}&" in links.write("/p", "video", soon)
