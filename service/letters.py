"""`praxino webhooks`: dead letters listed and sent again, and tenants' secrets.

Speaks to the queue server itself, so it is for whoever runs the service, on a machine that
reaches it.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Annotated

import httpx
import typer
from pydantic import SecretStr
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.children import StartError
from service.valkey import running_queue
from worker.jobs.connection import web_client
from worker.jobs.outbox import Outbox
from worker.jobs.outcomes import TENANT
from worker.jobs.settings import JobSettings

app = typer.Typer(help="Webhooks: dead letters and secrets.", no_args_is_help=True)


@app.command()
def dead(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
) -> None:
    """List the webhooks that were given up within 30 days, newest first."""
    with opened_outbox() as outbox:
        letters = [letter for letter in outbox.dead() if tenant in (None, letter.tenant)]
    table = Table("id", "type", "tenant", "host", "tries", "given up", "reason", box=None)
    for letter in letters:
        # Paths of callback URLs may hold what only their owner should know.
        host, at = httpx.URL(letter.url).host, datetime.fromtimestamp(letter.tried_at or 0, UTC)
        when = at.isoformat(sep=" ", timespec="seconds")
        row = letter.id, letter.type, letter.tenant, host, str(letter.tries), when
        table.add_row(*row, escape(letter.reason or ""))
    Console(soft_wrap=True).print(table)


@app.command()
def redeliver(
    ids: Annotated[list[str] | None, typer.Argument(help="See `praxino webhooks dead`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are dead.")] = False,
    tenant: Annotated[str | None, typer.Option(help="With --all: only this tenant's.")] = None,
) -> None:
    """Send dead webhooks again, under the same id, with every retry before them."""
    with opened_outbox() as outbox:
        wanted = list(ids or ())
        if every:
            wanted += [one.id for one in outbox.dead() if tenant in (None, one.tenant)]
        if not wanted and not every:
            raise StartError("name the webhooks to send again, or --all of them")
        unknown = [one for one in wanted if not outbox.redeliver(one)]
    typer.echo(f"{len(wanted) - len(unknown)} will be sent again")
    if unknown:
        raise StartError(f"not among the dead: {', '.join(unknown)}")


@app.command()
def secret(
    tenant: Annotated[str, typer.Argument(help="Whose webhooks it signs.")],
    show: Annotated[bool, typer.Option("--show", help="Change nothing; show what signs.")] = False,
) -> None:
    """Make a new secret for a tenant and show it; the one before signs, too, for a day more."""
    if not TENANT.fullmatch(tenant):
        raise StartError(f"tenant {tenant!r} does not match {TENANT.pattern}")
    with opened_outbox() as outbox:
        found = outbox.secrets(tenant) if show else (outbox.rotate(tenant),)
    for one in found:
        typer.echo(one)


@contextmanager
def opened_outbox() -> Iterator[Outbox]:
    """The outbox of the running service. raises StartError if it does not answer"""
    settings = JobSettings(redis_url=SecretStr(running_queue()))
    with closing(web_client(settings.redis_url.get_secret_value())) as redis:
        try:
            yield Outbox(redis, settings)
        except RedisError as error:
            raise StartError(f"the queue server does not answer: {error}") from error
