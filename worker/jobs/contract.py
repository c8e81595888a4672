"""The job contract: what crosses from the web side to the workers and back, as frozen JSON.

Statuses, stages and codes are the wire's own words; see the table in ARCHITECTURE.md.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1
MAX_REFERENCES = 7  # of a job, and of a shot; a model's card may allow fewer
MAX_SHOTS = 16
MAX_STORY_CHARS = 64_000  # of all prompts of a story: a job must fit into one message


class Status(StrEnum):
    """The four statuses of the wire; nothing else ever reaches a client."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED})


class Stage(StrEnum):
    """What a job is doing right now, finer than its status."""

    QUEUED = "queued"
    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    INTERPOLATING = "interpolating"
    DECODING = "decoding"
    UPSCALING = "upscaling"
    POST_PROCESSING = "post_processing"
    UPLOADING = "uploading"
    DONE = "done"


class Tier(StrEnum):
    """The queues of a model, the one that is served first first."""

    PRIORITY = "priority"
    DEFAULT = "default"
    FLEX = "flex"


class ErrorCode(StrEnum):
    """Why a job failed."""

    MODERATION_BLOCKED = "moderation_blocked"
    INVALID_INPUT_MEDIA = "invalid_input_media"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    INTERNAL_ERROR = "internal_error"


