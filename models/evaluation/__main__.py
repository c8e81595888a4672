"""`python -m models.evaluation --json reports/pocket.json`: gates, then scores, then the sheet."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress, TaskID

from models.evaluation.checker import heading, shows_motion
from models.evaluation.gallery import Gallery, GalleryConfig, open_gallery
from models.evaluation.prompts import PROMPTS, Prompt, read_prompts
from models.evaluation.sheet import Strip, draw_sheet
from models.evaluation.suite import (
    GATE,
    GateError,
    OnClip,
    Reading,
    Scores,
    check_gate,
    generated,
    measure,
    read,
    read_all,
    task_of,
)
from models.evaluation.truth import round_trip, truths
from models.protocol import Frames, VideoModel
from models.registry import load_model
from models.training.concepts import FIRST_EDITION
from models.training.sprites import open_sheet
from models.training.world import World
from models.videoldm.pipeline import VideoLDM
from models.videoldm.weights import WeightsError

SHEET_STRIPS = 72  # clips on the contact sheet


def evaluate(
    report: Annotated[Path, typer.Option("--json", help="Where the figures go.")],
    sheet: Annotated[Path | None, typer.Option(help="Where the contact sheet goes.")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="A folder other than pocket's.")] = None,
    n: Annotated[int, typer.Option(min=2, help="How many of the frozen prompts.")] = 200,
    ungated: Annotated[
        bool, typer.Option(help="Score even if a checker fails its gate; the report says so.")
    ] = False,
) -> None:
    """Measure pocket against its frozen prompts."""
    torch.set_grad_enabled(False)
    prompts = read_prompts()
    if n > len(prompts):
        raise typer.BadParameter(f"n is {n}, there are {len(prompts)} prompts", param_hint="--n")
    model = load_model("pocket", weights_dir)
    with Progress(transient=True) as progress:
        outcome, strips = run(model, prompts[:n], _watcher(progress), ungated)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
    if sheet:
        draw_sheet(strips, sheet)
    for name in ("subject_r1", "subject_auc", "direction", "background"):
        row = outcome[name]
        typer.echo(f"{name:12} {row['value']:.3f}  control {row['control']:.3f}  n {row['n']}")
    typer.echo(f"{'flicker':12} {outcome['flicker']['value']:.4f}")


def run(
    model: VideoModel, prompts: Sequence[Prompt], on_clip: OnClip, ungated: bool
) -> tuple[dict[str, Any], list[Strip]]:
    """Gates, then scores: the report as JSON data, and the strips of the contact sheet.

    raises GateError if a checker misreads clips whose truth is known, unless ungated
    """
    sheet = open_sheet()
    autoencoder = model.preset.autoencoder if isinstance(model, VideoLDM) else None
    gallery = open_gallery(sheet, GalleryConfig(FIRST_EDITION), autoencoder)
    task = task_of(model, prompts[0])
    known = list(truths(World(sheet), prompts, task.num_frames, task.fps))
    gates = {"real": _measured(gallery, known, prompts, task.fps, "real", on_clip)}
    if autoencoder is not None:
        again = [round_trip(autoencoder, clip) for clip in known]
        gates["round_trip"] = _measured(gallery, again, prompts, task.fps, "round trip", on_clip)
    if not ungated:
        for what, scores in gates.items():
            check_gate(scores, what)
    clips, readings = [], []
    for frames in generated(model, prompts):
        clips.append(frames)
        readings.append(read(gallery, frames, task.fps))
        on_clip("generated", len(clips), len(prompts))
    scores = measure(readings, prompts, gallery.concepts)
    strips = [
        _strip(clip, prompt, reading, gallery.concepts)
        for clip, prompt, reading in zip(clips, prompts, readings, strict=True)
    ]
    return _report(model, scores, gates, strips), strips[:SHEET_STRIPS]


def _measured(
    gallery: Gallery,
    clips: Sequence[Frames],
    prompts: Sequence[Prompt],
    fps: int,
    what: str,
    on_clip: OnClip,
) -> Scores:
    readings = read_all(gallery, clips, fps, what, len(prompts), on_clip)
    return measure(readings, prompts, gallery.concepts)


def _strip(frames: Frames, prompt: Prompt, reading: Reading, concepts: Sequence[str]) -> Strip:
    """The clip with what the checker saw in it, as a person would compare it."""
    subject = concepts[int(reading.similarities.argmax())]
    right = (
        subject == prompt.concept
        and reading.scene == prompt.scene
        and shows_motion(reading.velocity, prompt.motion)
    )
    seen = f"seen: {subject}, {heading(reading.velocity)}, {reading.scene}"
    return Strip(frames, prompt.text, seen, right)


def _report(
    model: VideoModel, scores: Scores, gates: dict[str, Scores], strips: Sequence[Strip]
) -> dict[str, Any]:
    """Everything a reader needs to judge the figures, rounded to four places."""
    flickers = {what: known.flicker for what, known in gates.items()}
    card = model.card
    return _rounded(
        {
            **asdict(scores),
            "flicker": {"value": scores.flicker, "control": flickers, "n": len(strips)},
            "all_three_right": sum(strip.right for strip in strips) / len(strips),
            "gate": GATE,
            "gates": {what: asdict(known) for what, known in gates.items()},
            "model": {
                "id": card.id,
                "weights_sha256": model.weights_sha256,
                "sampler": card.samplers[0],
                "steps": card.steps.default,
                "guidance_scale": card.guidance.default,
            },
            "prompts_sha256": hashlib.sha256(PROMPTS.read_bytes()).hexdigest(),
            "clips": [{"asked": strip.asked, "seen": strip.seen} for strip in strips],
        }
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return value


def _watcher(progress: Progress) -> OnClip:
    """Shows how many clips of each kind are done."""
    rows: dict[str, TaskID] = {}

    def on_clip(what: str, done: int, of: int) -> None:
        if what not in rows:
            rows[what] = progress.add_task(what, total=of)
        progress.update(rows[what], completed=done)

    return on_clip


def main() -> None:
    """Run as a program: a failed gate or missing weights end it with one line and status 1."""
    try:
        typer.run(evaluate)
    except (GateError, WeightsError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
