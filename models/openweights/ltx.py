"""LTX-Video: words, and pictures that are given as the frames of any time.

What the pipeline calls strength is how hard a picture binds, not for how many steps.
"""

from dataclasses import replace
from typing import Any

from PIL import Image

from models.openweights.adapter import Adapter, Arguments, clip_of, image_of
from models.protocol import Picture, Task

DECODE_TIMESTEP = 0.05  # of decoders that remove the last noise, as their authors set it
DECODE_NOISE = 0.025


def arguments(pipe: Any, task: Task) -> Arguments:
    """Given frames as conditions, at the first, the last and any other index."""
    given: Arguments = {"frame_rate": task.fps}
    if pipe.vae.config.timestep_conditioning:
        given |= {"decode_timestep": DECODE_TIMESTEP, "decode_noise_scale": DECODE_NOISE}
    frames = [(task.first_frame, 0), (task.last_frame, task.num_frames - 1)]
    frames += [(keyframe.picture, keyframe.index) for keyframe in task.keyframes]
    conditions = [condition(picture, at, task) for picture, at in frames if picture is not None]
    if task.video is not None:
        conditions.append(begun(clip_of(task.video, task)))
    return given | {"conditions": conditions} if conditions else given


def condition(picture: Picture, index: int, task: Task) -> Any:
    """A picture as the frame at an index."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    return LTXVideoCondition(image=image_of(picture, task), frame_index=index)


def begun(frames: list[Image.Image]) -> Any:
    """A clip as the first frames."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    return LTXVideoCondition(video=frames, frame_index=0)


WORDS_TOKENS = 128  # of a prompt, as the first edition's pipeline, for words alone, reads them

LTX = Adapter(
    arguments,
    tokens=256,
    contexts=(9, 1),
    masked=True,
    joined=(
        "hidden_states",
        "encoder_hidden_states",
        "timestep",
        "encoder_attention_mask",
        "video_coords",
    ),
)
LTX_WORDS = replace(LTX, tokens=WORDS_TOKENS)
