"""HunyuanVideo 1.5: text, or a first frame, whose size is the film's.

Guidance is a part of the pipeline, not an argument; a job gets one with its own scale.
"""

from typing import Any

from models.openweights.adapter import Adapter, Arguments, image_of
from models.protocol import Task


def arguments(pipe: Any, task: Task) -> Arguments:
    """The first frame, or the size where there is none."""
    if task.first_frame is None:
        return {"width": task.width, "height": task.height}
    return {"image": image_of(task.first_frame, task)}


HUNYUAN = Adapter(
    arguments,
    tokens=1000,
    exact=("vae",),
    guided=False,
    sized=False,
    joined=(
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "encoder_hidden_states_2",
        "encoder_attention_mask_2",
        "image_embeds",
    ),
)
