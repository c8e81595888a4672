"""`praxino generate` and `praxino follow`: order a film of any kind, or find an ordered one again.

Local files are uploaded for the order and deleted once the job has its own copies.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from service.client import Client, JobFailed, ServiceError, Unreachable, Video, completed

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_OUT = Path("out/video.mp4")
ELSEWHERE = re.compile(r"(https?://|data:|file-|video_)")  # what needs no upload
NAMED = re.compile(r"([A-Za-z0-9_-]{1,64})=(.+)")

Url = Annotated[str, typer.Option(envvar="PRAXINO_URL", help="Where the service answers.")]
Key = Annotated[
    str | None, typer.Option(envvar="PRAXINO_API_KEY", help="Key to show to the service.")
]
Out = Annotated[Path, typer.Option(help="Where the MP4 goes.")]
Sheet = Annotated[Path | None, typer.Option(help="Where a PNG of all frames goes.")]
Picture = "Picture: a file, URL, or id of a file or video."
Share = Annotated[float | None, typer.Option(help="0 to 1.")]


UNLISTED = tuple(  # fields of the API without an option of their own
    "guidance_rescale guidance_schedule context_frames context_guidance reconstruction_weight "
    "num_frames frame_interpolation_factor characters keyframes mask resolution "
    "aspect_ratio return_last_frame callback_url execution_expires_after service_tier gpu_class "
    "cache metadata user".split()
)


class Unusable(Exception):
    """An argument of the command line that cannot be sent."""


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What the film shall show.")] = None,
    out: Out = DEFAULT_OUT,
    sheet: Sheet = None,
    model: Annotated[str | None, typer.Option(help="Model; see `praxino models`.")] = None,
    task_type: Annotated[str | None, typer.Option("--task", help="Kind; else inferred.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it shall not show.")] = None,
    size: Annotated[str | None, typer.Option(help="Pixels as WxH.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length, or what is added.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same film.")] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--steps", help="Denoising steps.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance", help="Weight of the prompt; 1 is none.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="One of the model's.")] = None,
    quality: Annotated[str | None, typer.Option(help="One of the model's.")] = None,
    adapter: Annotated[str | None, typer.Option(help="One of the model's LoRAs.")] = None,
    adapter_scale: Annotated[float | None, typer.Option(help="How far it changes it.")] = None,
    first_frame: Annotated[str | None, typer.Option(help=Picture)] = None,
    last_frame: Annotated[str | None, typer.Option(help=Picture)] = None,
    first_frame_strength: Share = None,
    last_frame_strength: Share = None,
    sketch: Annotated[bool, typer.Option(help="The last frame is a drawing of it.")] = False,
    reference: Annotated[
        list[str] | None, typer.Option(help=f"{Picture} NAME=… names it for prompts; repeatable.")
    ] = None,
    reference_strength: Share = None,
    video: Annotated[str | None, typer.Option(help="Clip to work on: a file, URL or id.")] = None,
    extend_before: Annotated[bool, typer.Option(help="New frames lead up to the clip.")] = False,
    shot: Annotated[
        list[str] | None, typer.Option(help="Prompt or JSON object of a shot; repeatable.")
    ] = None,
    upscale_factor: Annotated[int | None, typer.Option(help="How many times as wide.")] = None,
    target_fps: Annotated[int | None, typer.Option(help="Rate to interpolate to.")] = None,
    other: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE, any other field of the API; repeatable."),
    ] = None,
    resume: Annotated[str | None, typer.Option(help="Follow this job instead.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Make one film of any kind and wait for it, behind a progress bar."""
    if resume is not None:
        follow(resume, out, sheet, url, api_key)
        return
    order = Order(
        prompt=prompt,
        first_frame=first_frame,
        last_frame=last_frame,
        references=tuple(reference or ()),
        video=video,
        shots=tuple(read_shot(text) for text in shot or ()),
        others={
            "model": model,
            "task_type": task_type,
            "negative_prompt": negative_prompt,
            "size": size,
            "seconds": seconds,
            "fps": fps,
            "seed": seed,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "sampler": sampler,
            "quality": quality,
            "adapter": adapter,
            "adapter_scale": adapter_scale,
            "first_frame_strength": first_frame_strength,
            "last_frame_strength": last_frame_strength,
            "last_frame_is_sketch": sketch or None,
            "reference_strength": reference_strength,
            "extend_before": extend_before or None,
            "upscale_factor": upscale_factor,
            "target_fps": target_fps,
            **read_fields(other or ()),
        },
    )
    with Client(url, api_key) as client:
        made = order.sent(client)
    typer.echo(f"{made['id']} is ordered; `praxino follow {made['id']}` finds it again", err=True)
    with Client(url, api_key) as client:
        fetch_or_cancel(client, made, out, sheet)


