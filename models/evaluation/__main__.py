"""`python -m models.evaluation --json reports/pocket.json`: gates, then scores, then the sheet."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress, TaskID

from models.catalog import MODELS_DIR
from models.evaluation.bench import Bench, OnClip
from models.evaluation.measures import NAMES, chosen, measured
from models.evaluation.probe import open_preset
from models.evaluation.sheet import draw_sheet
from models.evaluation.suite import GateError
from models.protocol import VideoModel
from models.videoldm.weights import WeightsError

SHEET_STRIPS = 72  # clips on the contact sheet


@torch.no_grad()
def evaluate(
    report: Annotated[Path | None, typer.Option("--json", help="Where the figures go.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Where the contact sheet goes.")] = None,
    preset: Annotated[
        Path, typer.Option("--preset", "--weights-dir", help="The folder of the model.")
    ] = MODELS_DIR / "pocket",
    weights: Annotated[
        Path | None,
        typer.Option(help="A safetensors file in place of the folder's unet, as a run leaves it."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Kinds that the weights were trained for besides the card's: a,b.")
    ] = "",
    only: Annotated[str, typer.Option(help=f"Some measures, as a,b, of: {', '.join(NAMES)}.")] = "",
    count: Annotated[
        int | None,
        typer.Option("--count", "--n", min=2, help="Clips of each measure, not its own number."),
    ] = None,
    ungated: Annotated[
        bool, typer.Option(help="Score even if a checker fails its gate; the report says so.")
    ] = False,
) -> None:
    """Measure a model against its frozen prompts, in all that its card declares."""
    model = open_preset(preset, weights, _listed(tasks))
    names = _listed(only)
    chosen(model.card, names)  # a wrong name is told before anything is made
    with Progress(transient=True) as progress:
        bench = Bench(model, _watcher(progress), count, ungated)
        outcome = rounded({**measured(bench, names), "model": _described(model)})
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        outcome = _beside(report, outcome) if names else outcome
        report.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    if sheet:
        draw_sheet(bench.strips[:SHEET_STRIPS], sheet)
    for name in NAMES:
        if name in outcome and (not names or name in names):
            typer.echo(_line(name, outcome[name]))


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _described(model: VideoModel) -> dict[str, Any]:
    """What was measured, and how it was asked."""
    card = model.card
    return {
        "id": card.id,
        "weights_sha256": model.weights_sha256,
        "sampler": card.samplers[0],
        "steps": card.steps.default,
        "guidance_scale": card.guidance.default,
    }


def _beside(report: Path, outcome: dict[str, Any]) -> dict[str, Any]:
    """Some rows in their place in a report of the same weights; alone if there is none."""
    try:
        known = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return outcome
    return known | outcome if known.get("model") == outcome["model"] else outcome


def rounded(value: Any) -> Any:
    """JSON data with every number rounded to four places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return value


def _line(name: str, row: dict[str, Any]) -> str:
    """A row for the eye; a control of several numbers is left to the report."""
    control = row["control"]
    told = f"  control {control:.3f}" if isinstance(control, float | int) else ""
    return f"{name:22} {row['value']:8.3f}{told}  n {row['n']}"


def _watcher(progress: Progress) -> OnClip:
    """Shows how many clips of each kind are done."""
    rows: dict[str, TaskID] = {}

    def on_clip(what: str, done: int, of: int) -> None:
        if what not in rows:
            rows[what] = progress.add_task(what, total=of)
        progress.update(rows[what], completed=done)

    return on_clip


def main() -> None:
    """Run as a program: what cannot be measured ends it with one line and status 1."""
    try:
        typer.run(evaluate)
    except (GateError, WeightsError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
