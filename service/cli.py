"""The command line: start the service, talk to it, measure it.

With `praxino generate`, `keys`, `models`, `webhooks`, `workers` and `queue`, in files of their own,
the only place that prints.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from pydantic import SecretStr, ValidationError
from rich.console import Console
from typer.core import TyperGroup

from service import access, fleet, letters, making, offer
from service.children import StartError
from service.client import Client, JobFailed, ServiceError, Unreachable
from service.making import DEFAULT_URL, Key, Unusable, Url
from service.settings import ServiceSettings
from service.standalone import Plan, base_url, bind, check_bind, published_host, run
from worker.jobs.audit import refuse_pickle
from worker.jobs.catalog import read_offer

app = typer.Typer(
    help="Praxino: a self-hosted video-generation service that never loses a job.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

# Stands in where the embedded server will be: its address is known only once it runs.
EMBEDDED = SecretStr("unix:///embedded")

Host = Annotated[str | None, typer.Option(help="Address to serve on. [PRAXINO_HOST]")]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Port to serve on; 0 picks one. [PRAXINO_PORT]"),
]
JsonPath = Annotated[Path, typer.Option("--json", help="File the figures are written to.")]


@app.command()
def up(
    host: Host = None,
    port: Port = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for queue and results. [PRAXINO_DATA_DIR]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Worker processes; each loads models. [one, or one a device]"),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="As cuda:0; several times for several GPUs. [PRAXINO_DEVICE]"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="What the workers serve, several times for several; requests get the first. "
            "[PRAXINO_MODEL or PRAXINO_MODELS]"
        ),
    ] = None,
) -> None:
    """Start queue server, workers and API; stop them all with Ctrl-C or SIGTERM."""
    configure_logging()
    with plain_errors():
        embedded = not os.environ.get("PRAXINO_REDIS_URL")
        settings = ServiceSettings(redis_url=EMBEDDED) if embedded else ServiceSettings()
        plan = Plan(
            host=settings.host if host is None else host,
            port=settings.port if port is None else port,
            data_dir=data_dir or settings.data_dir,
            workers=max(1, len(device or ())) if workers is None else workers,
            has_keys=settings.needs_key,
            redis_url=None if embedded else settings.redis_url.get_secret_value(),
            environment=serving(model or (), data_dir or settings.data_dir),
            devices=tuple(device or ()),
        )
        run(plan, lambda url: typer.echo(f"Praxino is ready at {url}"))


def serving(models: Sequence[str], data_dir: Path) -> dict[str, str]:
    """The environment of a service that offers these models, the first one first.

    raises StartError
    """
    if not models:
        return {}
    known = read_offer(data_dir)
    for model in models:
        if model not in known:
            raise StartError(f"model {model!r} is none of {', '.join(sorted(known))}")
    first = {"PRAXINO_MODEL": models[0], "PRAXINO_DEFAULT_MODEL": models[0]}
    return first | {"PRAXINO_MODELS": ",".join(models)}


@app.command()
def api(
    host: Host = None,
    port: Port = None,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start only the API; needs PRAXINO_REDIS_URL."""
    import uvicorn

    from service.app import create_app
    from service.server import LeavingServer

    configure_logging()
    refuse_pickle()
    with plain_errors():
        settings = ServiceSettings()
        try:
            application = create_app(settings)
        except ValueError as error:
            raise StartError(str(error)) from error
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        if fd is None:
            address = settings.host if host is None else host
            check_bind(published_host(settings.published) or address, settings.needs_key)
            listener = bind(address, settings.port if port is None else port)
            typer.echo(f"Praxino's API listens at {base_url(listener)}")
        else:
            listener = socket.socket(fileno=fd)  # bound and kept by `praxino up`
        LeavingServer(config, application.state.services).run(sockets=[listener])


@app.command()
def worker() -> None:
    """Start one worker in this process; needs PRAXINO_REDIS_URL."""
    os.execv(sys.executable, [sys.executable, "-m", "worker"])


