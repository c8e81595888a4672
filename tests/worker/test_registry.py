"""The worker with a real model of the family, through the real registry: torch in the child."""

import json
from pathlib import Path

import av

from tests.models.presets import build_preset
from tests.worker.conftest import Studio
from worker.jobs.contract import Status

LOADER = "models.registry:load_model"


def test_diffusion_model_makes_the_film_asked_for(studio: Studio, tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny", "pocket")
    worker = studio.worker(model_loader=LOADER, weights_dir=folder, torch_threads=1)
    pictures = []
    for _ in range(2):
        job_id = studio.submit("a fox runs to the left", width=32, height=32, num_frames=9)
        job = studio.ended(job_id, 120)
        assert job.status is Status.COMPLETED, job.error
        assert job.result is not None
        with av.open(str(studio.artifacts.path(job.result.video.key))) as film:
            pictures.append([frame.to_ndarray().tobytes() for frame in film.decode(video=0)])
    assert len(pictures[0]) == 9
    assert pictures[0] == pictures[1]
    (served,) = studio.info(worker).serving
    assert job.result.model_sha256 == served.weights_sha256
    assert job.result.peak_memory_mb > 0
    # The supervisor drove torch without loading it.
    assert "libtorch" in Path(f"/proc/{worker.child_pid()}/maps").read_text()
    assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()
    environment = Path(f"/proc/{worker.child_pid()}/environ").read_text().split("\0")
    told = {entry.partition("=")[0] for entry in environment if "PRAXINO" in entry}
    assert told == {"PRAXINO_DATA_DIR"}, "a child knows its store, never queue or keys"


def test_damaged_weights_name_the_file(studio: Studio, tmp_path: Path) -> None:
    folder = build_preset(tmp_path / "tiny", "pocket")
    file = folder / "unet.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    job_id = studio.submit()
    worker = studio.start(model_loader=LOADER, weights_dir=folder, torch_threads=1)
    assert worker.wait(120) == 3
    events = [json.loads(line) for line in worker.log.read_text().splitlines()]
    reasons = [event["reason"] for event in events if event["event"] == "worker.load_failed"]
    assert len(reasons) == 1
    assert str(file) in reasons[0]
    assert studio.job(job_id).status is Status.QUEUED
