"""`praxino demo`: one prompt through the real service, from nothing to a film on disk."""

import time
from pathlib import Path

from rich.console import Console

from service.client import Client, completed
from service.display import follow_with_bar, write_contact_sheet
from service.trial import trial_service

PROMPT = "a ship moving left over a sunset"


def show_demo(prompt: str, folder: Path, console: Console) -> None:
    """Start a service, send it the prompt, write `demo.mp4` and `demo.png` into `folder`.

    raises StartError, ServiceError, Unreachable, JobFailed
    """
    film, sheet = folder / "demo.mp4", folder / "demo.png"
    console.print("Starting queue server, worker and API …")
    began = time.monotonic()
    with trial_service() as url, Client(url) as client:
        console.print(f"Ready after {time.monotonic() - began:.1f} s at {url}.")
        console.print(f"Prompt: [bold]{prompt}[/bold]")
        sent = time.monotonic()
        video = follow_with_bar(client, client.create(prompt, seed=1), console)
        client.download(completed(video)["id"], film)
        elapsed = time.monotonic() - sent
    write_contact_sheet(film, sheet)
    console.print(f"{video.get('seconds')} s of film, made in {elapsed:.1f} s:")
    console.print(f"  {film}  the film\n  {sheet}  all its frames", soft_wrap=True)
    console.print(_next_steps(), soft_wrap=True)


def _next_steps() -> str:
    return (
        "\nStart the service:       make up\n"
        "Send the next prompt:    .venv/bin/praxino generate "
        '"a penguin moving right over the sea" --out out/penguin.mp4\n'
        "or with any OpenAI SDK:  base_url http://127.0.0.1:8000/v1"
    )
