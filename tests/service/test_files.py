"""Files are kept for their tenant alone, as long as promised, and are what their content says."""

import hashlib
import shutil
import time

import pytest

from service.repeats import fingerprint
from service.settings import ServiceSettings
from tests.service.media import film, picture
from tests.service.test_create import refused
from worker.expiry import Sweeper
from worker.jobs.artifacts import open_store
from worker.jobs.receipts import Receipts

PNG = picture()


@pytest.fixture(autouse=True)
def empty_store(api):
    """The API of the session keeps what other tests stored."""
    shutil.rmtree(api.settings.artifacts_dir, ignore_errors=True)


def upload(client, data=PNG, name="a.png", purpose="vision", **fields):
    return client.post(
        "/v1/files", data={"purpose": purpose} | fields, files={"file": (name, data)}
    )


def stored(settings: ServiceSettings) -> list:
    return sorted(path for path in settings.artifacts_dir.glob("*/files/*/*") if path.is_file())


def test_an_upload_is_described_listed_and_given_back(client):
    made = upload(client, name="../../etc/pässwd.png").json()
    assert made == {
        "id": made["id"],
        "object": "file",
        "bytes": len(PNG),
        "created_at": made["created_at"],
        "expires_at": made["created_at"] + 7 * 24 * 3600,
        "filename": "pässwd.png",
        "purpose": "vision",
        "status": "processed",
        "status_details": None,
    }
    assert client.get(f"/v1/files/{made['id']}").json() == made
    content = client.get(f"/v1/files/{made['id']}/content")
    assert content.content == PNG
    assert content.headers["content-type"] == "image/png"
    assert content.headers["x-content-type-options"] == "nosniff"
    part = client.get(f"/v1/files/{made['id']}/content", headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    known = {"If-None-Match": content.headers["etag"]}
    assert client.get(f"/v1/files/{made['id']}/content", headers=known).status_code == 304


def test_an_upload_repeated_under_its_key_is_one_file(client, api, redis):
    def send(data=PNG, **fields):
        body = {"purpose": "vision"} | fields
        files = {"file": (f"{len(fields)}.png", data)}
        return client.post("/v1/files", data=body, files=files, headers={"Idempotency-Key": "k"})

    first, again = send(), send()
    assert again.json() == first.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(stored(api.settings)) == 1
    refused(send(purpose="user_data"), 422, "idempotency_key_reused", "Idempotency-Key")
    refused(send(picture(colour=(1, 2, 3))), 422, "idempotency_key_reused", "Idempotency-Key")
    client.delete(f"/v1/files/{first.json()['id']}")
    assert send().json()["id"] != first.json()["id"]
    long = client.post("/v1/files", files={"file": PNG}, headers={"Idempotency-Key": "k" * 256})
    refused(long, 400, "missing_required_parameter", "purpose")


def test_an_upload_that_is_not_over_is_not_begun_twice(client, api, store):
    def send(data=PNG, key="k"):
        files = {"file": ("a.png", data)}
        headers = {"Idempotency-Key": key}
        return client.post("/v1/files", data={"purpose": "vision"}, files=files, headers=headers)

    refused(send(b"no picture"), 400, "invalid_input_media", "file")
    assert send().status_code == 200  # what was refused has used no key up
    tree = {"purpose": "vision", "file": {"sha256": hashlib.sha256(PNG).hexdigest()}}
    assert Receipts(store.redis).begin("anonymous", "/v1/files\0other", fingerprint(tree)) is None
    answer = send(key="other")
    refused(answer, 409, "idempotency_in_progress", "Idempotency-Key")
    assert answer.headers["retry-after"] == "1"
    refused(send(key="k" * 256), 400, "invalid_value", "Idempotency-Key")
    assert len(stored(api.settings)) == 1


def test_files_are_listed_by_page(client):
    ids = [upload(client).json()["id"] for _ in range(3)]
    page = client.get("/v1/files", params={"limit": 2}).json()
    assert [file["id"] for file in page["data"]] == ids[:0:-1]
    assert (page["has_more"], page["last_id"]) == (True, ids[1])
    rest = client.get("/v1/files", params={"after": page["last_id"], "limit": 2}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[:1], False)
    oldest = client.get("/v1/files", params={"order": "asc"}).json()
    assert [file["id"] for file in oldest["data"]] == ids
    assert client.get("/v1/files", params={"purpose": "user_data"}).json()["data"] == []
    refused(client.get("/v1/files", params={"after": "x"}), 400, "invalid_value", "after")


def test_a_deleted_file_is_gone_with_its_bytes(client, api):
    made = upload(client).json()["id"]
    assert len(stored(api.settings)) == 1
    answer = client.delete(f"/v1/files/{made}")
    assert answer.json() == {"id": made, "object": "file", "deleted": True}
    assert stored(api.settings) == []
    for call in (client.get, client.delete):
        refused(call(f"/v1/files/{made}"), 404, "file_not_found", "file_id")
    assert client.get("/v1/files").json()["data"] == []


def test_files_of_another_tenant_do_not_exist(serving):
    api = serving(api_keys="one:key-one two:key-two")
    with api.client("key-one") as one, api.client("key-two") as two:
        made = upload(one).json()["id"]
        assert two.get("/v1/files").json()["data"] == []
        for path in (f"/v1/files/{made}", f"/v1/files/{made}/content"):
            refused(two.get(path), 404, "file_not_found", "file_id")
        refused(two.delete(f"/v1/files/{made}"), 404, "file_not_found", "file_id")
        assert one.get(f"/v1/files/{made}").status_code == 200
        (path,) = stored(api.settings)
        assert path.relative_to(api.settings.artifacts_dir).parts[0] == "one"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"GIF89a" + bytes(100), "something else"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "something else"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "something else"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "something else"),
        (b"\x1a\x45\xdf\xa3matroska" + bytes(40), "something else"),
    ],
)
def test_what_is_no_picture_or_clip_is_refused_whatever_its_name(client, api, data, said):
    message = refused(upload(client, data), 400, "invalid_input_media", "file")
    assert said in message
    assert stored(api.settings) == []


