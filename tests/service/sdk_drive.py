"""Drives an API with whichever OpenAI SDK is on the path; run in a subprocess by test_sdk.

Prints a report as JSON: the SDK's version, the checks made, and what did not hold.
"""

import base64
import io
import json
import sys
import warnings
from pathlib import Path

import openai

warnings.simplefilter("ignore")  # newer SDKs announce the end of OpenAI's own video service

PROMPT = "a red fox walks to the left"
LATER = "later"  # no worker takes this one
SHOTS = [{"prompt": "a fox", "seconds": 1}, {"prompt": "a hare", "seconds": 1}]
AS_JSON = {"Content-Type": "application/json"}
checked = []
unexpected = []
made = []


def check(name, holds, shown=None):
    """Note whether something held."""
    checked.append(name)
    if not holds:
        unexpected.append(f"{name}: {shown!r}")


def refused(name, kind, code, call):
    """Note whether a call raised the SDK's class with our code and a request id, at once."""
    try:
        got = call()
    except kind as error:
        tries = error.response.request.headers["x-stainless-retry-count"]
        said = (error.code, bool(error.request_id), bool(error.message), tries)
        check(name, said == (code, True, True, "0"), said)
    except Exception as error:
        check(name, False, error)
    else:
        check(name, False, got)


def order(client, model="pocket", prompt=PROMPT, **fields):
    """Create a video and remember it."""
    video = client.videos.create(model=model, prompt=prompt, **fields)
    if video.id not in made:
        made.append(video.id)
    return video


def create_in_every_encoding(client):
    """As multipart, as JSON, and with extra fields of every shape."""
    form = order(client, seconds="1", size="64x64")
    check("create", form.object == "video" and form.seconds == "1", form)
    extra = {"seed": 42, "metadata": {"scene": "4"}}
    as_json = order(client, extra_headers=AS_JSON, extra_body=extra)
    check("create as JSON", as_json.seed == 42 and as_json.metadata == {"scene": "4"}, as_json)
    extra = {"seed": 43, "guidance_scale": 1.5, "metadata": {"a": "b", "c": "d"}}
    plain = order(client, extra_body=extra)
    check("extra fields", (plain.seed, plain.guidance_scale) == (43, 1.5), plain)
    check("object", plain.metadata == {"a": "b", "c": "d"}, plain)
    for name, shots in (("list of objects", SHOTS), ("list as text", json.dumps(SHOTS))):
        story = order(client, model="able", extra_body={"shots": shots})
        check(name, [shot["prompt"] for shot in story.shots] == ["a fox", "a hare"], story)
    key = {"Idempotency-Key": "once"}
    twice = [order(client, extra_headers=key, extra_body={"seed": 44}).id for _ in range(2)]
    check("idempotency key", twice[0] == twice[1], twice)
    refused(
        "idempotency key of another",
        openai.UnprocessableEntityError,
        "idempotency_key_reused",
        lambda: order(client, extra_headers=key, extra_body={"seed": 45}),
    )


def give_pictures(client, folder):
    """Every way to hand over a file, a data-URL and an uploaded file's id."""
    path = folder / "first.png"
    raw = path.read_bytes()
    with path.open("rb") as file:
        forms = {
            "open file": file,
            "named bytes": ("first.png", raw, "image/png"),
            "nameless bytes": io.BytesIO(raw),
        }
        for name, form in forms.items():
            video = order(client, model="able", input_reference=form)
            check(name, video.task_type == "image", video)
    several = order(client, model="able", input_reference=[io.BytesIO(raw), io.BytesIO(raw)])
    check("list of files", several.task_type == "reference", several)
    large = base64.b64encode((folder / "large.png").read_bytes()).decode()
    check("large enough", len(large) > 1 << 20, len(large))
    first = {"image_url": "data:image/png;base64," + large}
    by_url = order(client, model="able", extra_body={"first_frame": first})
    check("data-URL", by_url.task_type == "image", by_url.task_type)
    refused(
        "uneven list",
        openai.BadRequestError,
        "ambiguous_form_array",
        lambda: order(
            client,
            model="able",
            input_reference=io.BytesIO(raw),
            extra_body={"shots": [SHOTS[0], {"prompt": "a hare"}]},
        ),
    )


def keep_files(client, folder):
    """Upload, look up, use in a video, delete."""
    path = folder / "first.png"
    with path.open("rb") as file:
        kept = client.files.create(file=file, purpose="vision")
    found = client.files.retrieve(kept.id)
    check("file", (found.id, found.bytes) == (kept.id, path.stat().st_size), found)
    check("file's content", client.files.content(kept.id).read() == path.read_bytes())
    check("files", [file.id for file in client.files.list()] == [kept.id])
    frame = {"file_id": kept.id}
    extra = {"first_frame": frame, "last_frame": frame, "last_frame_strength": 0.5}
    both = order(client, model="able", extra_body=extra)
    seen = (both.task_type, both.last_frame_strength)
    check("file ids", seen == ("first_last_frame", 0.5), seen)
    check("file deleted", client.files.delete(kept.id).deleted)


