"""HunyuanVideo, and FramePack, which makes films from a first frame on in pieces, the last first.

Zhang and Agrawala 2025 (arXiv:2504.12626), with inverted anti-drifting sampling: each piece sees
the first frame and, compressed, all that follows it. Both networks were distilled to follow a scale
that they are told. A negative prompt needs a second pass; then the scale is that of the two passes,
and what the network is told is 1.
"""

from typing import Any

from models.openweights.adapter import Adapter, Arguments, image_of
from models.protocol import Task

PIECE = 36  # frames that a piece adds
ASKED = 33  # frames that the pipeline counts a piece as
TOKENS = 256  # of a prompt


def guidance(task: Task) -> Arguments:
    """The scale as the network is told it, or between two passes."""
    if not task.negative_prompt:
        return {"guidance_scale": task.guidance_scale}
    return {"guidance_scale": 1.0, "true_cfg_scale": task.guidance_scale}


def pieces(task: Task) -> int:
    """Of a film of 1 + 36 n frames, n."""
    return (task.num_frames - 1) // PIECE


def arguments(pipe: Any, task: Task) -> Arguments:
    """Given frames, and the length that the pipeline makes the wanted number of pieces of."""
    given = {"image": image_of(task.first_frame, task), "num_frames": pieces(task) * ASKED}
    if task.last_frame is not None:
        given["last_image"] = image_of(task.last_frame, task)
    return given | guidance(task)


HUNYUAN1 = Adapter(
    lambda pipe, task: guidance(task),
    tokens=TOKENS,
    guided=False,
    joined=(
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "pooled_projections",
        "guidance",
    ),
)
FRAMEPACK = Adapter(arguments, tokens=TOKENS, guided=False, loops=pieces)
