"""`praxino keys`: API keys made, listed and revoked while the service runs, and tenants' limits.

Speaks to the queue server itself, so it is for whoever runs the service, on a machine that
reaches it.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from service.children import StartError
from service.valkey import running_queue
from worker.jobs.callers import CallerBook, Key, Limits
from worker.jobs.connection import web_client
from worker.jobs.outcomes import KeyNotFound, KeyTaken

app = typer.Typer(help="API keys and tenants' limits.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="What the key is called; never used twice.")]
TenantName = Annotated[str, typer.Argument(help="Whose limits.")]
MaxActive = Annotated[int | None, typer.Option(min=1, help="Queued or running jobs of the tenant.")]
MaxQueued = Annotated[
    int | None, typer.Option(min=1, help="Waiting jobs of the tenant for one model.")
]
Rate = Annotated[
    int | None, typer.Option(min=0, help="Requests per minute of the tenant; 0 is no limit.")
]


@app.command()
def create(
    name: Name,
    tenant: Annotated[
        str | None, typer.Option(help="Whom it stands for; by default its name.")
    ] = None,
    priority: Annotated[bool, typer.Option(help="May use service_tier priority.")] = False,
    max_active: MaxActive = None,
    max_queued: MaxQueued = None,
    requests_per_minute: Rate = None,
) -> None:
    """Make a key and show it, this once. Limits hold for all keys of the tenant."""
    with opened_book() as book:
        holder = tenant or name
        key = book.create(name, holder, may_prioritise=priority)
        change_limits(book, holder, max_active, max_queued, requests_per_minute)
    typer.echo("Keep it: only its hash is stored, and it is never shown again.", err=True)
    typer.echo(key)


@app.command()
def revoke(name: Name) -> None:
    """Refuse a key from the next request on. Its tenant's jobs stay and run."""
    with opened_book() as book:
        book.revoke(name)
    typer.echo(f"{name} is revoked")


@app.command()
def limits(
    tenant: TenantName,
    max_active: MaxActive = None,
    max_queued: MaxQueued = None,
    requests_per_minute: Rate = None,
    clear: Annotated[bool, typer.Option(help="First forget the limits it had.")] = False,
) -> None:
    """Set a tenant's own limits, from the next request on; show those it has."""
    with opened_book() as book:
        if clear:
            book.set_limits(tenant, Limits())
        change_limits(book, tenant, max_active, max_queued, requests_per_minute)
        for limit, value in book.limits(tenant).model_dump().items():
            typer.echo(f"{limit} {shown(value)}")


@app.command("list")
def list_keys() -> None:
    """List every key ever made, never the keys themselves."""
    with opened_book() as book:
        keys = book.list()
        caps = {key.tenant: book.limits(key.tenant) for key in keys}
    titles = ("name", "tenant", "state", "priority", "active", "queued", "per minute", "created")
    table = Table(*titles, box=None)
    for key in keys:
        table.add_row(*cells(key, caps[key.tenant]))
    Console().print(table)


def cells(key: Key, caps: Limits) -> list[str]:
    return [
        key.name,
        key.tenant,
        "valid" if key.revoked_at is None else f"revoked {day(key.revoked_at)}",
        "yes" if key.may_prioritise else "no",
        shown(caps.max_active),
        shown(caps.max_queued),
        shown(caps.requests_per_minute),
        day(key.created_at),
    ]


def change_limits(book: CallerBook, tenant: str, *changes: int | None) -> None:
    """Set the limits that were given, in the order of `Limits`; leave the others."""
    names = zip(Limits.model_fields, changes, strict=True)
    given = {name: value for name, value in names if value is not None}
    if given:
        book.set_limits(tenant, book.limits(tenant).model_copy(update=given))


@contextmanager
def opened_book() -> Iterator[CallerBook]:
    """The keys of the running service; what a person can mend becomes a StartError."""
    with closing(web_client(running_queue())) as redis:
        try:
            yield CallerBook(redis)
        except RedisError as error:
            raise StartError(f"the queue server does not answer: {error}") from error
        except (KeyTaken, KeyNotFound, ValueError) as error:
            raise StartError(str(error)) from error


def shown(value: int | None) -> str:
    return "-" if value is None else str(value)


def day(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")
