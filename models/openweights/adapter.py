"""What every adapter of a family is, and the pictures that all of them hand over alike."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.protocol import Frames, Picture, Task

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Adapter:
    """How one family's pipelines are called.

    arguments  a pipeline and a checked task to what it is called with, besides what all pipelines
               take: prompts, size, length, steps and the generator
    exact      parts that stay in float32 whatever the others are in
    guided     the scale is an argument by that name; else the adapter or the guider has it
    worded     prompts are arguments; else it reads none
    tokens     of a prompt that are read; None: as many as its tokenizer says
    sized      width and height are arguments; else they follow from the first frame
    during     entered around the call, for what no argument says
    sibling    the pipeline class that makes a kind of task of the same parts, if another does
    joined     what its networks are asked has rows of these for each film, the first as many as the
               answer; films of other families are made one by one
    masked     its networks' attention is told which words count
    contexts   frames of a film that a clip may begin with: as a clip, the most first, or as a first
               frame, which is the last
    equip      called once with the checkpoint's folder, for parts that its index does not name
    loops      how many times the pipeline runs through all steps: once for each piece of a film
    """

    arguments: Callable[[Any, Task], Arguments]
    exact: tuple[str, ...] = ()
    guided: bool = True
    worded: bool = True
    tokens: int | None = None
    sized: bool = True
    during: Callable[[Any, Task], AbstractContextManager[None]] = lambda pipe, task: nullcontext()
    sibling: Callable[[Any, str], str | None] = lambda pipe, kind: None
    joined: tuple[str, ...] = ()
    masked: bool = False
    contexts: tuple[int, ...] = (1,)
    equip: Callable[[Any, Path], None] = lambda pipe, folder: None
    loops: Callable[[Task], int] = lambda task: 1


def image_of(picture: Picture | None, task: Task) -> Image.Image:
    """A given frame at the film's size. Alpha is laid on white. It has the film's shape already,
    so nothing is stretched."""
    assert picture is not None  # as the check before has seen
    image = laid_on_white(picture)
    size = (task.width, task.height)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def clip_of(frames: Frames, task: Task) -> list[Image.Image]:
    """Frames of the film before, at its size."""
    return [image_of(frame, task) for frame in frames]


def laid_on_white(picture: Picture) -> Image.Image:
    """A picture of any size without transparency."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