def test_clips_are_told_by_content(client, tmp_path):
    for suffix, codec, media_type in [
        (".mp4", "libx264", "video/mp4"),
        (".mov", "libx264", "video/quicktime"),
        (".webm", "libvpx-vp9", "video/webm"),
    ]:
        data = film(tmp_path / f"a{suffix}", frames=2, codec=codec).read_bytes()
        made = upload(client, data, name="a.png").json()["id"]
        assert client.get(f"/v1/files/{made}/content").headers["content-type"] == media_type


def test_bad_uploads_name_field_value_and_limit(serving):
    with serving(
        max_image_bytes=1000, max_video_bytes=2000, max_files_per_tenant=1
    ).client() as api:
        refused(upload(api, purpose="fine-tune"), 400, "invalid_value", "purpose")
        refused(upload(api, wings="2"), 400, "unknown_parameter", "wings")
        refused(api.post("/v1/files", json={"purpose": "vision"}), 400, *MISSING_FILE)
        refused(
            api.post("/v1/files", json={"purpose": "vision", "file": "x"}),
            400,
            "invalid_value",
            "file",
        )
        assert "1000" in refused(upload(api, PNG + bytes(1000)), 400, "invalid_input_media", "file")
        assert "2000" in refused(upload(api, PNG + bytes(2000)), 400, "invalid_input_media", "file")
        assert upload(api).status_code == 200
        assert "1 files" in refused(upload(api), 400, "invalid_value", "file")


MISSING_FILE = ("missing_required_parameter", "file")


def test_a_shorter_life_may_be_asked_for(client):
    asked = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    made = upload(client, **asked).json()
    assert made["expires_at"] - made["created_at"] == 3600
    for seconds in ("10", "99999999"):
        answer = upload(client, **asked | {"expires_after[seconds]": seconds})
        refused(answer, 400, "invalid_value", "expires_after.seconds")


def test_expired_files_are_gone_and_their_bytes_follow(serving, redis):
    api = serving(file_ttl_s=1)
    with api.client() as client:
        made = upload(client).json()["id"]
        assert client.get(f"/v1/files/{made}").status_code == 200
        time.sleep(1.1)
        refused(client.get(f"/v1/files/{made}"), 404, "file_not_found", "file_id")
        assert len(stored(api.settings)) == 1
        Sweeper(api.settings, redis, open_store(api.settings)).sweep()
        assert stored(api.settings) == []
        assert client.get("/v1/files").json()["data"] == []


def test_the_sdk_shapes_are_understood(client):
    """As `client.files.create(file=..., purpose=...)` writes it, whatever the order of parts."""
    parts = [
        ("file", ("upload", PNG, "application/octet-stream")),
        ("purpose", (None, "user_data")),
    ]
    assert client.post("/v1/files", files=parts).json()["purpose"] == "user_data"
