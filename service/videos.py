"""Create, get, cancel and delete videos.

Handlers are plain functions, so that waiting for the queue server never holds the event loop.
"""

import re
from typing import Annotated

import structlog
from fastapi import APIRouter, Header
from fastapi.responses import JSONResponse
from starlette.responses import Response

from service.auth import check_tier
from service.callbacks import check_callback
from service.deps import Body, KnownCaller, Services, Tenant, Wired
from service.errors import Draining, VideoNotCancellable, VideoNotFound
from service.forms import parse_body
from service.inputs import admit
from service.intake import read_order
from service.prefer import patiently
from service.schema import create_body, refusals
from service.values import check_length
from service.wire import (
    PREFIX,
    DeletedVideo,
    Video,
    following,
    to_video,
)
from worker.jobs.artifacts import job_prefix
from worker.jobs.blobs import StorageFault
from worker.jobs.contract import Job
from worker.jobs.outcomes import CancelOutcome, Submission

log = structlog.get_logger(__name__)
router = APIRouter(tags=["videos"])

JOB_ID = re.compile(r"video_[0-9a-f]{32}")
MAX_KEY_CHARS = 255

Prefer = Annotated[
    str | None, Header(description="`wait=n` waits up to n seconds, at most 60, for the end.")
]


@router.post(
    PREFIX,
    operation_id="createVideo",
    summary="Order a video",
    response_model=Video,
    responses=refusals(400, 401, 403, 404, 410, 413, 415, 422, 429, 503),
    openapi_extra=create_body(),
)
def create_video(
    body: Body,
    caller: KnownCaller,
    services: Wired,
    idempotency_key: Annotated[str | None, Header()] = None,
    x_stainless_retry_count: Annotated[str, Header(include_in_schema=False)] = "0",
    prefer: Prefer = None,
) -> Response:
    """Admit a job and answer with it as it stands; a repeated request gets the same job."""
    if services.draining.is_set():
        raise Draining("This server is about to stop; nothing was accepted")
    tree = parse_body(body)
    settings = services.settings
    lenient = settings.unknown_fields == "warn"
    order = read_order(tree, services.cards, settings.default_model, PREFIX, lenient)
    check_tier(order.tier, caller)
    check_length(idempotency_key or "", MAX_KEY_CHARS, "Idempotency-Key")
    callback_url = check_callback(order.callback_url, caller.tenant, services)
    submission = Submission(
        tenant=caller.tenant,
        request=order.request,
        fingerprint=order.fingerprint,
        idempotency_key=f"{PREFIX}\0{idempotency_key}" if idempotency_key else None,
        retry_of_fingerprint=x_stainless_retry_count.strip() not in ("", "0"),
        queue_deadline_s=order.queue_deadline_s,
        callback_url=callback_url,
        tier=order.tier,
    )
    admission = admit(order, submission, services)
    headers = {"Location": f"{PREFIX}/{admission.job.id}"}
    if admission.replayed:
        headers["Idempotency-Replayed"] = "true"
    else:
        services.metrics.count_submission(admission.job)
        log.info("job.submitted", job_id=admission.job.id, tenant=caller.tenant)
    return patiently(admission.job, prefer, services, answer, headers)


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
def cancel_video(video_id: str, tenant: Tenant, services: Wired) -> JSONResponse:
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
def delete_video(video_id: str, tenant: Tenant, services: Wired) -> JSONResponse:
    """Cancel the job if it is active and forget it with its files; repeating is fine for a day."""
    services.store.delete(known_shape(video_id), tenant)
    try:
        services.artifacts.delete_prefix(job_prefix(tenant, video_id))
    except StorageFault as error:  # the job is deleted; the janitor finds what is left of it
        log.warning("storage.failed", job_id=video_id, reason=str(error))
    return JSONResponse(DeletedVideo(id=video_id).model_dump(mode="json"))


def find(video_id: str, tenant: str, services: Services) -> Job:
    """raises JobNotFound, VideoNotFound"""
    return services.store.get(known_shape(video_id), tenant)


def known_shape(video_id: str) -> str:
    """The id, once it looks like one of ours. raises VideoNotFound"""
    if not JOB_ID.fullmatch(video_id):
        raise VideoNotFound(video_id)
    return video_id


def answer(job: Job, services: Services, headers: dict[str, str] | None = None) -> JSONResponse:
    """The Video object, with the headers that pace whoever follows it."""
    video = to_video(services.outlook.seen(job), services.links)
    pace = following(job, services.settings.poll_after_ms)
    return JSONResponse(video.model_dump(mode="json"), headers=pace | (headers or {}))
