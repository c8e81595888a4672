"""A blob is either absent or whole, its key never leaves the store, and stores agree on that."""

import hashlib
import os
import subprocess
import sys
import time

import httpx
import pytest

from worker.jobs import artifacts
from worker.jobs.blobs import CHUNK_BYTES, Serving, StorageFault
from worker.jobs.settings import StorageSettings

BYTES = os.urandom(3_000_000)
KEY = "studio/x/e/video.mp4"
NEIGHBOUR = "studio/video_2/e1/video.mp4"
FILM = Serving("video/mp4", 'inline; filename="film.mp4"')
UNSAFE = (
    "",
    "/etc/x.json",
    "../x.json",
    "a/../x.json",
    "a//x.json",
    ".x.json",
    "a\\x\0.json",
    "a/",
)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(BYTES)
    return path


@pytest.fixture
def disk(job_settings):
    return artifacts.open_store(job_settings)


@pytest.fixture(params=["disk", "s3"])
def blobs(request):
    """Either store: what holds for one holds for the other."""
    return request.getfixturevalue(request.param)


def test_opening_the_store_makes_no_folder(disk, job_settings):
    assert not job_settings.data_dir.exists()
    disk.delete_prefix("studio/x")
    assert list(disk.list("")) == []
    assert not job_settings.data_dir.exists()


def test_opening_the_store_talks_to_nobody(s3_fields, wire):
    wire.cut()
    artifacts.open_store(StorageSettings(**s3_fields)).close()
    assert wire.refused == 0


@pytest.mark.parametrize("in_the_way", [False, True])
def test_a_folder_that_is_away_holds_what_it_held(disk, source, job_settings, in_the_way):
    disk.put_file(KEY, source)
    folder, aside = job_settings.data_dir / "artifacts", job_settings.data_dir / "aside"
    folder.rename(aside)
    if in_the_way:
        folder.write_text("a file")
    for act in (disk.open, disk.path, disk.exists):
        with pytest.raises(StorageFault, match="away"):
            act(KEY)
    folder.unlink(missing_ok=True)
    aside.rename(folder)
    assert disk.exists(KEY)


def test_a_stored_file_is_read_back(blobs, source):
    blobs.put_file(NEIGHBOUR, source)
    assert not blobs.exists(KEY)
    blob = blobs.put_file(KEY, source)
    assert (blob.sha256, blob.size_bytes) == (hashlib.sha256(BYTES).hexdigest(), len(BYTES))
    assert (blob.key, blob.media_type) == (KEY, "video/mp4")
    assert blobs.exists(KEY)
    with blobs.open(KEY) as reader:
        assert reader.read() == BYTES
        reader.seek(1000)
        assert reader.read(10) == BYTES[1000:1010]
    assert source.exists()


def test_bytes_are_told_of_as_they_move(blobs, tmp_path):
    source, told = tmp_path / "long.mp4", []
    source.write_bytes(bytes(3 * CHUNK_BYTES))
    telling = blobs.telling(lambda: told.append(len(told)))
    telling.put_file("a/b/video.mp4", source)
    assert len(told) >= 3
    told.clear()
    with telling.open("a/b/video.mp4") as file:
        assert len(file.read()) == 3 * CHUNK_BYTES
    # A folder's bytes move when they are read, which is the reader's to tell.
    assert len(told) >= (0 if telling.path("a/b/video.mp4") else 3)


def test_a_store_tells_only_who_asked(blobs, source):
    told = []
    blobs.telling(lambda: told.append(1))
    blobs.put_file("a/b/video.mp4", source)
    assert told == []


def test_a_repeated_put_is_the_same_blob(blobs, source):
    assert blobs.put_file(KEY, source) == blobs.put_file(KEY, source)
    assert [blob.key for blob in blobs.list("")] == [KEY]


def test_only_a_disk_has_paths(disk, s3, source):
    for store in (disk, s3):
        store.put_file(KEY, source)
    assert disk.path(KEY).read_bytes() == BYTES
    assert disk.path("studio/x/e/other.mp4") is None
    assert s3.path(KEY) is None


def test_a_missing_blob_is_not_found(blobs, source):
    blobs.put_file(NEIGHBOUR, source)
    with pytest.raises(FileNotFoundError):
        blobs.open(KEY)


@pytest.mark.parametrize("key", UNSAFE)
def test_an_unsafe_key_is_refused(blobs, source, key):
    acts = [blobs.open, blobs.path, blobs.exists, lambda key: blobs.link(key, 60, FILM)]
    if key != "a/":  # a folder may be named with its slash
        acts.append(blobs.delete_prefix)
    if key not in ("a/", ""):
        acts.append(lambda key: list(blobs.list(key)))
    for act in acts:
        with pytest.raises(ValueError, match="artifact key"):
            act(key)
    with pytest.raises(ValueError, match="artifact key"):
        blobs.put_file(key, source)


