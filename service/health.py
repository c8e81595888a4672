"""Is the process up, can it serve, and what does it count. No key, no `/v1`."""

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.capabilities import is_up
from service.deps import Services, Wired
from service.errors import Draining, NotReady, QueueFull
from service.schema import binary, refusals
from service.wire import Shape
from worker.jobs.pause import Pause

router = APIRouter(tags=["operations"])


class Alive(Shape):
    """The process answers; says nothing about anything else."""

    status: Literal["ok"] = "ok"


class Ready(Shape):
    """Jobs can be taken now, and run unless a person has paused that."""

    status: Literal["ready"] = "ready"
    workers: int
    paused: bool = False  # by an operator: jobs are accepted, and none is begun


@router.get("/healthz", operation_id="getHealth", summary="Liveness", response_model=Alive)
@router.get("/health", include_in_schema=False, response_model=Alive)
async def get_health() -> JSONResponse:
    """Asks nobody, so it answers while the queue server is away and every thread waits."""
    return JSONResponse(Alive().model_dump())


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Readiness",
    response_model=Ready,
    responses=refusals(503),
)
def get_readiness(services: Wired) -> JSONResponse:
    """Whether the queue server answers, a worker takes jobs, nothing drains, and another job would
    be taken."""
    if services.draining.is_set():
        raise Draining("This server is about to stop")
    workers = services.store.workers()
    up = [worker for worker in workers if is_up(worker) and worker.models]
    if not up and any(worker.state == "draining" for worker in workers):
        raise Draining("Every worker is about to stop")
    if not up:
        raise NotReady("No worker is ready")
    check_depth({model for worker in up for model in worker.models}, services)
    paused = Pause(services.store.redis).everything()
    return JSONResponse(Ready(workers=len(up), paused=paused).model_dump())


def check_depth(models: set[str], services: Services) -> None:
    """raises QueueFull while every one of these models has as many jobs waiting as is healthy"""
    limit = services.settings.unready_depth or services.settings.max_queue_depth
    if all(services.store.depth(model) >= limit for model in models):
        raise QueueFull(f"{limit} jobs or more wait for every model")


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Text exposition.", "content": binary("text/plain")}},
)
def get_metrics(services: Wired) -> Response:
    """What this process counted, and what the store knows now."""
    return Response(services.metrics.render(), media_type=CONTENT_TYPE_LATEST)
