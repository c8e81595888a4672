"""Pages of a caller's videos, filtered."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.deps import Tenant, Wired
from service.errors import InvalidValue, show
from service.fields import METADATA
from service.schema import refusals
from service.wire import PREFIX, VideoPage, to_page, written
from worker.jobs.catalog import TASKS
from worker.jobs.contract import Status
from worker.jobs.outcomes import JobNotFound

router = APIRouter(tags=["videos"])

BRACKETED = re.compile(r"metadata\[(.+)\]", re.DOTALL)
TASK_TYPES = {"enum": list(TASKS)}

METADATA_PARAMETER: dict[str, Any] = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Pairs that a video must have, as `metadata[key]=value`.",
    "schema": METADATA.type.schema(),
}


@router.get(
    PREFIX,
    operation_id="listVideos",
    summary="List videos",
    response_model=VideoPage,
    responses=refusals(400, 401, 503),
    openapi_extra={"parameters": [METADATA_PARAMETER]},
)
def list_videos(
    request: Request,
    tenant: Tenant,
    services: Wired,
    after: Annotated[str | None, Query(description="Id that the page follows.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation time.")] = "desc",
    status: Annotated[Status | None, Query()] = None,
    task_type: Annotated[str | None, Query(json_schema_extra=TASK_TYPES)] = None,
    model: Annotated[str | None, Query()] = None,
) -> Response:
    """One page of the caller's own videos; filters are joined by "and"."""
    if task_type is not None and task_type not in TASKS:
        wanted = f"one of {', '.join(TASKS)}"
        raise InvalidValue(f"task_type: must be {wanted}; got {show(task_type)}", "task_type")
    try:
        page = services.store.list(
            tenant,
            after=after,
            limit=limit,
            descending=order == "desc",
            status=status,
            model=model,
            task_type=task_type,
            metadata=read_metadata(request),
        )
    except JobNotFound as error:
        raise InvalidValue(
            f"after: must be the id of a video; got {show(after)}", "after"
        ) from error
    jobs = [services.outlook.seen(job) for job in page.jobs]
    listed = to_page(jobs, page.has_more, services.links)
    return written(listed)


def read_metadata(request: Request) -> dict[str, str]:
    """The pairs asked for by `metadata[key]=value`. raises InvalidValue"""
    pairs: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith("metadata"):
            continue
        match = BRACKETED.fullmatch(name)
        if match is None:
            raise InvalidValue(f"{name}: must be metadata[key]; got {show(name)}", "metadata")
        if pairs.setdefault(match[1], value) != value:
            raise InvalidValue(f"{name}: is given twice, and differs; got {show(value)}", name)
    return METADATA.type.read(pairs, "metadata")
