"""What handlers are given: the wired services, the caller and its tenant, the body."""

import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import UploadFile

from service.auth import Gate
from service.decoder import Decoders
from service.follow import Hub
from service.forms import BodyLimits, RawBody, read_body
from service.links import Links
from service.metrics import Metrics
from service.outlook import Outlook
from service.settings import ServiceSettings
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.callers import Caller
from worker.jobs.catalog import ModelCard
from worker.jobs.characters import CharacterShelf
from worker.jobs.files import FileShelf
from worker.jobs.inputs import InputShelf
from worker.jobs.outbound import Outbound
from worker.jobs.outbox import Outbox
from worker.jobs.outcomes import RateLimited
from worker.jobs.receipts import Receipts
from worker.jobs.store import JobStore
from worker.jobs.tracing import Span, Tracing

bearer = HTTPBearer(auto_error=False, description="API key; none if the server has none.")


@dataclass(frozen=True)
class Services:
    """Everything a handler may use; one per application."""

    settings: ServiceSettings
    cards: Mapping[str, ModelCard]
    gate: Gate
    store: JobStore
    artifacts: ArtifactStore
    links: Links
    files: FileShelf
    inputs: InputShelf
    characters: CharacterShelf
    receipts: Receipts
    decoders: Decoders
    outbound: Outbound
    outbox: Outbox
    metrics: Metrics
    outlook: Outlook
    hub: Hub
    tracing: Tracing
    draining: threading.Event  # set once the process is to leave


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(get_services)]


def get_caller(
    request: Request,
    services: Wired,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """Whom the request comes from; the envelope sends `request.state.quota`.

    raises InvalidApiKey, RateLimited
    """
    try:
        caller = services.gate.admit(credentials.credentials if credentials else None)
    except RateLimited as error:
        request.state.quota = error.quota
        raise
    request.state.quota = caller.quota
    return caller


KnownCaller = Annotated[Caller, Depends(get_caller)]


async def get_tenant(caller: KnownCaller) -> str:
    """All that most handlers need to know of the caller."""
    return caller.tenant


Tenant = Annotated[str, Depends(get_tenant)]


async def get_span(request: Request) -> Span:
    """The call's own span, as the envelope began it."""
    span: Span = request.state.span
    return span


CallSpan = Annotated[Span, Depends(get_span)]


async def get_body(request: Request, services: Wired, tenant: Tenant) -> AsyncIterator[RawBody]:
    """The raw body, read only for known callers; uploads are closed when the answer is made."""
    settings = services.settings
    limits = BodyLimits(
        body_bytes=settings.max_body_bytes,
        form_bytes=settings.max_upload_bytes,
        part_bytes=settings.max_part_bytes,
        files=settings.max_form_files,
        fields=settings.max_form_fields,
    )
    body = await read_body(request, limits)
    try:
        yield body
    finally:
        for _, leaf in body.form or ():
            if isinstance(leaf, UploadFile):
                await leaf.close()


Body = Annotated[RawBody, Depends(get_body)]
