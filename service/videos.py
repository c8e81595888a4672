"""Create, get, cancel and delete videos.

Handlers are plain functions, so that waiting for the queue server never holds the event loop.
"""

import re

import structlog
from fastapi import APIRouter
from starlette.responses import Response

from service.deps import Services, Tenant, Wired
from service.errors import VideoNotCancellable, VideoNotFound
from service.orders import Ordering, Prefer, answer, read_body, take_order
from service.prefer import patiently
from service.schema import create_body, refusals
from service.wire import PREFIX, DeletedVideo, Video, written
from worker.jobs.artifacts import job_prefix
from worker.jobs.blobs import StorageFault
from worker.jobs.contract import Job
from worker.jobs.outcomes import CancelOutcome

log = structlog.get_logger(__name__)
router = APIRouter(tags=["videos"])

JOB_ID = re.compile(r"video_[0-9a-f]{32}")


@router.post(
    PREFIX,
    operation_id="createVideo",
    summary="Order a video",
    response_model=Video,
    responses=refusals(400, 401, 403, 404, 410, 413, 415, 422, 429, 503),
    openapi_extra=create_body(),
)
def create_video(call: Ordering) -> Response:
    """Admit a job and answer with it as it stands; a repeated request gets the same job."""
    return take_order(call, PREFIX, lambda tree: read_body(tree, PREFIX, call))


@router.get(
    PREFIX + "/{video_id}",
    operation_id="retrieveVideo",
    summary="Retrieve a video's state",
    response_model=Video,
    responses=refusals(401, 404, 503),
)
def retrieve_video(
    video_id: str, tenant: Tenant, services: Wired, prefer: Prefer = None
) -> Response:
    """The job as it stands; a failed one is an answer like any other."""
    return patiently(find(video_id, tenant, services), prefer, services, answer, {})


@router.post(
    PREFIX + "/{video_id}/cancel",
    operation_id="cancelVideo",
    summary="Cancel a video",
    response_model=Video,
    responses=refusals(401, 404, 409, 503),
)
def cancel_video(video_id: str, tenant: Tenant, services: Wired) -> Response:
    """Stop one job: at once if it waits, at its next step if it runs."""
    outcome = services.store.cancel(known_shape(video_id), tenant)
    job = services.store.get(video_id, tenant)
    if outcome is CancelOutcome.TERMINAL:
        raise VideoNotCancellable(f"Video {video_id} is {job.status.value} and cannot be cancelled")
    return answer(job, services)


@router.delete(
    PREFIX + "/{video_id}",
    operation_id="deleteVideo",
    summary="Delete a video",
    response_model=DeletedVideo,
    responses=refusals(401, 404, 503),
)
def delete_video(video_id: str, tenant: Tenant, services: Wired) -> Response:
    """Cancel the job if it is active and forget it with its files; repeating is fine for a day."""
    services.store.delete(known_shape(video_id), tenant)
    try:
        services.artifacts.delete_prefix(job_prefix(tenant, video_id))
    except StorageFault as error:  # the job is deleted; the janitor finds what is left of it
        log.warning("storage.failed", job_id=video_id, tenant=tenant, reason=str(error))
    return written(DeletedVideo(id=video_id))


def find(video_id: str, tenant: str, services: Services) -> Job:
    """raises JobNotFound, VideoNotFound"""
    return services.store.get(known_shape(video_id), tenant)


def known_shape(video_id: str) -> str:
    """The id, once it looks like one of ours. raises VideoNotFound"""
    if not JOB_ID.fullmatch(video_id):
        raise VideoNotFound(video_id)
    return video_id
