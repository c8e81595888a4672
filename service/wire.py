"""Jobs as clients see them: OpenAI's Video object with our extras, and pages of it.

Provenance is in the resolved values, never only in what was asked. No path of the server leaves.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from service.links import Links
from worker.jobs.contract import TERMINAL, Job, Stage, Status, Tier, VideoRequest

PREFIX = "/v1/videos"
POLL_SHARE = 0.1  # of a job's run between two questions: a twentieth of it is lost on average
MAX_POLL_MS = 10_000
AFTER_SHOTS = frozenset({Stage.POST_PROCESSING, Stage.UPLOADING})


class Shape(BaseModel):
    """Base of every answer: what has a default is always sent, and documented so."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class VideoError(Shape):
    """Why a video failed."""

    code: str
    message: str


class VideoMetrics(Shape):
    """What a finished video took."""

    queue_wait_s: float | None
    inference_time_s: float | None
    peak_memory_mb: float | None


class VideoShot(Shape):
    """One shot of a story."""

    index: int
    status: Status
    progress: int  # 0..100
    prompt: str
    seconds: str
    seed: int
    transition: str


class Video(Shape):
    """OpenAI's 13 keys, always present, then ours. Times are Unix seconds."""

    id: str
    object: Literal["video"] = "video"
    created_at: int
    completed_at: int | None
    expires_at: int | None
    status: Status
    progress: int
    model: str
    prompt: str
    seconds: str
    size: str
    error: VideoError | None
    remixed_from_video_id: str | None

    task_type: str
    stage: str
    started_at: int | None
    queue_position: int | None
    eta_seconds: float | None
    attempt: int
    cancel_requested: bool
    negative_prompt: str
    seed: int
    fps: int
    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    quality: str | None
    guidance_rescale: float
    guidance_schedule: str
    context_frames: int | None
    context_guidance: float | None
    reconstruction_weight: float | None
    adapter: str | None
    adapter_scale: float | None
    last_frame_is_sketch: bool
    first_frame_strength: float | None
    last_frame_strength: float | None
    reference_strength: float | None
    upscale_factor: int | None
    source_video_id: str | None
    shots: list[VideoShot]
    metadata: dict[str, str]
    user: str | None
    service_tier: Tier
    gpu_class: str | None  # the class that it was asked for or found to need
    cached: bool
    url: str | None
    thumbnail_url: str | None
    spritesheet_url: str | None
    last_frame_url: str | None
    metrics: VideoMetrics
    model_sha256: str | None
    content_sha256: str | None
    warnings: list[str]


class VideoPage(Shape):
    """A slice of a tenant's videos; ask `after=<last_id>` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(Shape):
    """The receipt of a deletion."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def written(body: BaseModel, headers: Mapping[str, str] | None = None) -> Response:
    """The body as JSON. Pydantic writes it at once, without a dictionary in between."""
    return Response(body.model_dump_json(), headers=headers, media_type="application/json")


def to_video(job: Job, links: Links) -> Video:
    """The job as its owner sees it, with links that need no key."""
    request = job.request
    result = job.result
    return Video(
        id=job.id,
        created_at=int(job.created_at),
        completed_at=whole(job.completed_at),
        expires_at=whole(job.expires_at),
        status=job.status,
        progress=job.progress,
        model=request.model,
        prompt=request.prompt,
        seconds=f"{request.num_frames / request.fps:.6g}",
        size=f"{request.width}x{request.height}",
        error=job.error and VideoError(code=job.error.code, message=job.error.message),
        remixed_from_video_id=request.remixed_from_video_id,
        task_type=request.task_type,
        stage=job.stage,
        started_at=whole(job.started_at),
        queue_position=job.queue_position,
        eta_seconds=job.eta_s,
        attempt=job.attempt,
        cancel_requested=job.cancel_requested,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        fps=request.fps,
        num_frames=request.num_frames,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        quality=request.quality,
        guidance_rescale=request.guidance_rescale,
        guidance_schedule=request.guidance_schedule,
        reconstruction_weight=request.reconstruction_weight,
        adapter=request.adapter,
        adapter_scale=request.adapter_scale if request.adapter else None,
        last_frame_is_sketch=request.last_frame_is_sketch,
        **to_inputs(request),
        shots=to_shots(job),
        metadata=request.metadata,
        user=request.user,
        service_tier=job.tier,
        gpu_class=job.gpu_class or None,
        cached=job.cached,
        url=to_link(job, "video", links),
        thumbnail_url=to_link(job, "thumbnail", links),
        spritesheet_url=to_link(job, "spritesheet", links),
        last_frame_url=to_link(job, "last_frame", links),
        metrics=to_metrics(job),
        model_sha256=result and result.model_sha256,
        content_sha256=result and result.video.sha256,
        warnings=list(job.warnings),
    )


