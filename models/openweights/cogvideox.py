"""CogVideoX: text, or a first frame, at the size and length of training."""

from typing import Any

from models.openweights.adapter import Adapter, Arguments, image_of
from models.protocol import Task


def arguments(pipe: Any, task: Task) -> Arguments:
    """The first frame, for checkpoints that were trained for one."""
    return {} if task.first_frame is None else {"image": image_of(task.first_frame, task)}


COGVIDEOX = Adapter(
    arguments, tokens=226, joined=("hidden_states", "encoder_hidden_states", "timestep")
)
