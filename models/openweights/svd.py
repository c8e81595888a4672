"""Stable Video Diffusion: a first frame moves. It reads no words.

Blattmann et al. 2023 (arXiv:2311.15127). The request's scale is that of the last frame; from the
first, which is given, it rises in even steps from 1.
"""

from typing import Any

from models.openweights.adapter import Adapter, Arguments, image_of
from models.protocol import Task

DECODED_AT_ONCE = 8  # frames; the decoder needs more memory than the network


def arguments(pipe: Any, task: Task) -> Arguments:
    """The first frame, and the rate, which the network was trained to follow."""
    return {
        "image": image_of(task.first_frame, task),
        "fps": task.fps,
        "max_guidance_scale": task.guidance_scale,
        "decode_chunk_size": DECODED_AT_ONCE,
    }


SVD = Adapter(arguments, guided=False, worded=False)
