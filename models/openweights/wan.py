"""Wan 2.1 and 2.2: text, first frame, first and last frame.

With two experts both take the request's scale. The 5B makes films of words or of a first frame
with the same parts; a last frame it would ignore, so its card does not offer it.
"""

from typing import Any

from models.openweights.adapter import Adapter, Arguments, image_of
from models.protocol import Task

IMAGES = "WanImageToVideoPipeline"


def arguments(pipe: Any, task: Task) -> Arguments:
    """What the pipeline of this kind of task is called with."""
    given: Arguments = {}
    if task.first_frame is not None:
        given["image"] = image_of(task.first_frame, task)
    if task.last_frame is not None:
        given["last_image"] = image_of(task.last_frame, task)
    return given


def sibling(pipe: Any, kind: str) -> str | None:
    """The 5B's index names the pipeline for words; frames are for the other one."""
    return IMAGES if kind == "image" and type(pipe).__name__ != IMAGES else None


WAN = Adapter(arguments, exact=("vae", "image_encoder"), sibling=sibling)