class Record(BaseModel):
    """Base of everything stored or sent: frozen, strict about unknown fields, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Artifact(Record):
    """A stored blob: its key in the artifact store, never a path of the server."""

    key: str
    sha256: str
    size_bytes: int
    media_type: str


Share = Annotated[float, Field(ge=0, le=1)]
GuidanceSchedule = Literal["constant", "oscillating", "linear"]
ReferenceType = Literal["subject", "style", "scene"]
Transition = Literal["cut", "continue"]


class StoredImage(Record):
    """A picture as the job will see it: PNG, upright, sRGB, nothing but pixels.

    A given frame has exactly the size of the film at that point; a reference has its own size,
    and may have alpha.
    """

    artifact: Artifact
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class StoredReference(Record):
    """A picture of what the film shall show."""

    image: StoredImage
    name: str | None = None  # what prompts call it, after an @
    reference_type: ReferenceType = "subject"
    strength: Share = 1.0


class StoredKeyframe(Record):
    """A picture that a clip shows at one of its frames, counted from 0."""

    frame: Annotated[int, Field(ge=0)]
    image: StoredImage


class StoredVideo(Record):
    """A clip as the job will see it: MP4 with lossless RGB frames, evenly spaced, no sound."""

    artifact: Artifact
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    num_frames: Annotated[int, Field(gt=0)]
    fps: Annotated[int, Field(gt=0)]


class StoryShot(Record):
    """One shot of a story; what it leaves open is the request's."""

    prompt: str
    num_frames: Annotated[int, Field(gt=0)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    negative_prompt: str = ""
    first_frame: StoredImage | None = None
    last_frame: StoredImage | None = None
    reference_images: tuple[StoredReference, ...] = ()
    transition: Transition = "continue"  # from the shot before


class VideoRequest(Record):
    """One generation, fully resolved by the web side: defaults filled in, limits checked.

    Width, height, frames and rate are the result's, whatever the kind of job: an extension counts
    the frames of its source, an upscaled clip has its new size. Inputs are prepared and stored.
    """

    model: str
    task_type: str
    prompt: str
    negative_prompt: str = ""
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    num_frames: Annotated[int, Field(gt=0)]
    fps: Annotated[int, Field(gt=0)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    num_inference_steps: Annotated[int, Field(gt=0)]
    guidance_scale: Annotated[float, Field(ge=1)]
    sampler: str
    first_frame: StoredImage | None = None
    last_frame: StoredImage | None = None
    first_frame_strength: Share = 1.0
    last_frame_strength: Share = 1.0  # share of denoising steps, from the noisiest, that see it
    reference_images: tuple[StoredReference, ...] = ()
    reference_strength: Share = 1.0
    video: StoredVideo | None = None  # the clip to extend, edit, interpolate or upscale
    mask: StoredImage | None = None  # over the clip to edit: white is made anew
    keyframes: tuple[StoredKeyframe, ...] = ()
    source_video_id: str | None = None  # the job that made that clip
    remixed_from_video_id: str | None = None  # the job whose request this was, but for its prompt
    extend_before: bool = False  # new frames lead up to the clip instead of following it
    shots: tuple[StoryShot, ...] = ()
    upscale_factor: Annotated[int, Field(gt=1)] | None = None
    target_fps: Annotated[int, Field(gt=0)] | None = None
    last_frame_is_sketch: bool = False  # a drawing of what the last frame shall show
    quality: str | None = None  # one of the model's, if it has any
    guidance_rescale: Share = 0.0
    guidance_schedule: GuidanceSchedule = "constant"
    context_frames: Annotated[int, Field(ge=0, le=2)] = 2  # of what came before, as seen by
    context_guidance: Annotated[float, Field(ge=1, le=4)] = 1.5  # what continues it
    reconstruction_weight: Annotated[float, Field(ge=0, le=100)] | None = None
    adapter: str | None = None  # one of the model's personal subjects
    adapter_scale: Annotated[float, Field(ge=0, le=2)] = 1.0  # 0 is the model without it
    return_last_frame: bool = False  # also keep the last frame as a picture
    metadata: dict[str, str] = Field(default_factory=dict)
    user: str | None = None


class JobResult(Record):
    """What a completed job leaves behind."""

    video: Artifact
    thumbnail: Artifact
    spritesheet: Artifact | None = None  # stills of the whole film in one picture
    last_frame: Artifact | None = None  # if asked for
    sidecar: Artifact  # JSON provenance: request, seed, model hash, versions, stage timings
    model_sha256: str
    stage_seconds: dict[str, float]  # wall seconds per stage of the successful attempt
    peak_memory_mb: float


class JobError(Record):
    """Why a job failed, in a sentence safe to show to its owner."""

    code: ErrorCode
    message: str


class Attempt(Record):
    """One finished attempt that did not end the job, as kept in the job's history."""

    number: int
    exec: str
    worker: str
    ended_at: float  # Unix seconds
    reason: str


class Checkpoint(Record):
    """What an attempt has made so far, stored: the next one goes on from it."""

    artifact: Artifact
    steps: int  # denoising steps that need not be made again


class Progress(Record):
    """A report from the running attempt."""

    stage: Stage
    step: int
    total: int
    eta_s: float | None
    shot: int = 0  # of a story, the one that is being made
    shot_done: Share = 0.0  # of that shot


class Job(Record):
    """A job row as read from the store. Times are Unix seconds by the queue server's clock."""

    id: str
    tenant: str
    request: VideoRequest
    status: Status
    stage: Stage
    step: int
    total: int
    progress: int  # 0..100, never falls, 100 only when completed
    eta_s: float | None
    queue_position: int | None  # 1 is next; None unless queued
    attempt: int  # 0 until the first claim
    retries_left: int
    cancel_requested: bool
    worker: str | None
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None  # content is gone after it
    attempts: tuple[Attempt, ...]
    result: JobResult | None
    error: JobError | None
    reported_at: float | None = None  # when `eta_s` was said
    cost_s: float | None = None  # run time as estimated at admission; never changes
    warnings: tuple[str, ...] = ()  # what was ignored of the request
    shot: int = 0  # of a story, the one that is being made
    shot_done: Share = 0.0  # of that shot
    tier: Tier = Tier.DEFAULT  # the queue that it waits in
    gpu_class: str = ""  # of the workers that may make it; "": any
    cached: bool = False  # another job makes or made its film, and it gets a copy
    traceparent: str = ""  # of the call that ordered it, for spans below that; "": not traced
