"""The API process, wired. Nothing here decides anything."""

import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service import (
    capabilities,
    characters,
    content,
    events,
    files,
    health,
    listing,
    remakes,
    videos,
)
from service.auth import Gate, read_keys
from service.decoder import Decoders
from service.deps import Services
from service.errors import ApiError, answer_error
from service.follow import Hub
from service.headers import Envelope
from service.links import Links
from service.metrics import Metrics
from service.outlook import Outlook
from service.settings import ServiceSettings
from worker.jobs.artifacts import open_store
from worker.jobs.blobs import StorageFault
from worker.jobs.callers import CallerBook
from worker.jobs.catalog import ModelCard, read_offer
from worker.jobs.characters import CharacterShelf
from worker.jobs.connection import web_client
from worker.jobs.files import FileShelf
from worker.jobs.inputs import InputShelf
from worker.jobs.outbound import Outbound
from worker.jobs.outbox import Outbox
from worker.jobs.outcomes import StoreError
from worker.jobs.receipts import Receipts
from worker.jobs.store import JobStore
from worker.jobs.tracing import open_tracing


def create_app(settings: ServiceSettings, cards: Mapping[str, ModelCard] | None = None) -> FastAPI:
    """The application. Connects to nothing before the first request.

    cards   models on offer by id; None reads the catalog
    raises  ValueError if the default model is not on offer
    """
    services = wire(settings, read_offer(settings.data_dir) if cards is None else cards)
    app = FastAPI(
        title="Praxino",
        description="Video generation behind the OpenAI Videos contract, extended.",
        version=version("praxino"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=close_at_end,
    )
    app.state.services = services
    static = (capabilities, characters, remakes)  # before paths with an id in the same place
    parts = (*static, videos, events, listing, content, files, health)
    for part in parts:
        app.include_router(part.router)
    app.state.routes = tuple(route for part in parts for route in part.router.routes)
    for kind in (
        StorageFault,
        ApiError,
        HTTPException,
        RequestValidationError,
        RedisError,
        StoreError,
    ):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(Envelope, metrics=services.metrics, tracing=services.tracing)
    return app


def wire(settings: ServiceSettings, cards: Mapping[str, ModelCard]) -> Services:
    if settings.default_model not in cards:
        raise ValueError(
            f"default_model {settings.default_model!r} is none of {', '.join(sorted(cards))}"
        )
    store = JobStore(web_client(settings.redis_url.get_secret_value()), settings)
    outbox = Outbox(store.redis, settings)
    artifacts = open_store(settings)
    return Services(
        settings=settings,
        cards=cards,
        gate=Gate(
            ring=read_keys(settings.api_keys),
            book=CallerBook(store.redis),
            open=not settings.needs_key,
            default_rate=settings.requests_per_minute,
        ),
        store=store,
        artifacts=artifacts,
        links=Links(store.redis, settings.public_url, settings.link_ttl_s),
        files=FileShelf(store.redis, artifacts),
        inputs=InputShelf(store.redis, artifacts),
        characters=CharacterShelf(store.redis, artifacts),
        receipts=Receipts(store.redis),
        decoders=Decoders(settings),
        outbound=Outbound(settings),
        outbox=outbox,
        metrics=Metrics(store, cards, outbox),
        outlook=Outlook(store, cards),
        hub=Hub(store.events),
        tracing=open_tracing("api"),
        draining=threading.Event(),
    )


@asynccontextmanager
async def close_at_end(app: FastAPI) -> AsyncIterator[None]:
    yield
    services = app.state.services
    services.hub.close()
    services.store.redis.close()
    await run_in_threadpool(services.tracing.close)
