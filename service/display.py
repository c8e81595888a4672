"""What a person at a terminal sees of a job: a progress bar, a table, a contact sheet."""

import math
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from service.client import Client, Video

TILE_PX = 192
GAP_PX = 6


def follow_with_bar(client: Client, video: Video, console: Console) -> Video:
    """Follow a job to its end behind a progress bar; returns the job as it ended."""
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("queued", total=100)

        def show(now: Video) -> None:
            progress.update(bar, description=describe(now), completed=now["progress"])

        return client.follow(video, show)


def describe(video: Video) -> str:
    """What the job is doing, in two words."""
    position = video.get("queue_position")
    if video["status"] == "queued" and position is not None:
        return f"queued, {position}. in line"
    if video["status"] == "in_progress":
        stage = str(video.get("stage", "in_progress"))
        shots = video.get("shots", [])
        made = sum(shot["status"] == "completed" for shot in shots)
        return f"shot {min(made + 1, len(shots))}/{len(shots)}, {stage}" if shots else stage
    return video["status"]


def table_of_jobs(videos: Sequence[Video]) -> Table:
    """One row a job, newest first; the prompt is shortened by the terminal's width."""
    table = Table(
        Column("id", no_wrap=True, min_width=38),
        "status",
        "%",
        "model",
        "size",
        "s",
        "prompt",
        box=None,
    )
    for video in videos:
        row = (video.get(name, "") for name in ("model", "size", "seconds"))
        status = video["status"]
        if error := video.get("error"):
            status = error["code"]
        cells = [video["id"], status, str(video["progress"]), *(str(cell) for cell in row)]
        table.add_row(*cells, (video.get("prompt") or "").replace("\n", " ")[:60])
    return table


def write_contact_sheet(film: Path, sheet: Path) -> None:
    """All frames of an MP4 in reading order, as one PNG of nearly square shape."""
    with av.open(str(film)) as container:
        decoded = container.decode(video=0)
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in decoded]
    across = math.ceil(math.sqrt(len(frames)))
    down = math.ceil(len(frames) / across)
    width, height = TILE_PX, round(TILE_PX * frames[0].height / frames[0].width)
    canvas = Image.new(
        "RGB",
        (across * (width + GAP_PX) + GAP_PX, down * (height + GAP_PX) + GAP_PX),
        "white",
    )
    for index, frame in enumerate(frames):
        row, column = divmod(index, across)
        place = (GAP_PX + column * (width + GAP_PX), GAP_PX + row * (height + GAP_PX))
        canvas.paste(frame.resize((width, height), Image.Resampling.LANCZOS), place)
    sheet.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(sheet, "PNG")
