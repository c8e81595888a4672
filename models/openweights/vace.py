"""Wan VACE: words, frames that are kept where a mask says so, pictures of what the film shall show.

Jiang et al. 2025 (arXiv:2503.07598): one clip holds what is given, grey where nothing is, and a
mask of the same shape is white where frames are to be made. References are pictures beside it.
"""

from typing import Any

from PIL import Image

from models.openweights.adapter import Adapter, Arguments, image_of, laid_on_white
from models.protocol import Task

GREY, KEPT, MADE = (128, 128, 128), (0, 0, 0), (255, 255, 255)


def arguments(pipe: Any, task: Task) -> Arguments:
    """The clip of given frames with its mask; references as they are."""
    size = (task.width, task.height)
    video = [Image.new("RGB", size, GREY) for _ in range(task.num_frames)]
    mask = [Image.new("RGB", size, MADE) for _ in range(task.num_frames)]
    for picture, at in ((task.first_frame, 0), (task.last_frame, -1)):
        if picture is not None:
            video[at], mask[at] = image_of(picture, task), Image.new("RGB", size, KEPT)
    shown = [laid_on_white(reference.picture) for reference in task.references]
    return {"video": video, "mask": mask} | ({"reference_images": [shown]} if shown else {})


VACE = Adapter(arguments, exact=("vae",))
