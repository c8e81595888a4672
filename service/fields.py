"""The fields of `POST /v1/videos`: one table for parsing, refusals and the OpenAPI document.

Ranges that depend on the model are in its card, not here.
"""

from typing import Any

from service.values import (
    Aspect,
    Choice,
    Field,
    Flag,
    Integer,
    Number,
    Pairs,
    Resolution,
    Seconds,
    Size,
    Structure,
    Text,
)
from worker.jobs.catalog import SAMPLERS, TASKS
from worker.jobs.contract import MAX_SEED, Tier

FRAME_KINDS = frozenset({"image", "first_last_frame", "edit"})
VIDEO_KINDS = frozenset({"extend", "interpolate", "upscale", "edit"})
REFERENCE_KINDS = frozenset({"reference", "edit", "story"})
INPUT_KINDS = frozenset({"image", "reference", "first_last_frame", "edit"})
FILM_KINDS = frozenset({"text", "image", "reference", "first_last_frame"})  # of one clip each
GIVEN_KINDS = frozenset({"image", "first_last_frame", "extend", "story", "edit"})
CROPPED = "Cropped around its centre to the aspect of `size`, then scaled to it."

PROMPT = Field(
    "prompt", Text(), "What the video shows. Kinds that are given pictures or clips need none."
)
MODEL = Field("model", Text(200), "Model id; the server's default if absent.")
TASK_TYPE = Field("task_type", Choice(TASKS), "Kind of job; inferred if absent.", ("task",))
SECONDS = Field(
    "seconds",
    Seconds(),
    "Length of the film; snaps to the model's nearest frame count.",
    ("duration",),
)
SIZE = Field(
    "size",
    Size(),
    "Pixels as WxH; one of the model's sizes. An extension or edit has that nearest to its "
    "clip's if absent.",
)
WIDTH = Field("width", Integer(1, 99_999), "With `height`, the same as `size`.")
HEIGHT = Field("height", Integer(1, 99_999), "With `width`, the same as `size`.")
RESOLUTION = Field("resolution", Resolution(), "Shorter side, as 480p; picks one of the sizes.")
ASPECT_RATIO = Field("aspect_ratio", Aspect(), "As 16:9; picks one of the model's sizes.")
NEGATIVE_PROMPT = Field("negative_prompt", Text(), "What the video should not show.")
SEED = Field("seed", Integer(0, MAX_SEED), "Random and echoed if absent or null.")
STEPS = Field(
    "num_inference_steps", Integer(1, 100_000), "Denoising steps; range per model.", ("steps",)
)
GUIDANCE = Field(
    "guidance_scale",
    Number(1),
    "How strongly the prompt pulls; 1 is unguided; range per model.",
    ("cfg_scale",),
)
FPS = Field(
    "fps",
    Integer(1, 1000),
    "Frames per second; one of the model's rates. An extension or edit has that nearest to its "
    "clip's if absent.",
)
NUM_FRAMES = Field("num_frames", Integer(1, 1_000_000), "Exact frame count; must be legal.")
SAMPLER = Field("sampler", Choice(SAMPLERS), "Sampler; one of the model's.")
QUALITY = Field(
    "quality", Text(64), "How much work the film is worth; one of the model's `qualities`."
)
GUIDANCE_RESCALE = Field(
    "guidance_rescale", Number(0, 1), "How far guided contrast is brought back to the unguided."
)
GUIDANCE_SCHEDULE = Field(
    "guidance_schedule",
    Choice(("constant", "oscillating", "linear")),
    "Guidance over steps (`oscillating`, not with sampler dpmpp_2m) or frames (`linear`).",
)
ADAPTER = Field(
    "adapter",
    Text(200),
    "Personal subject that the film may show; one of the model's `adapters`.",
    (),
    FILM_KINDS | {"extend", "story", "edit"},
)
ADAPTER_SCALE = Field(
    "adapter_scale",
    Number(0, 2),
    "How far `adapter` changes the model: 0 not at all, 1 as it was trained; 1 if absent.",
    (),
    FILM_KINDS | {"extend", "story", "edit"},
)
METADATA = Field("metadata", Pairs(16, 64, 512), "Up to 16 pairs of strings, given back as sent.")
USER = Field("user", Text(256), "Your end user, given back as sent.")
CALLBACK_URL = Field(
    "callback_url",
    Text(8192),
    "Where a signed webhook is posted when the job has ended; https, on the public internet.",
    ("webhook",),
)
EXPIRES_AFTER = Field(
    "execution_expires_after",
    Number(1, 604_800),
    "Seconds in the queue after which the job fails as `expired`.",
)
SERVICE_TIER = Field(
    "service_tier",
    Choice(tuple(Tier)),
    "Queue to wait in: `priority`, if the key may, before `default` before `flex`.",
)
GPU_CLASS = Field(
    "gpu_class",
    Text(32),
    "Class of workers that shall make it, one of this server's; any worker that can if absent.",
)
COUNT = Field("n", Integer(1, 1), "Always 1.", ("num_outputs_per_prompt",))
ENHANCE_PROMPT = Field("enhance_prompt", Flag(only=False), "Always false.")
CACHE = Field(
    "cache",
    Flag(),
    "False makes the film anew; else a request equal to an earlier one, seed included, may get a "
    "copy of its film.",
)
RETURN_LAST_FRAME = Field(
    "return_last_frame", Flag(), "Keep the last frame as a picture too: variant `last_frame`."
)
EXTRA_PARAMS = Field("extra_params", Structure(), "Parameters of the model: `sampler`.")

