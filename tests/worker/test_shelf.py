"""A finished film stays until its job has ended; whatever is not whole is not there."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.buckets import Bucket, Wire
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.disk import DiskStore
from worker.shelf import FACTS, Film, Shelf, Unstored, persist

JOB = "video_" + "0" * 32
KEY = f"studio/{JOB}/one/video.mp4"
KNOWN = {
    "notes": {"generator": "praxino"},
    "model_sha256": "ab",
    "stage_seconds": {"denoising": 1.5},
    "peak_memory_mb": 3.0,
}


def nothing() -> None:
    """The check of somebody who never stops."""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "finished")


def finish(shelf: Shelf, folder: Path, token: str = "one", job_id: str = JOB) -> Film:
    """Put a small film on the shelf."""
    folder.mkdir()
    (folder / "video.mp4").write_bytes(b"film " * 1000)
    (folder / "thumbnail.webp").write_bytes(b"picture")
    return shelf.keep(folder, job_id, token, KNOWN)


def test_a_film_is_found_again_by_its_job(shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.find(JOB) is None
    kept = finish(shelf, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    assert shelf.find(JOB) == kept
    assert set(kept.facts.digests) == {"video.mp4", "thumbnail.webp"}
    assert kept.facts.stage_seconds == {"denoising": 1.5}
    assert shelf.find("video_" + "1" * 32) is None
    assert shelf.jobs() == [JOB]


def test_a_dropped_job_is_forgotten(shelf: Shelf, tmp_path: Path) -> None:
    finish(shelf, tmp_path / "made")
    for _ in range(2):
        shelf.drop(JOB)
    assert shelf.find(JOB) is None
    assert shelf.jobs() == []


@pytest.mark.parametrize("spoil", ["truncate", "delete", "facts", "nonsense"])
def test_what_is_not_whole_is_not_there(shelf: Shelf, tmp_path: Path, spoil: str) -> None:
    film = finish(shelf, tmp_path / "made").folder
    acts: dict[str, Callable[[], object]] = {
        "truncate": lambda: (film / "video.mp4").write_bytes(b"film "),
        "delete": lambda: (film / "video.mp4").unlink(),
        "facts": lambda: (film / FACTS).unlink(),
        "nonsense": lambda: (film / FACTS).write_text("{}"),
    }
    acts[spoil]()
    assert shelf.find(JOB) is None
    second = finish(shelf, tmp_path / "again", "two")
    assert shelf.find(JOB) == second


@pytest.mark.parametrize("job_id", ["", "..", "a/b", "."])
def test_no_name_leads_off_the_shelf(shelf: Shelf, job_id: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        shelf.drop(job_id)


def test_a_store_that_comes_back_gets_the_film(
    s3: ArtifactStore, wire: Wire, bucket: Bucket, shelf: Shelf, tmp_path: Path
) -> None:
    film = finish(shelf, tmp_path / "made")
    checks = []
    wire.cut()

    def check() -> None:
        checks.append(wire.refused)
        if wire.refused >= 4:  # two tries, each repeated once at once
            wire.mend()

    kept = persist(s3, KEY, film.folder / "video.mp4", 60.0, check)
    assert kept.sha256 == film.facts.digests["video.mp4"]
    assert bucket.keys() == [f"praxino/{KEY}"]
    assert len(checks) > 2


def test_patience_ends_and_the_film_stays(
    s3: ArtifactStore, wire: Wire, shelf: Shelf, tmp_path: Path
) -> None:
    film = finish(shelf, tmp_path / "made")
    wire.cut()
    with pytest.raises(Unstored):
        persist(s3, KEY, film.folder / "video.mp4", 0.1, nothing)
    assert shelf.find(JOB) == film


def test_a_cancel_ends_the_waiting(
    s3: ArtifactStore, wire: Wire, shelf: Shelf, tmp_path: Path
) -> None:
    film = finish(shelf, tmp_path / "made")
    wire.cut()

    def check() -> None:
        if wire.refused:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        persist(s3, KEY, film.folder / "video.mp4", 60.0, check)


def test_a_film_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        persist(DiskStore(tmp_path / "store"), KEY, tmp_path / "none.mp4", 60.0, nothing)


def test_a_disk_that_cannot_be_written_is_waited_for(tmp_path: Path) -> None:
    """A file stands where the store's folder should be, as after a wrong mount, and goes."""
    film, root = tmp_path / "film.mp4", tmp_path / "store"
    film.write_bytes(b"film")
    root.write_text("in the way")
    tries = []

    def check() -> None:
        tries.append(errno.ENOTDIR)
        if len(tries) == 2:
            root.unlink()

    assert persist(DiskStore(root), KEY, film, 60.0, check).size_bytes == 4
