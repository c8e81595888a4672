"""Result bytes: whole, in ranges, validated, and gone when their time is over."""

import base64
import hashlib
import io
import time

import av
import pytest
from PIL import Image

from worker.jobs import keys
from worker.jobs.contract import ErrorCode


@pytest.fixture
def done(client, hand):
    """The path of a finished video's content."""
    made = client.post("/v1/videos", json={"prompt": "a fox"}).json()
    hand.finish(made["id"])
    return f"/v1/videos/{made['id']}/content"


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_the_whole_video_comes_with_its_digest(client, done, clip):
    answer = client.get(done, headers={"Accept": "application/binary"})
    raw = clip.read_bytes()
    digest = hashlib.sha256(raw)
    assert answer.status_code == 200
    assert answer.content == raw
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(len(raw))
    assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
    encoded = base64.b64encode(digest.digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{encoded}:"
    assert answer.headers["content-disposition"].startswith("inline; filename=")
    assert answer.headers["cache-control"] == "private"
    assert answer.headers["accept-ranges"] == "bytes"
    with av.open(io.BytesIO(answer.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16


def test_the_thumbnail_is_a_picture(client, done):
    answer = client.get(done, params={"variant": "thumbnail"})
    assert answer.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)


def test_the_spritesheet_is_a_picture(client, done):
    answer = client.get(done, params={"variant": "spritesheet"})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"].endswith('.jpg"')
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"


def test_the_last_frame_is_there_if_it_was_ordered(client, done, hand):
    answer = client.get(done, params={"variant": "last_frame"})
    assert code(answer) == (404, "video_not_ready")
    assert answer.json()["error"]["param"] == "variant"
    assert "return_last_frame" in answer.json()["error"]["message"]
    asked = {"prompt": "a fox", "return_last_frame": True}
    made = client.post("/v1/videos", json=asked).json()
    hand.finish(made["id"])
    answer = client.get(f"/v1/videos/{made['id']}/content", params={"variant": "last_frame"})
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).format == "PNG"
    linked = client.get(f"/v1/videos/{made['id']}").json()["last_frame_url"]
    assert client.get(linked).content == answer.content


def test_an_unknown_variant_is_named(client, done):
    answer = client.get(done, params={"variant": "hologram"})
    assert code(answer) == (400, "invalid_value")
    assert answer.json()["error"]["param"] == "variant"
    assert "hologram" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-99", 10, 99),
        ("bytes=100-", 100, -1),
        ("bytes=-7", -7, -1),
        ("bytes=0-999999999", 0, -1),
        ("bytes=-999999999", 0, -1),
    ],
)
def test_a_range_is_exactly_those_bytes(client, done, clip, asked, first, last):
    raw = clip.read_bytes()
    first, last = first % len(raw), last % len(raw)
    answer = client.get(done, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == raw[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(raw)}"
    assert answer.headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=a-b", "frames=0-1", "bytes=-", "bytes=0-1,4-5", "bytes=" + "9" * 40],
)
def test_a_range_that_is_not_understood_is_ignored(client, done, clip, asked):
    answer = client.get(done, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, clip.read_bytes())


@pytest.mark.parametrize("asked", ["bytes=999999999-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(client, done, clip, asked):
    answer = client.get(done, headers={"Range": asked})
    assert code(answer) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{clip.stat().st_size}"


def test_if_range_guards_against_another_version(client, done, clip):
    etag = client.head(done).headers["etag"]
    same = client.get(done, headers={"Range": "bytes=0-4", "If-Range": etag})
    assert same.status_code == 206
    other = client.get(done, headers={"Range": "bytes=0-4", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, clip.read_bytes())


def test_an_unchanged_file_is_not_sent_again(client, done):
    etag = client.head(done).headers["etag"]
    for tags in (etag, f'"a", W/{etag}', "*"):
        for method in ("GET", "HEAD"):
            answer = client.request(method, done, headers={"If-None-Match": tags})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
    assert client.get(done, headers={"If-None-Match": '"a"'}).status_code == 200


def test_head_says_what_get_would_send(client, done):
    head = client.head(done, headers={"Range": "bytes=0-1"})
    got = client.get(done)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "repr-digest", "accept-ranges"):
        assert head.headers[name] == got.headers[name]


def test_content_is_not_ready_before_the_end(client, hand):
    made = client.post("/v1/videos", json={"prompt": "a fox"}).json()
    path = f"/v1/videos/{made['id']}/content"
    answer = client.get(path)
    assert code(answer) == (404, "video_not_ready")
    assert answer.json()["error"]["message"] == (
        "Video is not ready yet, use GET /v1/videos/{video_id} to check status"
    )
    hand.start(made["id"])
    assert code(client.get(path)) == (404, "video_not_ready")
    failed = client.post("/v1/videos", json={"prompt": "a fox"}).json()
    hand.fail(failed["id"], ErrorCode.TIMEOUT, "took too long")
    assert code(client.get(f"/v1/videos/{failed['id']}/content")) == (404, "video_not_ready")


def test_expired_content_is_gone(serving, hand, redis):
    with serving(result_ttl_s=1).client() as client:
        made = client.post("/v1/videos", json={"prompt": "a fox"}).json()
        job = hand.finish(made["id"])
        redis.persist(keys.job(made["id"]))  # the row may outlive its content, not the reverse
        time.sleep(max(0.0, job.expires_at - time.time()) + 0.01)
        video = client.get(f"/v1/videos/{made['id']}")
        assert video.json()["status"] == "completed"
        assert video.json()["url"] is None
        for method in ("GET", "HEAD"):
            answer = client.request(method, f"/v1/videos/{made['id']}/content")
            assert answer.status_code == 410
        assert code(client.get(f"/v1/videos/{made['id']}/content")) == (410, "video_expired")


def test_cleared_files_are_gone_and_never_a_fault(client, done, hand, store):
    job = store.get(done.split("/")[3])
    hand.artifacts.delete_prefix(job.result.video.key.rsplit("/", 1)[0])
    assert code(client.get(done)) == (410, "video_expired")
    assert client.head(done).status_code == 410
