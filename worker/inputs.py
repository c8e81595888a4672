"""The stored inputs of a job as arrays: what the web side prepared, read back in the child.

The files were written by our own side, sized and upright; nothing here repairs or converts.
"""

from collections.abc import Callable
from typing import BinaryIO

import av
import numpy as np
from PIL import Image

from models.protocol import Frames, Keyframe, Picture, Reference, Shot, Task
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.contract import (
    Artifact,
    StoredImage,
    StoredReference,
    StoredVideo,
    StoryShot,
    VideoRequest,
)

PLAIN = (
    "task_type prompt negative_prompt width height num_frames fps seed num_inference_steps "
    "guidance_scale sampler first_frame_strength last_frame_strength reference_strength "
    "extend_before upscale_factor target_fps last_frame_is_sketch quality guidance_rescale "
    "guidance_schedule context_frames context_guidance reconstruction_weight "
    "adapter adapter_scale"
).split()


class InputLost(Exception):
    """A stored input is gone or no longer what was stored."""


def read_task(request: VideoRequest, store: ArtifactStore) -> Task:
    """The model's half of a request, with its inputs loaded.

    raises InputLost
    """
    video = request.video
    return Task(
        **{name: getattr(request, name) for name in PLAIN},
        first_frame=read_frame(request.first_frame, store),
        last_frame=read_frame(request.last_frame, store),
        references=tuple(read_reference(given, store) for given in request.reference_images),
        video=None if video is None else read_video(video, store),
        video_fps=None if video is None else float(video.fps),
        shots=tuple(read_shot(shot, store) for shot in request.shots),
        mask=read_frame(request.mask, store),
        keyframes=tuple(
            Keyframe(read_image(given.image, store), given.frame) for given in request.keyframes
        ),
    )


def read_shot(shot: StoryShot, store: ArtifactStore) -> Shot:
    """One shot with its pictures loaded."""
    return Shot(
        prompt=shot.prompt,
        num_frames=shot.num_frames,
        seed=shot.seed,
        negative_prompt=shot.negative_prompt,
        first_frame=read_frame(shot.first_frame, store),
        last_frame=read_frame(shot.last_frame, store),
        references=tuple(read_reference(given, store) for given in shot.reference_images),
        transition=shot.transition,
    )


def read_reference(given: StoredReference, store: ArtifactStore) -> Reference:
    """A reference with its picture loaded."""
    return Reference(
        picture=read_image(given.image, store),
        name=given.name,
        role=given.reference_type,
        strength=given.strength,
    )


def read_frame(image: StoredImage | None, store: ArtifactStore) -> Picture | None:
    """A given frame, if one is given."""
    return None if image is None else read_image(image, store)


def read_image(image: StoredImage, store: ArtifactStore) -> Picture:
    """(H, W, 3) uint8, or (H, W, 4) with straight alpha. raises InputLost"""

    def read(file: BinaryIO) -> Picture:
        with Image.open(file, formats=("PNG",)) as opened:
            return np.array(opened.convert("RGBA" if opened.mode == "RGBA" else "RGB"))

    picture = read_blob(image.artifact, store, read)
    if picture.shape[:2] != (image.height, image.width):
        raise InputLost(f"a stored picture is {picture.shape}, not {image.width}x{image.height}")
    return picture


def read_video(video: StoredVideo, store: ArtifactStore) -> Frames:
    """(T, H, W, 3) uint8. raises InputLost"""

    def read(file: BinaryIO) -> Frames:
        with av.open(file, "r", format="mp4") as container:
            count = 0
            for frame in container.decode(container.streams.video[0]):
                frames[count] = frame.to_ndarray(format="rgb24")
                count += 1
            return frames[:count]

    # Room for all frames at once: stacking them afterwards would need it twice.
    frames = np.empty((video.num_frames, video.height, video.width, 3), np.uint8)
    found = len(read_blob(video.artifact, store, read))
    if found != video.num_frames:
        raise InputLost(f"a stored clip has {found} frames, not {video.num_frames}")
    return frames


def read_blob(
    artifact: Artifact, store: ArtifactStore, read: Callable[[BinaryIO], np.ndarray]
) -> np.ndarray:
    """What `read` makes of a stored file. raises InputLost"""
    try:
        with store.open(artifact.key) as file:
            return read(file)
    except (av.FFmpegError, SyntaxError, ValueError, IndexError) as error:
        raise InputLost("a stored input is damaged") from error
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise InputLost("a stored input is gone or damaged") from error
        raise  # the store's own trouble, which may pass