def to_inputs(request: VideoRequest) -> dict[str, Any]:
    """What was given besides words; a strength is null where there is nothing that it weighs."""
    shots = request.shots
    first = request.first_frame or any(shot.first_frame for shot in shots)
    last = request.last_frame or any(shot.last_frame for shot in shots)
    references = request.reference_images or any(shot.reference_images for shot in shots)
    continued = request.task_type in ("extend", "story")
    return {
        "context_frames": request.context_frames if continued else None,
        "context_guidance": request.context_guidance if continued else None,
        "first_frame_strength": request.first_frame_strength if first else None,
        "last_frame_strength": request.last_frame_strength if last else None,
        "reference_strength": request.reference_strength if references else None,
        "upscale_factor": request.upscale_factor,
        "source_video_id": request.source_video_id,
    }


def to_shots(job: Job) -> list[VideoShot]:
    """The shots of a story, and how far each is."""
    return [
        VideoShot(
            index=index,
            status=status,
            progress=progress,
            prompt=shot.prompt,
            seconds=f"{shot.num_frames / job.request.fps:.6g}",
            seed=shot.seed,
            transition=shot.transition,
        )
        for index, shot in enumerate(job.request.shots)
        for status, progress in [shot_progress(job, index)]
    ]


def shot_progress(job: Job, index: int) -> tuple[Status, int]:
    """Status and percentage of one shot; of a failed job, those that were made stay completed."""
    made = job.status is Status.COMPLETED or index < job.shot or job.stage in AFTER_SHOTS
    if made and job.status is not Status.QUEUED and job.started_at is not None:
        return Status.COMPLETED, 100
    percent = min(int(100 * job.shot_done), 99) if index == job.shot else 0
    if job.status is Status.FAILED:
        return Status.FAILED, percent
    running = job.status is Status.IN_PROGRESS and index == job.shot
    return (Status.IN_PROGRESS, percent) if running else (Status.QUEUED, 0)


def to_metrics(job: Job) -> VideoMetrics:
    """Waits and run time so far as they are over; the run is that of the successful attempt."""
    waited = None if job.started_at is None else round(job.started_at - job.created_at, 3)
    result = job.result
    return VideoMetrics(
        queue_wait_s=waited,
        inference_time_s=result and round(sum(result.stage_seconds.values()), 3),
        peak_memory_mb=result and result.peak_memory_mb,
    )


def to_link(job: Job, variant: str, links: Links) -> str | None:
    """A link to a variant, if it can be had now."""
    if not has_content(job) or getattr(job.result, variant) is None:
        return None
    return links.write(content_path(job.id), variant, job.expires_at)


def content_path(video_id: str) -> str:
    """Where a video's content is served."""
    return f"{PREFIX}/{video_id}/content"


def to_page(jobs: Sequence[Job], has_more: bool, links: Links) -> VideoPage:
    """One page, in the order given."""
    return VideoPage(
        data=[to_video(job, links) for job in jobs],
        first_id=jobs[0].id if jobs else None,
        last_id=jobs[-1].id if jobs else None,
        has_more=has_more,
    )


def has_content(job: Job) -> bool:
    """Whether the job's files can be had now."""
    return job.status is Status.COMPLETED and job.result is not None and not is_expired(job)


def is_expired(job: Job) -> bool:
    """Whether the content's time is over."""
    return job.expires_at is not None and job.expires_at <= time.time()


def following(job: Job, poll_after_ms: int) -> dict[str, str]:
    """Headers that pace a client which follows the job, the same for its whole life.

    poll_after_ms  the least; a longer job is asked after less often
    """
    wait_ms = poll_after_ms
    if job.cost_s is not None:
        wait_ms = max(poll_after_ms, min(round(POLL_SHARE * 1000 * job.cost_s), MAX_POLL_MS))
    headers = {"openai-poll-after-ms": str(wait_ms)}
    if job.status not in TERMINAL:
        headers["Retry-After"] = str(max(1, -(-wait_ms // 1000)))
    return headers


def whole(moment: float | None) -> int | None:
    """A moment in whole seconds, as OpenAI writes it."""
    return None if moment is None else int(moment)
