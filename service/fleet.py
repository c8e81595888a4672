"""`praxino workers`, `jobs` and `queue`: what an operator sees of the whole fleet, and its switch.

Speaks to the queue server itself, so it is for whoever runs the service, on a machine that
reaches it. Never shows what was asked for: prompts are their tenants'.
"""

import heapq
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer
from pydantic import SecretStr
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.children import StartError
from service.valkey import running_queue
from worker.jobs.catalog import ModelCard, read_offer
from worker.jobs.connection import web_client
from worker.jobs.contract import Job, Status
from worker.jobs.outcomes import JobNotFound, Serving, WorkerInfo
from worker.jobs.pause import Pause
from worker.jobs.settings import JobSettings, StorageSettings
from worker.jobs.store import JobStore
from worker.jobs.tenants import read_tenants

AsJson = Annotated[bool, typer.Option("--json", help="One JSON value instead of a table.")]
Model = Annotated[str | None, typer.Option(help="Only this model's jobs.")]

PAGE = 100

queue = typer.Typer(help="Hand jobs out to workers, or wait.", no_args_is_help=True)


def workers(as_json: AsJson = False) -> None:
    """List the live workers and their models: what they do, how fast, since when unheard."""
    with opened_store() as store:
        heard, now = store.heard(), time.time()
        rows = [
            to_worker(info, each, heard.get(info.name), now)
            for info in store.workers()
            for each in info.serving
        ]
    show(rows, as_json)


def show_jobs(
    job_id: str | None, tenant: str | None, status: str | None, limit: int, as_json: bool
) -> None:
    """List jobs, newest first, or show one with its history. raises StartError"""
    wanted = read_status(status)
    with opened_store() as store:
        if job_id is not None:
            show_one(to_job(store.get(job_id, tenant)), as_json)
            return
        tenants = sorted(set(read_tenants(store.redis))) if tenant is None else [tenant]
        rows = [to_row(job) for job in islice(newest(store, tenants, wanted), limit)]
    show(rows, as_json)


@queue.command()
def pause(model: Model = None) -> None:
    """Let no waiting job begin. Jobs are accepted as before, and running ones end."""
    with opened_store() as store:
        Pause(store.redis).pause(known(model))
    typer.echo(f"{model or 'Every queue'} is paused")


@queue.command()
def resume(model: Model = None) -> None:
    """Let waiting jobs begin again."""
    with opened_store() as store:
        switch = Pause(store.redis)
        switch.resume(known(model))
        if model is not None and switch.is_paused(model):
            raise StartError(f"{model} waits with every queue: resume without --model")
    typer.echo(f"{model or 'Every queue'} is resumed")


@queue.command("status")
def show_queues(as_json: AsJson = False) -> None:
    """How many jobs wait and run for each model, and which are paused."""
    with opened_store() as store:
        switch, known_workers = Pause(store.redis), store.workers()
        rows = [
            {
                "model": model,
                "state": "paused" if switch.is_paused(model) else "open",
                "waiting": store.depth(model),
                "running": store.running(model),
                "workers": sum(w.of(model) is not None for w in known_workers),
            }
            for model in sorted(offered())
        ]
    show(rows, as_json)


def offered() -> dict[str, ModelCard]:
    """Every model that jobs can be ordered from."""
    return read_offer(StorageSettings().data_dir)


def known(model: str | None) -> str | None:
    """raises StartError for a model that there is no card of"""
    cards = offered()
    if model is not None and model not in cards:
        raise StartError(f"model {model!r} is none of {', '.join(sorted(cards))}")
    return model


def read_status(status: str | None) -> Status | None:
    """raises StartError"""
    try:
        return None if status is None else Status(status)
    except ValueError as error:
        states = ", ".join(Status)
        raise StartError(f"status {status!r} is none of {states}") from error


def newest(store: JobStore, tenants: list[str], status: Status | None) -> Iterator[Job]:
    """Jobs of these tenants, the newest first."""
    lists = (jobs_of(store, tenant, status) for tenant in tenants)
    return heapq.merge(*lists, key=lambda job: job.created_at, reverse=True)


def jobs_of(store: JobStore, tenant: str, status: Status | None) -> Iterator[Job]:
    after: str | None = None
    while True:
        page = store.list(tenant, after=after, limit=PAGE, descending=True, status=status)
        yield from page.jobs
        if not page.has_more:
            return
        after = page.jobs[-1].id


def to_worker(
    info: WorkerInfo, each: Serving, heard_at: float | None, now: float
) -> dict[str, Any]:
    """One model of one worker."""
    held = "loaded" if each.loaded else "unloaded"
    return {
        "name": info.name,
        "state": info.state,
        "model": each.model,
        "held": "broken" if each.broken else held,
        "class": info.gpu_class or None,
        "weights": each.weights_sha256[:12] or None,
        "job": info.job_id if each.model == info.model else None,
        "heard_s_ago": None if heard_at is None else round(max(0.0, now - heard_at), 1),
        "seconds_per_step": each.seconds_per_step,
        "memory_mb": each.memory_mb,
        "loads": info.loads,
        "pid": info.pid,
    }


def to_row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "tenant": job.tenant,
        "status": job.error.code.value if job.error else job.status.value,
        "stage": job.stage.value,
        "progress": job.progress,
        "model": job.request.model,
        "task": job.request.task_type,
        "tier": job.tier.value,
        "class": job.gpu_class or None,
        "attempt": job.attempt,
        "created": moment(job.created_at),
    }


def to_job(job: Job) -> dict[str, Any]:
    """One job with its history: the attempts that did not end it."""
    return to_row(job) | {
        "status": job.status.value,
        "queue_position": job.queue_position,
        "worker": job.worker,
        "started": moment(job.started_at),
        "completed": moment(job.completed_at),
        "retries_left": job.retries_left,
        "cancel_requested": job.cancel_requested,
        "error": job.error.model_dump(mode="json") if job.error else None,
        "attempts": [
            {"number": one.number, "worker": one.worker, "ended": moment(one.ended_at)}
            | {"reason": one.reason}
            for one in job.attempts
        ],
    }


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """A table whose columns are the rows' keys, or all of it as JSON."""
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(*(rows[0] if rows else ("nothing",)), box=None)
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    Console(soft_wrap=True).print(table)


def show_one(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(job))
        return
    attempts = job.pop("attempts")
    table = Table(show_header=False, box=None)
    for name, value in job.items():
        table.add_row(name, cell(value))
    Console(soft_wrap=True).print(table)
    if attempts:
        show(attempts, as_json=False)


def cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def moment(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")


@contextmanager
def opened_store() -> Iterator[JobStore]:
    """The jobs of the running service; what a person can mend becomes a StartError."""
    settings = JobSettings(redis_url=SecretStr(running_queue()))
    with closing(web_client(settings.redis_url.get_secret_value())) as redis:
        try:
            yield JobStore(redis, settings)
        except RedisError as error:
            raise StartError(f"the queue server does not answer: {error}") from error
        except JobNotFound as error:
            raise StartError(str(error)) from error
