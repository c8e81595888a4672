"""`praxino models`: what a server offers, and the open weights registered on this machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.children import StartError
from service.client import Client
from service.making import DEFAULT_URL, Key, Url
from worker.jobs.catalog import CHECKPOINT, REGISTERED, ModelCard, read_catalog
from worker.jobs.settings import StorageSettings

app = typer.Typer(help="Models on offer, and open weights registered here.")

DataDir = Annotated[
    Path | None, typer.Option(help="Folder for queue, results and cards. [PRAXINO_DATA_DIR]")
]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, url: Url = DEFAULT_URL, api_key: Key = None) -> None:
    """List the models on offer with their limits; or register open weights, see the commands."""
    if context.invoked_subcommand is not None:
        return
    with Client(url, api_key) as client:
        table = Table("id", "state", "tasks", "sizes", "frames", "fps", "licence", box=None)
        for card in client.models():
            frames = card["num_frames"]
            table.add_row(
                card["id"],
                "ready" if card["ready"] else "no worker",
                ", ".join(card["task_types"]),
                ", ".join(card["sizes"]),
                f"{frames['minimum']}-{frames['maximum']}",
                ", ".join(str(fps) for fps in card["fps"]),
                card["licence"],
            )
        Console().print(table)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def add(context: typer.Context, data_dir: DataDir = None) -> None:
    """Register a folder of open weights under a name; options as shown by --help."""
    models_dir = registered_dir(data_dir).resolve()
    command = (sys.executable, "-m", "models.openweights", *context.args)
    place = ("--models-dir", str(models_dir))
    raise typer.Exit(subprocess.run((*command, *place), check=False).returncode)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def measure(context: typer.Context, data_dir: DataDir = None) -> None:
    """Measure how near each quality of a registered model comes to its exact films; see --help.
    Servers tell it once they are started anew."""
    models_dir = registered_dir(data_dir).resolve()
    command = (sys.executable, "-m", "models.openweights.fidelity", *context.args)
    place = ("--models-dir", str(models_dir))
    raise typer.Exit(subprocess.run((*command, *place), check=False).returncode)


@app.command("list")
def show(data_dir: DataDir = None) -> None:
    """List what is registered here, with where its weights are."""
    folder = registered_dir(data_dir)
    table = Table(box=None)
    for head in ("id", "title", "tasks", "sizes", "frames", "fps", "licence", "weights"):
        table.add_column(head, overflow="fold")
    for card in read_catalog(folder).values():
        note = json.loads((folder / card.id / CHECKPOINT).read_text(encoding="utf-8"))
        table.add_row(*map(escape, (*to_row(card), note["folder"])))
    Console().print(table)


@app.command()
def remove(name: str, data_dir: DataDir = None) -> None:
    """Forget a registered model. Its weights stay where they are."""
    folder = registered_dir(data_dir)
    known = read_catalog(folder)
    if name not in known:
        raise StartError(f"model {name!r} is none of {', '.join(sorted(known)) or 'no models'}")
    shutil.rmtree(folder / name)
    typer.echo(f"{name} is no longer registered; its weights were left alone")


def to_row(card: ModelCard) -> tuple[str, ...]:
    rule = card.frames_at(card.fps[0])
    frames = f"{rule.minimum}-{rule.maximum}"
    rates = ", ".join(map(str, card.fps))
    kinds, sizes = ", ".join(sorted(card.tasks)), ", ".join(card.sizes)
    return card.id, card.title, kinds, sizes, frames, rates, card.licence


def registered_dir(data_dir: Path | None) -> Path:
    """Where cards of registered models lie."""
    return (data_dir or StorageSettings().data_dir) / REGISTERED