INPUT_REFERENCE = Field(
    "input_reference",
    Structure(),
    "One image is the first frame, several are references; items may name their role.",
    ("image", "frame_images", "content"),
    INPUT_KINDS,
)
FIRST_FRAME = Field("first_frame", Structure(), f"Image to begin with. {CROPPED}", (), FRAME_KINDS)
LAST_FRAME = Field(
    "last_frame",
    Structure(),
    f"Image to end with. {CROPPED} Its aspect ratio must be 0.8 to 1.25 times the first frame's.",
    (),
    frozenset({"first_last_frame", "extend", "edit"}),
)
LAST_FRAME_STRENGTH = Field(
    "last_frame_strength",
    Number(0, 1),
    "Share of denoising steps, from the noisiest, that see the last frame.",
    ("end_image_strength",),
    frozenset({"first_last_frame", "extend", "edit", "story"}),
)
FIRST_FRAME_STRENGTH = Field(
    "first_frame_strength",
    Number(0, 1),
    "How closely the first frame is kept.",
    ("image_strength",),
    FRAME_KINDS,
)
CHARACTERS = Field(
    "characters",
    Structure(),
    "Named reference sets, `[{id}]`; prompts and shots call them `@name`.",
    (),
    REFERENCE_KINDS,
)
REFERENCE_IMAGES = Field(
    "reference_images",
    Structure(),
    "Up to 7 images of subjects, styles or scenes.",
    ("input_references", "subjects"),
    REFERENCE_KINDS,
)
REFERENCE_STRENGTH = Field(
    "reference_strength", Number(0, 1), "How closely references are kept.", (), REFERENCE_KINDS
)
VIDEO = Field(
    "video",
    Structure(),
    f"Clip to work on. {CROPPED}",
    ("video_url", "previous_job_id"),
    VIDEO_KINDS,
)
MASK = Field(
    "mask",
    Structure(),
    f"Image over the clip: what is white is made anew, what is black stays. {CROPPED}",
    (),
    frozenset({"edit"}),
)
KEYFRAMES = Field(
    "keyframes",
    Structure(),
    f"Images at frames between first and last, `[{{frame, image_url}}]`. {CROPPED}",
    (),
    frozenset({"text", "image", "first_last_frame"}),
)
EXTEND_BEFORE = Field(
    "extend_before",
    Flag(),
    "New frames lead up to the clip instead of following it.",
    (),
    frozenset({"extend"}),
)
SHOTS = Field(
    "shots",
    Structure(),
    "The shots of a story, in order.",
    ("multi_prompt", "storyboard"),
    frozenset({"story"}),
)
LAST_FRAME_IS_SKETCH = Field(
    "last_frame_is_sketch",
    Flag(),
    "The last frame is a drawing of what it shall show.",
    (),
    frozenset({"first_last_frame", "extend", "edit"}),
)
CONTEXT_FRAMES = Field(
    "context_frames",
    Integer(0, 2),
    "How many frames of what came before the next clip sees; 2 if absent.",
    (),
    frozenset({"extend", "story"}),
)
CONTEXT_GUIDANCE = Field(
    "context_guidance",
    Number(1, 4),
    "How strongly the frames that come before pull, where no references do; 1 is unguided, 1.5 if "
    "absent.",
    (),
    frozenset({"extend", "story"}),
)
RECONSTRUCTION_WEIGHT = Field(
    "reconstruction_weight",
    Number(0, 100),
    "Given frames pull by the gradient of their error, so strongly; not at all if absent.",
    (),
    GIVEN_KINDS,
)
UPSCALE_FACTOR = Field(
    "upscale_factor",
    Integer(2, 8),
    "How many times as wide and high as the clip, or as `size`; one of the model's factors.",
    ("upscaling_scale",),
    FILM_KINDS | {"upscale"},
)
TARGET_FPS = Field(
    "target_fps",
    Integer(1, 1000),
    "Frames per second of the result, above those of the source, or `fps`; range per model.",
    (),
    FILM_KINDS | {"interpolate"},
)
INTERPOLATION_FACTOR = Field(
    "frame_interpolation_factor", Integer(2, 4), "2 to 4.", (), FILM_KINDS | {"interpolate"}
)
INTERPOLATION_EXP = Field(
    "frame_interpolation_exp",
    Integer(1, 2),
    "Factor as a power of two.",
    (),
    FILM_KINDS | {"interpolate"},
)
ENABLE_UPSCALING = Field(
    "enable_upscaling", Flag(), "Upscale afterwards.", (), FILM_KINDS | {"upscale"}
)
ENABLE_INTERPOLATION = Field(
    "enable_frame_interpolation",
    Flag(),
    "Interpolate afterwards.",
    (),
    FILM_KINDS | {"interpolate"},
)