@app.command()
def jobs(
    job_id: Annotated[
        str | None, typer.Argument(help="Only this one, with its history; for operators.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    status: Annotated[
        str | None, typer.Option(help="queued, in_progress, completed or failed.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="This tenant's; for operators, at the queue server.")
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="All tenants'; for operators, likewise.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value; for operators.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """List jobs, newest first: the caller's own, or for operators anybody's."""
    from service.display import table_of_jobs

    if job_id or tenant or everyone or as_json:
        with plain_errors():
            fleet.show_jobs(job_id, tenant, status, limit, as_json)
        return
    with plain_errors(), Client(url, api_key) as client:
        Console().print(table_of_jobs(list(client.videos(limit, status))))


@app.command()
def cancel(
    video_id: Annotated[str, typer.Argument(help="The job to stop.")],
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Cancel one job; a running one ends at its next step."""
    with plain_errors(), Client(url, api_key) as client:
        client.cancel(video_id)
        typer.echo(f"{video_id} is being cancelled")


@app.command(
    "eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def evaluate(context: typer.Context) -> None:
    """Measure what the model shows against what the prompts said; options as shown by --help."""
    command = (sys.executable, "-m", "models.evaluation", *context.args)
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
def bench(
    json_path: JsonPath = Path("reports/bench.json"),
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs in turn with the bare model. [9; with --batch 3 of each]"),
    ] = None,
    cancels: Annotated[int, typer.Option(min=1, help="Jobs cancelled while they run.")] = 20,
    rate: Annotated[
        int | None, typer.Option(min=1, help="Calls a second. [100; with --load 200]")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=1, help="Seconds of calls. [10; with --load 60]")
    ] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Only mixed reads and writes; other figures stay.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(min=2, max=64, help="Only what batches of up to N jobs gain; likewise."),
    ] = None,
) -> None:
    """Measure what the service adds to the bare model, on a service of its own."""
    from service.bench import measure, merged
    from service.gain import measure_gain
    from service.traffic import measure_mixed

    with plain_errors():
        note = partial(typer.echo, err=True)
        if load:
            report = dict(measure_mixed(rate or 200, duration or 60.0, note))
        elif batch is not None:
            report = dict(measure_gain(batch, rounds or 3, note))
        else:
            report = dict(measure(rounds or 9, cancels, rate or 100, duration or 10.0, note))
        json_path.parent.mkdir(parents=True, exist_ok=True)
        known = json_path.read_text(encoding="utf-8") if json_path.exists() else "{}"
        both = merged(json.loads(known), report)
        json_path.write_text(json.dumps(both, indent=2) + "\n", encoding="utf-8")
        for name, figure in report.items():
            if name != "details":
                typer.echo(f"{name:>24} {figure:10.3f}")


@app.command()
def demo(
    prompt: Annotated[str | None, typer.Argument(help="What the film shall show.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.mp4 and demo.png.")] = Path("out"),
) -> None:
    """One prompt through a service of its own: out/demo.mp4 and out/demo.png."""
    from service.demo import PROMPT, show_demo

    with plain_errors():
        show_demo(prompt or PROMPT, out, Console())


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a person can mend into one line on stderr and exit status 1."""
    try:
        yield
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0]).upper() if fault["loc"] else "…"
            typer.echo(f"Error: setting PRAXINO_{name}: {fault['msg']}", err=True)
        raise typer.Exit(1) from error
    except ServiceError as error:
        field = f" [{error.param}]" if error.param else ""
        typer.echo(f"Error: {error}{field}", err=True)
        raise typer.Exit(1) from error
    except Unreachable as error:
        typer.echo(f"Error: {error}. Start one with `praxino up`.", err=True)
        raise typer.Exit(1) from error
    except (StartError, JobFailed, Unusable) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """A command of another file, whose errors are shown as plainly."""

    @wraps(command)
    def shown(*arguments: Any, **options: Any) -> None:
        with plain_errors():
            command(*arguments, **options)

    return shown


app.command()(plainly(making.generate))
app.command()(plainly(making.follow))


class PlainGroup(TyperGroup):
    """A group of commands of another file, whose errors are shown as plainly."""

    def invoke(self, ctx: Any) -> Any:
        with plain_errors():
            return super().invoke(ctx)


app.command()(plainly(fleet.workers))
app.add_typer(fleet.queue, name="queue", cls=PlainGroup)
app.add_typer(offer.app, name="models", cls=PlainGroup)
app.add_typer(access.app, name="keys", cls=PlainGroup)
app.add_typer(letters.app, name="webhooks", cls=PlainGroup)


def configure_logging() -> None:
    """Log events as JSON lines on stderr; stdout is for answers."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


if __name__ == "__main__":
    app()