def follow(client):
    """Poll to the end, by the helper and by the combined call."""
    video = client.videos.create_and_poll(model="pocket", prompt=PROMPT)
    made.append(video.id)
    check("create and poll", (video.status, video.progress) == ("completed", 100), video)
    check("timestamps", video.completed_at >= video.created_at and video.expires_at, video)
    again = client.videos.poll(video.id)
    check("poll", again.id == video.id and again.status == "completed", again)
    got = client.videos.retrieve(video.id)
    check("retrieve", got.prompt == PROMPT and got.error is None, got)
    for video_id in made:
        client.videos.poll(video_id)
    return video.id


def download(client, video_id, path):
    """Whole, streamed, a range, the unchanged, and the other variants."""
    content = client.videos.download_content
    content(video_id).write_to_file(path)
    with client.videos.with_streaming_response.download_content(video_id) as answer:
        streamed = b"".join(answer.iter_bytes())
        check("content type", answer.headers["content-type"] == "video/mp4", answer.headers)
    whole = path.read_bytes()
    check("streamed", whole == streamed)
    part = content(video_id, extra_headers={"Range": "bytes=5-9"})
    check("range", (part.response.status_code, part.read()) == (206, whole[5:10]))
    try:
        content(video_id, extra_headers={"If-None-Match": answer.headers["etag"]})
        check("unchanged", False)
    except openai.APIStatusError as error:
        check("unchanged", error.status_code == 304, error)
    for variant, start in (("thumbnail", b"RIFF"), ("spritesheet", b"\xff\xd8\xff")):
        picture = content(video_id, variant=variant).read()
        check(variant, picture.startswith(start), picture[:16])


def page(client):
    """Every page, both ways."""
    pages = list(client.videos.list(limit=5).iter_pages())
    check("pages", len(pages) >= 3 and not pages[-1].has_more, len(pages))
    newest = [video.id for video in client.videos.list(limit=5)]
    oldest = [video.id for video in client.videos.list(limit=3, order="asc")]
    check("list", newest == oldest[::-1] and oldest == made, (newest, oldest, made))
    check("list ends", not client.videos.list(after=newest[-1]).data)


def meet_refusals(client, limited):
    """Each error as the SDK's own class."""
    videos = client.videos
    absent = "video_" + "0" * 32
    bad, urgent = openai.BadRequestError, {"service_tier": "priority"}
    file = io.BytesIO(b"x")
    held = limited.videos.create(prompt=LATER)
    for name, kind, code, call in (
        ("bad size", bad, "invalid_value", lambda: order(client, size="1280x720")),
        ("unknown field", bad, "unknown_parameter", lambda: order(client, extra_body={"tau": 1})),
        ("no such model", bad, "model_not_found", lambda: order(client, model="sora-2")),
        ("not its kind", bad, "unsupported_task", lambda: order(client, input_reference=file)),
        (
            "no picture",
            bad,
            "invalid_input_media",
            lambda: order(client, model="able", input_reference=io.BytesIO(b"x")),
        ),
        ("no such video", openai.NotFoundError, "video_not_found", lambda: videos.retrieve(absent)),
        (
            "no such key",
            openai.AuthenticationError,
            "invalid_api_key",
            lambda: client.with_options(api_key="wrong").videos.list(),
        ),
        (
            "not in a hurry",
            openai.PermissionDeniedError,
            "permission_denied",
            lambda: order(client, extra_body=urgent),
        ),
        (
            "too many at once",
            openai.RateLimitError,
            "concurrency_limit",
            lambda: limited.videos.create(prompt=LATER),
        ),
        (
            "not ready",
            openai.NotFoundError,
            "video_not_ready",
            lambda: limited.videos.download_content(held.id),
        ),
    ):
        refused(name, kind, code, call)
    return held.id


def cancel_and_delete(client, limited, held):
    """Cancel by the plain call, delete, and delete again."""
    paths = [f"/videos/{video_id}/cancel" for video_id in (held, made[0])]
    said = limited.post(paths[0], body={}, cast_to=object)
    check("cancel", said["error"]["code"] == "cancelled", said)
    failed = limited.videos.poll(held)
    seen = (failed.status, failed.error.code, bool(failed.error.message))
    check("failed job", seen == ("failed", "cancelled", True), seen)
    refused(
        "cancel too late",
        openai.ConflictError,
        "video_not_cancellable",
        lambda: client.post(paths[1], body={}, cast_to=object),
    )
    for video_id in made:
        gone = client.videos.delete(video_id)
        check("delete", gone.deleted and gone.object == "video.deleted", gone)
    check("delete again", client.videos.delete(made[0]).deleted)
    check("nothing left", not client.videos.list().data)


def main(folder, other_key):
    """The whole tour."""
    client = openai.OpenAI()
    limited = client.with_options(api_key=other_key, max_retries=0)
    check("models", sorted(model.id for model in client.models.list()) == ["able", "pocket"])
    check("model", client.models.retrieve("pocket").owned_by == "praxino")
    create_in_every_encoding(client)
    give_pictures(client, folder)
    keep_files(client, folder)
    download(client, follow(client), folder / "clip.mp4")
    page(client)
    held = meet_refusals(client, limited)
    cancel_and_delete(client, limited, held)
    report = {"version": openai.__version__, "checked": checked, "unexpected": unexpected}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
