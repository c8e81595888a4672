"""The job contract: what crosses from the web side to the workers and back, as frozen JSON.

Statuses, stages and codes are the wire's own words; see the table in ARCHITECTURE.md.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**63 - 1


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
    DECODING = "decoding"
    POST_PROCESSING = "post_processing"
    UPLOADING = "uploading"
    DONE = "done"


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


class VideoRequest(Record):
    """One generation, fully resolved by the web side: defaults filled in, limits checked."""

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
    metadata: dict[str, str] = Field(default_factory=dict)
    user: str | None = None


class Artifact(Record):
    """A stored blob: its key in the artifact store, never a path of the server."""

    key: str
    sha256: str
    size_bytes: int
    media_type: str


class JobResult(Record):
    """What a completed job leaves behind."""

    video: Artifact
    thumbnail: Artifact
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


class Progress(Record):
    """A report from the running attempt."""

    stage: Stage
    step: int
    total: int
    eta_s: float | None


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