def test_an_unknown_suffix_is_refused(blobs, source):
    with pytest.raises(ValueError, match="must end in"):
        blobs.put_file("studio/x/e/video.exe", source)


def test_a_failed_write_leaves_nothing(blobs, tmp_path):
    with pytest.raises(FileNotFoundError):
        blobs.put_file(KEY, tmp_path / "missing")
    assert list(blobs.list("")) == []


def test_a_listing_tells_size_and_age(blobs, source):
    before = time.time()
    blobs.put_file(KEY, source)
    blobs.put_file("studio/y/e/video.mp4", source)
    (blob,) = blobs.list("studio/x/")
    assert (blob.key, blob.size_bytes) == (KEY, len(BYTES))
    assert before - 2 <= blob.modified_at <= time.time() + 2  # S3 counts whole seconds
    assert [blob.key for blob in blobs.list("")] == [KEY, "studio/y/e/video.mp4"]
    assert list(blobs.list("studio/z")) == []


def test_deleting_a_prefix_spares_its_neighbours(blobs, source):
    for key in ("studio/x1/e/video.mp4", "studio/x1/f/video.mp4", "studio/x10/e/video.mp4"):
        blobs.put_file(key, source)
    for _ in range(2):
        blobs.delete_prefix(artifacts.job_prefix("studio", "x1"))
    assert not blobs.exists("studio/x1/e/video.mp4")
    assert blobs.exists("studio/x10/e/video.mp4")


def test_a_full_disk_leaves_nothing_behind(job_settings):
    # /dev/zero never ends; a file size limit in a child process stands for the full disk.
    script = (
        "import pathlib, resource, signal, sys\n"
        "from worker.jobs.disk import DiskStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 21, 1 << 21))\n"
        "DiskStore(pathlib.Path(sys.argv[1])).put_file('a/video.mp4', pathlib.Path('/dev/zero'))\n"
    )
    folder = job_settings.data_dir / "artifacts"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=30
    )
    assert "File too large" in done.stderr
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_an_upload_cut_in_the_middle_leaves_nothing(s3, source, bucket, wire):
    wire.cut_after(len(BYTES) // 2)
    with pytest.raises(StorageFault):
        s3.put_file(KEY, source)
    assert wire.refused > 0  # it was tried again at once
    assert bucket.keys() == []
    wire.mend()
    s3.put_file(KEY, source)
    assert bucket.keys() == [f"praxino/{KEY}"]
    with s3.open(KEY) as reader:
        assert reader.read() == BYTES


def test_every_call_to_a_store_that_is_away_says_so(s3, source, wire):
    wire.cut()
    calls = (
        lambda: s3.put_file(KEY, source),
        lambda: s3.open(KEY),
        lambda: s3.exists(KEY),
        lambda: list(s3.list("")),
        lambda: s3.delete_prefix("studio/x"),
    )
    for call in calls:
        with pytest.raises(StorageFault, match="does not answer"):
            call()


def test_a_bucket_that_is_not_there_is_a_fault_not_a_missing_blob(s3_fields, wire, source):
    absent = StorageSettings(**s3_fields | {"artifacts_url": "s3://no-such-bucket"})
    store = artifacts.open_store(absent)
    with pytest.raises(StorageFault, match="NoSuchBucket"):
        store.put_file(KEY, source)
    with pytest.raises(StorageFault, match="NoSuchBucket"):
        store.open(KEY)
    store.close()


def test_a_link_gives_the_blob_to_anybody_as_the_caller_described_it(s3, source):
    s3.put_file(KEY, source)
    url = s3.link(KEY, 60, FILM)
    answer = httpx.get(url, headers={"Range": "bytes=10-19"}, trust_env=False, verify=False)
    assert (answer.status_code, answer.content) == (206, BYTES[10:20])
    assert answer.headers["content-type"] == FILM.media_type
    assert answer.headers["content-disposition"] == FILM.disposition
    asked = httpx.URL(url).params
    assert asked["X-Amz-Expires"] == "60"
    assert "not-a-secret" not in url
    assert httpx.get(url.split("?")[0], trust_env=False, verify=False).status_code == 403


def test_links_use_the_name_that_clients_know(s3_fields):
    public = s3_fields | {"s3_public_endpoint": "https://films.example"}
    store = artifacts.open_store(StorageSettings(**public))
    assert store.link(KEY, 60, FILM).startswith("https://films.example/films/praxino/studio/x/")
    store.close()


def test_a_folder_has_no_links(disk):
    assert disk.link(KEY, 60, FILM) is None


def test_keys_hold_tenant_job_and_attempt(bench):
    job, exec = bench.running()
    prefix = artifacts.artifact_prefix(job, exec)
    assert prefix == f"studio/{job.id}/{exec}/"
    assert prefix.startswith(artifacts.job_prefix("studio", job.id))
