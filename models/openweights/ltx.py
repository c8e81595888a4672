"""LTX-Video: words, and pictures that are given as the frames of any time.

What the pipeline calls strength is how hard a picture binds, not for how many steps.
"""

from typing import Any

from models.openweights.adapter import Adapter, Arguments, image_of
from models.protocol import Picture, Task

DECODE_TIMESTEP = 0.05  # of decoders that remove the last noise, as their authors set it
DECODE_NOISE = 0.025


def arguments(pipe: Any, task: Task) -> Arguments:
    """Given frames as conditions, at the first and the last index."""
    given: Arguments = {"frame_rate": task.fps}
    if pipe.vae.config.timestep_conditioning:
        given |= {"decode_timestep": DECODE_TIMESTEP, "decode_noise_scale": DECODE_NOISE}
    frames = ((task.first_frame, 0), (task.last_frame, task.num_frames - 1))
    conditions = [condition(picture, at, task) for picture, at in frames if picture is not None]
    return given | {"conditions": conditions} if conditions else given


def condition(picture: Picture, index: int, task: Task) -> Any:
    """A picture as the frame at an index."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    return LTXVideoCondition(image=image_of(picture, task), frame_index=index)


LTX = Adapter(arguments)
