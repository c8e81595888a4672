"""Requests whose film was made before, or is being made: one run serves them all.

Only within a tenant, and only of films that must be equal: the same resolved request, seed and
inputs by content, on the same weights. A random seed is drawn anew for each request, so only
given seeds ever meet.
"""

import hashlib
import json
from dataclasses import replace
from typing import Any

import structlog

from service import fields
from service.deps import Services
from service.intake import Order
from worker.jobs.contract import VideoRequest
from worker.jobs.inputs import new_job_id
from worker.jobs.outcomes import Admission, Made, StoreError, Submission
from worker.jobs.sharing import Sharing

log = structlog.get_logger(__name__)

# What a request says beside what its film is to be.
LABELS = {"metadata", "user", "remixed_from_video_id", "source_video_id"}


def submit(submission: Submission, order: Order, services: Services) -> Admission:
    """Submit, with a copy of what an equal request has made if there is one. raises StoreError"""
    weights = read_weights(submission.request, order, services)
    if weights is None:
        return services.store.submit(submission)
    share = read_share(submission.request, weights)
    shared = replace(submission, share=share, job_id=submission.job_id or new_job_id())
    sharing = Sharing(services.store, services.artifacts)
    made = find_made(shared, weights, sharing)
    if made is None:
        return services.store.submit(shared)
    return submit_made(shared, made, services, sharing)


def read_weights(request: VideoRequest, order: Order, services: Services) -> str | None:
    """What the film will be made with; None where no film may be shared.

    Adapters are files beside the weights that the digest does not cover.
    """
    wanted = order.wishes.get(fields.CACHE) is not False and request.adapter is None
    if not (services.settings.result_cache and wanted):
        return None
    return services.outlook.weights(request.model)


def read_share(request: VideoRequest, weights: str) -> str:
    """Digest of the film to be: equal for requests that differ in labels and keys of inputs."""
    asked = without_keys(request.model_dump(mode="json", exclude=LABELS))
    text = json.dumps([asked, weights], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def without_keys(value: Any) -> Any:
    """The same without storage keys: the digest beside each says what lies there."""
    if isinstance(value, dict):
        return {name: without_keys(item) for name, item in value.items() if name != "key"}
    return [without_keys(item) for item in value] if isinstance(value, list) else value


def find_made(submission: Submission, weights: str, sharing: Sharing) -> Made | None:
    """A copy for this job, or None if there is none to be had now."""
    found = sharing.find(submission.tenant, submission.share, weights)
    if found is None or submission.job_id is None:
        return None
    try:
        return sharing.copy(found, submission.job_id)
    except OSError as error:  # deleted meanwhile, or the store is away: it is made anew
        facts = {"job_id": found.id, "tenant": found.tenant}
        log.info("copy.failed", error=type(error).__name__, **facts)
        return None


def submit_made(
    submission: Submission, made: Made, services: Services, sharing: Sharing
) -> Admission:
    """Submit a job that has ended already; its copy goes if a repeat finds another job."""
    job_id = submission.job_id or ""
    try:
        admission = services.store.submit(replace(submission, made=made))
    except StoreError:  # after any other fault nobody knows; the janitor clears what no row names
        sharing.drop(made, submission.tenant, job_id)
        raise
    if admission.job.id != job_id:
        sharing.drop(made, submission.tenant, job_id)
    return admission
