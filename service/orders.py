"""How every route that orders a job does it: one way from a body to the answer about a job."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Header
from starlette.responses import Response

from service.auth import check_tier
from service.budget import check_class
from service.callbacks import check_callback
from service.characters import finder
from service.deps import Body, CallSpan, KnownCaller, Services, Wired
from service.errors import Draining
from service.forms import RawBody, Tree, parse_body
from service.inputs import admit
from service.intake import Draft, Order, read_draft
from service.prefer import patiently
from service.repeats import MAX_KEY_CHARS, IdempotencyKey
from service.values import check_length
from service.wire import PREFIX, following, to_video, written
from worker.jobs.callers import Caller
from worker.jobs.contract import Job
from worker.jobs.outcomes import Admission, Mark, Submission
from worker.jobs.tracing import Span

log = structlog.get_logger(__name__)

Prefer = Annotated[
    str | None, Header(description="`wait=n` waits up to n seconds, at most 60, for the end.")
]


@dataclass(frozen=True)
class Call:
    """A call that orders a job: its body, whom it comes from, how it may be repeated."""

    body: RawBody
    caller: Caller
    services: Services
    idempotency_key: str | None
    is_retry: bool  # as the SDK says
    prefer: str | None
    span: Span


async def read_call(
    body: Body,
    caller: KnownCaller,
    services: Wired,
    span: CallSpan,
    idempotency_key: IdempotencyKey = None,
    x_stainless_retry_count: Annotated[str, Header(include_in_schema=False)] = "0",
    prefer: Prefer = None,
) -> Call:
    """What the framework knows of the call."""
    is_retry = x_stainless_retry_count.strip() not in ("", "0")
    return Call(body, caller, services, idempotency_key, is_retry, prefer, span)


Ordering = Annotated[Call, Depends(read_call)]


def take_order(call: Call, path: str, read: Callable[[Tree], Draft]) -> Response:
    """Admit a job and answer with it as it stands; a repeated call gets the same job.

    path    of the call: idempotency keys count for one path
    read    the body to the draft of an order
    raises  ApiError, StoreError
    """
    services, caller = call.services, call.caller
    if services.draining.is_set():
        raise Draining("This server is about to stop; nothing was accepted")
    draft = read(parse_body(call.body))
    check_length(call.idempotency_key or "", MAX_KEY_CHARS, "Idempotency-Key")
    mark = Mark(
        tenant=caller.tenant,
        fingerprint=draft.fingerprint,
        idempotency_key=f"{path}\0{call.idempotency_key}" if call.idempotency_key else None,
        retry_of_fingerprint=call.is_retry,
    )
    # A repeated call is answered before anything is looked at twice: inputs least of all.
    admission = services.store.recall(mark) or place(mark, draft.complete(), call)
    call.span.note({"praxino.job_id": admission.job.id, "praxino.tenant": caller.tenant})
    headers = {"Location": f"{PREFIX}/{admission.job.id}"}
    if admission.replayed:
        headers["Idempotency-Replayed"] = "true"
    else:
        services.metrics.count_submission(admission.job)
        log.info("job.submitted", job_id=admission.job.id, tenant=caller.tenant)
    return patiently(admission.job, call.prefer, services, answer, headers)


def place(mark: Mark, order: Order, call: Call) -> Admission:
    """Admit what no earlier call has ordered. raises ApiError, StoreError"""
    check_tier(order.tier, call.caller)
    check_class(order.gpu_class, call.services.settings.gpu_classes)
    submission = Submission(
        **vars(mark),
        request=order.request,
        callback_url=check_callback(order.callback_url, mark.tenant, call.services),
        queue_deadline_s=order.queue_deadline_s,
        tier=order.tier,
        gpu_class=order.gpu_class,
        traceparent=call.span.traceparent,
    )
    return admit(order, submission, call.services)


def read_body(tree: Tree, path: str, call: Call) -> Draft:
    """The order that a body describes by itself. raises ApiError of status 400"""
    settings, cards = call.services.settings, call.services.cards
    lenient = settings.unknown_fields == "warn"
    find = finder(call.caller.tenant, call.services)
    return read_draft(tree, cards, settings.default_model, path, lenient, find)


def answer(job: Job, services: Services, headers: dict[str, str] | None = None) -> Response:
    """The Video object, with the headers that pace whoever follows it."""
    video = to_video(services.outlook.seen(job), services.links)
    pace = following(job, services.settings.poll_after_ms)
    return written(video, pace | (headers or {}))
