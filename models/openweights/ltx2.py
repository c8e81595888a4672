"""LTX-2: films with their sound, of words and of pictures given as frames; the sound is left out.

HaCohen et al. 2026 (arXiv:2601.03233). Besides the prompt, its authors guide away from passes in
which one block does not look around, and in which pictures and sound do not hear each other. At a
scale of 1 there is no guidance of any kind.
"""

from typing import Any

from PIL import Image

from models.openweights.adapter import Adapter, Arguments, clip_of, image_of
from models.protocol import Task

BLIND_BLOCK = 29  # that does not look around, of the first edition; of later ones the one before
CONDITIONS = "LTX2ConditionPipeline"
UNGUIDED: Arguments = {
    "stg_scale": 0.0,
    "audio_stg_scale": 0.0,
    "modality_scale": 1.0,
    "audio_modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "audio_guidance_rescale": 0.0,
    "audio_guidance_scale": 1.0,
}


def arguments(pipe: Any, task: Task) -> Arguments:
    """Given frames as conditions, at the first and the last place in time."""
    given: Arguments = {"frame_rate": float(task.fps)} | guidance(pipe, task)
    frames = ((task.first_frame, 0), (task.last_frame, -1))
    conditions = [
        condition(image_of(picture, task), at) for picture, at in frames if picture is not None
    ]
    if task.video is not None:
        conditions.append(condition(clip_of(task.video, task), 0))
    return given | {"conditions": conditions} if conditions else given


def guidance(pipe: Any, task: Task) -> Arguments:
    """What the pipeline does besides following the prompt; its defaults are the authors'."""
    if task.guidance_scale == 1:
        return UNGUIDED
    network = pipe.transformer.config
    block = BLIND_BLOCK - bool(network.cross_attn_mod)
    return {"spatio_temporal_guidance_blocks": [min(block, network.num_layers - 1)]}


def condition(frames: Image.Image | list[Image.Image], index: int) -> Any:
    """A picture or a clip as the frames from an index of latent frames on."""
    from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition

    return LTX2VideoCondition(frames=frames, index=index)


def sibling(pipe: Any, kind: str) -> str | None:
    """Whatever the index names, the pipeline for conditions makes every film."""
    return None if type(pipe).__name__ == CONDITIONS else CONDITIONS


LTX2 = Adapter(
    arguments,
    tokens=1024,
    sibling=sibling,
    contexts=(9, 1),
    joined=(
        "hidden_states",
        "audio_hidden_states",
        "encoder_hidden_states",
        "audio_encoder_hidden_states",
        "timestep",
        "audio_timestep",
        "sigma",
        "audio_sigma",
        "encoder_attention_mask",
        "audio_encoder_attention_mask",
        "video_coords",
        "audio_coords",
    ),
)