@dataclass(frozen=True)
class Order:
    """A film as the command line asks for it.

    first_frame, last_frame, video, references   a file, URL or id each; a reference may be NAME=…
    others   fields that are sent as they are; what is None is left to the service
    """

    prompt: str | None
    first_frame: str | None
    last_frame: str | None
    references: tuple[str, ...]
    video: str | None
    shots: tuple[dict[str, Any], ...]
    others: Mapping[str, object]

    def sent(self, client: Client) -> Video:
        """Order it; local files are uploaded for that, and deleted once they were read.

        raises  Unusable for what cannot be sent; what `Client.create` does
        """
        with uploading(client) as send:
            return client.create(
                self.prompt,
                first_frame=self.first_frame and send(self.first_frame, "--first-frame"),
                last_frame=self.last_frame and send(self.last_frame, "--last-frame"),
                reference_images=[read_reference(text, send) for text in self.references] or None,
                video=self.video and send(self.video, "--video"),
                shots=self.shots or None,
                **self.others,
            )


def fetch_or_cancel(client: Client, made: Video, out: Path, sheet: Path | None) -> None:
    """Wait for an ordered film and fetch it; Ctrl-C cancels the job. raises JobFailed"""
    try:
        fetch(client, made, out, sheet)
    except KeyboardInterrupt:
        client.cancel(made["id"])
        raise JobFailed(f"{made['id']} was cancelled") from None


def follow(
    video_id: Annotated[str, typer.Argument(help="The job to follow.")],
    out: Out = DEFAULT_OUT,
    sheet: Sheet = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
) -> None:
    """Wait for an ordered film and fetch it; Ctrl-C leaves the job running."""
    with Client(url, api_key) as client:
        try:
            fetch(client, client.retrieve(video_id), out, sheet)
        except KeyboardInterrupt:
            raise JobFailed(f"{video_id} goes on; nobody follows it") from None


def fetch(client: Client, video: Video, out: Path, sheet: Path | None) -> None:
    """Follow a job to its end and write its film. raises JobFailed"""
    from service.display import follow_with_bar, write_contact_sheet

    video = follow_with_bar(client, video, Console(stderr=True))
    client.download(completed(video)["id"], out)
    if sheet is not None:
        write_contact_sheet(out, sheet)
        typer.echo(str(sheet))
    typer.echo(str(out))


Send = Callable[[str, str], dict[str, str] | str]  # argument, name of its option


@contextmanager
def uploading(client: Client) -> Iterator[Send]:
    """What makes an argument something to send; what it uploaded is deleted at the end."""
    uploaded: list[str] = []

    def send(text: str, option: str) -> dict[str, str] | str:
        path = Path(text)
        if ELSEWHERE.match(text) and not path.exists():
            return name_video(text, option) if text.startswith("video_") else text
        if not path.is_file():
            raise Unusable(f"{option}: {text} is no file, and no URL or id either")
        uploaded.append(client.upload(path))
        return {"file_id": uploaded[-1]}

    try:
        yield send
    finally:
        for file_id in uploaded:
            with suppress(ServiceError, Unreachable):  # it expires by itself
                client.delete_file(file_id)


def name_video(video_id: str, option: str) -> dict[str, str]:
    """An earlier video as the clip, or the one of its end frames that joins on."""
    if option == "--video":
        return {"id": video_id}
    return {"video_id": video_id, "frame": "first" if option == "--last-frame" else "last"}


def read_reference(text: str, send: Send) -> dict[str, Any] | str:
    """A reference picture, with the name that prompts call it by if it has one."""
    named = None if Path(text).exists() or ELSEWHERE.match(text) else NAMED.fullmatch(text)
    if named is None:
        return send(text, "--reference")
    picture = send(named[2], "--reference")
    if isinstance(picture, str):
        picture = {"file_id" if picture.startswith("file-") else "image_url": picture}
    return picture | {"name": named[1]}


def read_fields(texts: Iterable[str]) -> dict[str, str]:
    """Fields by name, their values as forms carry them. raises Unusable"""
    read = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in UNLISTED:
            raise Unusable(f"--set: {text!r} must be FIELD=VALUE, of {', '.join(UNLISTED)}")
        read[name] = value
    return read


def read_shot(text: str) -> dict[str, Any]:
    """A shot: an object of its fields, or its prompt alone. raises Unusable"""
    if not text.lstrip().startswith("{"):
        return {"prompt": text}
    try:
        said: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise Unusable(f"--shot: {text} is no JSON object: {error}") from error
    return said
