"""A blob is either absent or whole, and its key never leaves the folder."""

import hashlib
import os
import subprocess
import sys

import pytest

from worker.jobs import artifacts
from worker.jobs.disk import DiskStore

BYTES = os.urandom(3_000_000)
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


def test_opening_the_store_makes_no_folder(disk, job_settings):
    assert not job_settings.data_dir.exists()
    assert not disk.exists("studio/x/video.mp4")
    disk.delete_prefix("studio/x")
    assert not job_settings.data_dir.exists()


def test_a_stored_file_is_read_back(disk, source):
    blob = disk.put_file("studio/x/e/video.mp4", source)
    assert (blob.sha256, blob.size_bytes) == (hashlib.sha256(BYTES).hexdigest(), len(BYTES))
    assert (blob.key, blob.media_type) == ("studio/x/e/video.mp4", "video/mp4")
    with disk.open(blob.key) as reader:
        assert reader.read() == BYTES
    assert disk.path(blob.key).read_bytes() == BYTES
    assert source.exists()


@pytest.mark.parametrize("key", UNSAFE)
def test_an_unsafe_key_is_refused(disk, source, key):
    for act in (disk.open, disk.path, disk.exists, disk.delete_prefix):
        if act == disk.delete_prefix and key == "a/":
            continue  # a folder may be named with its slash
        with pytest.raises(ValueError, match="artifact key"):
            act(key)
    with pytest.raises(ValueError, match="artifact key"):
        disk.put_file(key, source)


def test_an_unknown_suffix_is_refused(disk, source):
    with pytest.raises(ValueError, match="must end in"):
        disk.put_file("studio/x/e/video.exe", source)


def test_a_failed_write_leaves_nothing(disk, tmp_path, job_settings):
    with pytest.raises(FileNotFoundError):
        disk.put_file("studio/x/e/video.mp4", tmp_path / "missing")
    assert [path for path in job_settings.data_dir.rglob("*") if path.is_file()] == []


def test_a_full_disk_leaves_nothing_behind(disk, job_settings):
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


def test_deleting_a_prefix_spares_its_neighbours(disk, source):
    for key in ("studio/x1/e/video.mp4", "studio/x1/f/video.mp4", "studio/x10/e/video.mp4"):
        disk.put_file(key, source)
    for _ in range(2):
        disk.delete_prefix(artifacts.job_prefix("studio", "x1"))
    assert not disk.exists("studio/x1/e/video.mp4")
    assert disk.exists("studio/x10/e/video.mp4")


def test_keys_hold_tenant_job_and_attempt(bench, disk):
    job, exec = bench.running()
    prefix = artifacts.artifact_prefix(job, exec)
    assert prefix == f"studio/{job.id}/{exec}/"
    assert prefix.startswith(artifacts.job_prefix("studio", job.id))
    assert isinstance(disk, DiskStore)
    assert not disk.exists(prefix + artifacts.VIDEO)