FIELDS: tuple[Field[Any], ...] = (
    PROMPT,
    MODEL,
    TASK_TYPE,
    SECONDS,
    SIZE,
    WIDTH,
    HEIGHT,
    RESOLUTION,
    ASPECT_RATIO,
    NEGATIVE_PROMPT,
    SEED,
    STEPS,
    GUIDANCE,
    FPS,
    NUM_FRAMES,
    SAMPLER,
    QUALITY,
    GUIDANCE_RESCALE,
    GUIDANCE_SCHEDULE,
    ADAPTER,
    ADAPTER_SCALE,
    METADATA,
    USER,
    CALLBACK_URL,
    EXPIRES_AFTER,
    SERVICE_TIER,
    GPU_CLASS,
    COUNT,
    ENHANCE_PROMPT,
    CACHE,
    RETURN_LAST_FRAME,
    EXTRA_PARAMS,
    INPUT_REFERENCE,
    FIRST_FRAME,
    LAST_FRAME,
    LAST_FRAME_STRENGTH,
    FIRST_FRAME_STRENGTH,
    CHARACTERS,
    REFERENCE_IMAGES,
    REFERENCE_STRENGTH,
    VIDEO,
    MASK,
    KEYFRAMES,
    EXTEND_BEFORE,
    SHOTS,
    LAST_FRAME_IS_SKETCH,
    CONTEXT_FRAMES,
    CONTEXT_GUIDANCE,
    RECONSTRUCTION_WEIGHT,
    UPSCALE_FACTOR,
    TARGET_FPS,
    INTERPOLATION_FACTOR,
    INTERPOLATION_EXP,
    ENABLE_UPSCALING,
    ENABLE_INTERPOLATION,
)

MODEL_PARAMS = (SAMPLER,)  # what `extra_params` may hold

HINTS = {
    "tau": "tau is a step count in its paper; use last_frame_strength, the share of steps",
}

BY_NAME = {name: field for field in FIELDS for name in field.names}


def create_schema(taken: tuple[Field[Any], ...] = FIELDS) -> dict[str, Any]:
    """JSON Schema of a create body of these fields, aliases included."""
    properties = {}
    for name, field in BY_NAME.items():
        if field not in taken:
            continue
        about = field.about if name == field.name else f"Alias of `{field.name}`."
        properties[name] = field.type.schema() | {"description": about}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
