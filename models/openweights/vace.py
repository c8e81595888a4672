"""Wan VACE: words, frames that are kept where a mask says so, pictures of what the film shall show.

Jiang et al. 2025 (arXiv:2503.07598): one clip holds what is given, grey where nothing is, and a
mask of the same shape is white where frames are to be made. References are pictures beside it.
"""

from typing import Any

from PIL import Image

from models.openweights.adapter import Adapter, Arguments, image_of, laid_on_white
from models.protocol import Picture, Task

GREY, KEPT, MADE = (128, 128, 128), (0, 0, 0), (255, 255, 255)


def arguments(pipe: Any, task: Task) -> Arguments:
    """The clip of given frames with its mask; references as they are.

    A clip that goes on from another begins with frames of it; of one that is edited, what the
    task's mask leaves stays.
    """
    size = (task.width, task.height)
    video = [Image.new("RGB", size, GREY) for _ in range(task.num_frames)]
    mask = [Image.new("RGB", size, MADE) for _ in range(task.num_frames)]
    for at, picture in given_frames(task).items():
        video[at], mask[at] = image_of(picture, task), Image.new("RGB", size, KEPT)
    if task.mask is not None:
        made = image_of(task.mask, task).convert("L").point(lambda level: 255 * (level > 127))
        mask = [made.convert("RGB")] * task.num_frames
        for image in video:
            image.paste(GREY, mask=made)
    shown = [laid_on_white(reference.picture) for reference in task.references]
    return {"video": video, "mask": mask} | ({"reference_images": [shown]} if shown else {})


def given_frames(task: Task) -> dict[int, Picture]:
    """Every picture that is given as a frame, by its place: of a clip, of the ends, between."""
    frames = {} if task.video is None else dict(enumerate(task.video))
    frames |= {keyframe.index: keyframe.picture for keyframe in task.keyframes}
    ends = ((0, task.first_frame), (task.num_frames - 1, task.last_frame))
    return frames | {at: picture for at, picture in ends if picture is not None}


VACE = Adapter(
    arguments,
    tokens=512,
    exact=("vae",),
    contexts=(5, 1),
    joined=("hidden_states", "timestep", "encoder_hidden_states", "control_hidden_states"),
)
