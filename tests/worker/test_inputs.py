"""Stored inputs reach the model as they were stored, or the job says that one is gone."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.worker.conftest import REQUEST
from worker.film import read_failure
from worker.inputs import InputLost, read_task
from worker.jobs.artifacts import ArtifactStore, open_store
from worker.jobs.contract import (
    ErrorCode,
    StoredImage,
    StoredReference,
    StoredVideo,
    StoryShot,
    VideoRequest,
)
from worker.jobs.settings import JobSettings
from worker.provenance import without_keys

NOISE = np.random.default_rng(5).integers(0, 256, (6, 32, 48, 4), np.uint8)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return open_store(JobSettings(redis_url="unix:///none", data_dir=tmp_path))  # type: ignore[arg-type]


def stored_image(artifacts: ArtifactStore, folder: Path, pixels: np.ndarray) -> StoredImage:
    path = folder / "picture.png"
    Image.fromarray(pixels).save(path)
    artifact = artifacts.put_file("studio/video_1/inputs/picture.png", path)
    return StoredImage(artifact=artifact, width=pixels.shape[1], height=pixels.shape[0])


def stored_video(artifacts: ArtifactStore, folder: Path, frames: np.ndarray) -> StoredVideo:
    path = folder / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=8, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            pixels = np.ascontiguousarray(frame)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    artifact = artifacts.put_file("studio/video_1/inputs/clip.mp4", path)
    return StoredVideo(artifact=artifact, width=48, height=32, num_frames=len(frames), fps=8)


def ask(**fields: object) -> VideoRequest:
    return VideoRequest.model_validate(REQUEST | {"prompt": "a square"} | fields)


def test_every_input_reaches_the_model(artifacts: ArtifactStore, tmp_path: Path) -> None:
    image = stored_image(artifacts, tmp_path, NOISE[0])
    reference = StoredReference(image=image, name="fox", reference_type="style", strength=0.5)
    shot = StoryShot(
        prompt="it runs", num_frames=9, seed=3, last_frame=image, reference_images=(reference,)
    )
    request = ask(
        first_frame=image,
        reference_images=(reference,),
        video=stored_video(artifacts, tmp_path, NOISE[..., :3]),
        shots=(shot,),
        last_frame_strength=0.25,
        extend_before=True,
        upscale_factor=2,
        target_fps=24,
    )
    assert VideoRequest.model_validate_json(request.model_dump_json()) == request
    task = read_task(request, artifacts)
    assert task.first_frame is not None
    assert (task.first_frame == NOISE[0]).all()
    assert task.last_frame is None
    assert task.video is not None
    assert (task.video == NOISE[..., :3]).all(), "clips are stored without loss"
    assert (task.video_fps, task.extend_before, task.upscale_factor) == (8.0, True, 2)
    assert (task.last_frame_strength, task.target_fps) == (0.25, 24)
    (given,) = task.references
    assert (given.name, given.role, given.strength) == ("fox", "style", 0.5)
    assert task.shots[0].last_frame is not None
    assert (task.shots[0].num_frames, task.shots[0].references[0].name) == (9, "fox")


def test_a_lost_input_ends_the_job_for_good(artifacts: ArtifactStore, tmp_path: Path) -> None:
    request = ask(first_frame=stored_image(artifacts, tmp_path, NOISE[0]))
    artifacts.delete_prefix("studio/video_1/")
    with pytest.raises(InputLost) as caught:
        read_task(request, artifacts)
    failure = read_failure(caught.value, "one")
    assert (failure.code, failure.retryable) == (ErrorCode.INVALID_INPUT_MEDIA, False)


def test_a_damaged_input_is_a_lost_one(artifacts: ArtifactStore, tmp_path: Path) -> None:
    image = stored_image(artifacts, tmp_path, NOISE[0])
    video = stored_video(artifacts, tmp_path, NOISE[..., :3])
    for stored in (image, video):
        path = artifacts.path(stored.artifact.key)
        assert path is not None
        path.write_bytes(path.read_bytes()[:500])
    for request in (ask(first_frame=image), ask(video=video)):
        with pytest.raises(InputLost):
            read_task(request, artifacts)
    short = video.model_copy(update={"num_frames": 7})
    stored_video(artifacts, tmp_path, NOISE[..., :3])
    with pytest.raises(InputLost, match="6 frames, not 7"):
        read_task(ask(video=short), artifacts)


def test_provenance_names_inputs_by_digest_only(artifacts: ArtifactStore, tmp_path: Path) -> None:
    image = stored_image(artifacts, tmp_path, NOISE[0])
    told = without_keys(ask(first_frame=image).model_dump(mode="json"))
    assert "studio" not in str(told)
    assert told["first_frame"]["artifact"]["sha256"] == image.artifact.sha256
