"""What handlers are given: the wired services, the caller's tenant, the body."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import UploadFile

from service.auth import KeyRing
from service.forms import BodyLimits, RawBody, read_body
from service.metrics import Metrics
from service.settings import ServiceSettings
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.catalog import ModelCard
from worker.jobs.store import JobStore

bearer = HTTPBearer(auto_error=False, description="API key; none if the server has none.")


@dataclass(frozen=True)
class Services:
    """Everything a handler may use; one per application."""

    settings: ServiceSettings
    cards: Mapping[str, ModelCard]
    keys: KeyRing
    store: JobStore
    artifacts: ArtifactStore
    metrics: Metrics


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Wired = Annotated[Services, Depends(get_services)]


async def get_tenant(
    services: Wired,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str:
    """raises InvalidApiKey"""
    return services.keys.tenant_of(credentials.credentials if credentials else None)


Tenant = Annotated[str, Depends(get_tenant)]


async def get_body(request: Request, services: Wired, tenant: Tenant) -> AsyncIterator[RawBody]:
    """The raw body, read only for known callers; uploads are closed when the answer is made."""
    settings = services.settings
    limits = BodyLimits(
        body_bytes=settings.max_body_bytes,
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
