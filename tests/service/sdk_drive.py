"""Drives an API with whichever OpenAI SDK is on the path; run in a subprocess by test_sdk.

Prints a report as JSON: the SDK's version, the checks made, and what did not hold.
"""

import io
import json
import sys
import warnings

import openai

warnings.simplefilter("ignore")  # newer SDKs announce the end of OpenAI's own video service

PROMPT = "a red fox walks to the left"
checked = []
unexpected = []


def check(name, holds, shown=None):
    """Note whether something held."""
    checked.append(name)
    if not holds:
        unexpected.append(f"{name}: {shown!r}")


def refused(name, kind, code, call):
    """Note whether a call raised the SDK's class with our code and a request id."""
    try:
        got = call()
    except kind as error:
        check(name, error.code == code and error.request_id, (error.code, error.request_id))
    except Exception as error:
        check(name, False, error)
    else:
        check(name, False, got)


def create_in_every_encoding(client):
    """As multipart, as JSON, and with extra fields nested both ways."""
    form = client.videos.create(model="pocket", prompt=PROMPT, seconds="1", size="64x64")
    check("create", form.object == "video" and form.seconds == "1", form)
    as_json = client.videos.create(
        model="pocket",
        prompt=PROMPT,
        extra_headers={"Content-Type": "application/json"},
        extra_body={"seed": 42, "metadata": {"scene": "4"}},
    )
    check("create as JSON", as_json.seed == 42 and as_json.metadata == {"scene": "4"}, as_json)
    extra = client.videos.create(
        model="pocket",
        prompt=PROMPT,
        extra_body={"seed": 43, "guidance_scale": 1.5, "metadata": {"a": "b", "c": "d"}},
    )
    check("extra_body", (extra.seed, extra.guidance_scale) == (43, 1.5), extra)
    check("extra_body object", extra.metadata == {"a": "b", "c": "d"}, extra)
    return [form.id, as_json.id, extra.id]


def follow(client):
    """Poll to the end, by the helper and by the combined call."""
    made = client.videos.create_and_poll(model="pocket", prompt=PROMPT)
    check("create_and_poll", made.status == "completed" and made.progress == 100, made)
    check("timestamps", made.completed_at >= made.created_at and made.expires_at, made)
    again = client.videos.poll(made.id)
    check("poll", again.id == made.id and again.status == "completed", again)
    got = client.videos.retrieve(made.id)
    check("retrieve", got.prompt == PROMPT and got.error is None, got)
    return made.id


def download(client, video_id, path):
    """Whole, streamed, and the other variant."""
    client.videos.download_content(video_id).write_to_file(path)
    with client.videos.with_streaming_response.download_content(video_id) as answer:
        streamed = b"".join(answer.iter_bytes())
        check("content type", answer.headers["content-type"] == "video/mp4", answer.headers)
    with open(path, "rb") as file:
        check("streamed download", file.read() == streamed)
    picture = client.videos.download_content(video_id, variant="thumbnail").read()
    check("thumbnail", picture[:4] == b"RIFF", picture[:16])


def page(client, ids):
    """Every page, both ways."""
    newest = [video.id for video in client.videos.list(limit=2)]
    oldest = [video.id for video in client.videos.list(limit=3, order="asc")]
    check("list", newest == oldest[::-1] and set(ids) == set(newest), (newest, oldest, ids))
    check("list ends", not client.videos.list(after=newest[-1]).data)


def meet_refusals(client):
    """Each error as the SDK's own class."""
    videos = client.videos
    absent = "video_" + "0" * 32
    refused(
        "bad size",
        openai.BadRequestError,
        "invalid_value",
        lambda: videos.create(model="pocket", prompt=PROMPT, size="1280x720"),
    )
    refused(
        "no such model",
        openai.BadRequestError,
        "model_not_found",
        lambda: videos.create(model="sora-2", prompt=PROMPT),
    )
    refused(
        "a file the model cannot use",
        openai.BadRequestError,
        "unsupported_task",
        lambda: videos.create(model="pocket", prompt=PROMPT, input_reference=io.BytesIO(b"x")),
    )
    refused(
        "no such video", openai.NotFoundError, "video_not_found", lambda: videos.retrieve(absent)
    )
    refused(
        "no such key",
        openai.AuthenticationError,
        "invalid_api_key",
        lambda: client.with_options(api_key="wrong").videos.list(),
    )


def cancel_and_delete(client, ids):
    """Cancel by the plain call, delete, and delete again."""
    refused(
        "cancel too late",
        openai.ConflictError,
        "video_not_cancellable",
        lambda: client.post(f"/videos/{ids[0]}/cancel", body={}, cast_to=object),
    )
    for video_id in ids:
        gone = client.videos.delete(video_id)
        check("delete", gone.deleted and gone.object == "video.deleted", gone)
    check("delete again", client.videos.delete(ids[0]).deleted)
    check("nothing left", not client.videos.list().data)


def main(path):
    """The whole tour."""
    client = openai.OpenAI()
    check("models", [model.id for model in client.models.list()] == ["pocket"])
    check("model", client.models.retrieve("pocket").owned_by == "praxino")
    ids = create_in_every_encoding(client)
    ids.append(follow(client))
    for video_id in ids:
        client.videos.poll(video_id)
    download(client, ids[-1], path)
    page(client, ids)
    meet_refusals(client)
    cancel_and_delete(client, ids)
    report = {"version": openai.__version__, "checked": checked, "unexpected": unexpected}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
