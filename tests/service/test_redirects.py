"""Content in a bucket: clients are sent there, and storage faults are said plainly."""

import httpx
import pytest

from service.client import Client
from service.settings import ServiceSettings
from tests.service.conftest import serve


@pytest.fixture(scope="module")
def module_api(valkey_server, s3_fields, tmp_path_factory):
    """One API for all tests here: starting one takes longer than most of them."""
    fields = s3_fields | {"redis_url": valkey_server.url, "api_keys": "studio:key-one"}
    data_dir = tmp_path_factory.mktemp("redirects")
    with serve(ServiceSettings(data_dir=data_dir, **fields), None) as running:
        yield running


@pytest.fixture
def api(valkey, module_api, s3, hand):
    """An API whose results are in the bucket; the hand puts them there."""
    hand.artifacts = s3
    return module_api


@pytest.fixture
def owner(api):
    with api.client("key-one") as found:
        yield found


@pytest.fixture
def done(owner, hand):
    """The path of a finished video's content."""
    made = owner.post("/v1/videos", json={"prompt": "a fox"}).json()
    hand.finish(made["id"])
    return f"/v1/videos/{made['id']}/content"


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_content_is_fetched_from_the_bucket(owner, done, clip, wire):
    answer = owner.get(done)
    assert (answer.status_code, answer.content) == (302, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["location"].startswith(wire.url)
    wire.sent.clear()
    got = owner.get(done, follow_redirects=True)
    assert (got.status_code, got.content) == (200, clip.read_bytes())
    assert got.headers["content-type"] == "video/mp4"
    assert got.headers["content-disposition"].endswith('.mp4"')
    assert got.headers["cache-control"] == "private"
    assert b"key-one" not in wire.sent  # the API key stays with the API


@pytest.mark.parametrize(
    ("variant", "media_type"),
    [("video", "video/mp4"), ("thumbnail", "image/webp"), ("spritesheet", "image/jpeg")],
)
def test_every_variant_is_sent_there(owner, done, variant, media_type):
    got = owner.get(done, params={"variant": variant}, follow_redirects=True)
    assert (got.status_code, got.headers["content-type"]) == (200, media_type)


def test_a_range_is_served_by_the_bucket(owner, done, clip):
    got = owner.get(done, headers={"Range": "bytes=5-9"}, follow_redirects=True)
    assert (got.status_code, got.content) == (206, clip.read_bytes()[5:10])


def test_head_and_validation_are_answered_here(owner, done, clip):
    head = owner.head(done)
    assert (head.status_code, head.headers["content-length"]) == (200, str(clip.stat().st_size))
    again = owner.get(done, headers={"If-None-Match": head.headers["etag"]})
    assert (again.status_code, again.headers["etag"]) == (304, head.headers["etag"])


def test_a_signed_link_leads_to_the_bucket(api, owner, done, clip):
    link = owner.get(done.removesuffix("/content")).json()["url"]
    with api.client() as anybody:
        got = anybody.get(link, follow_redirects=True)
    assert (got.status_code, got.content) == (200, clip.read_bytes())


def test_a_cleared_file_is_gone_also_from_the_bucket(owner, done, hand, store):
    job = store.get(done.split("/")[3])
    hand.artifacts.delete_prefix(job.result.video.key.rsplit("/", 1)[0])
    assert code(owner.get(done)) == (410, "video_expired")
    assert owner.head(done).status_code == 410


def test_the_tenant_is_the_first_folder(owner, done, bucket):
    stored = bucket.keys()
    assert stored
    assert all(key.startswith(f"praxino/studio/{done.split('/')[3]}/") for key in stored)


def test_a_bucket_that_is_away_is_503_and_nothing_else_is(owner, done, wire):
    wire.cut()
    for method in ("GET", "HEAD"):
        answer = owner.request(method, done)
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert code(owner.get(done)) == (503, "storage_unavailable")
    assert owner.get(done.removesuffix("/content")).json()["status"] == "completed"
    assert owner.get("/v1/videos").status_code == 200


def test_deleting_holds_while_the_bucket_is_away(owner, done, wire):
    wire.cut()
    path = done.removesuffix("/content")
    assert owner.delete(path).json()["deleted"] is True
    assert code(owner.get(path)) == (404, "video_not_found")
    wire.mend()
    assert owner.delete(path).json()["deleted"] is True  # a repeat clears up at once


def test_deleting_empties_the_bucket(owner, done, bucket):
    assert len(bucket.keys()) == 4
    owner.delete(done.removesuffix("/content"))
    assert bucket.keys() == []


def test_the_command_line_follows_to_the_bucket(api, done, clip, tmp_path):
    with Client(api.url, "key-one") as client:
        client.download(done.split("/")[3], tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == clip.read_bytes()


def test_the_sdk_follows_and_keeps_its_key(api, done, sdk, clip, tmp_path, wire):
    path = tmp_path / "clip.mp4"
    wire.sent.clear()
    report = sdk.drive("download", done.split("/")[3], path, url=api.url, key="key-one")
    assert report["redirected"]
    assert path.read_bytes() == clip.read_bytes()
    assert b"key-one" not in wire.sent
    assert b"authorization: bearer" not in bytes(wire.sent).lower()


def test_a_location_works_without_any_header_of_ours(owner, done, clip):
    location = owner.get(done).headers["location"]
    got = httpx.get(location, trust_env=False, verify=False)
    assert got.content == clip.read_bytes()
