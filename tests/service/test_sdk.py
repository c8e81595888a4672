"""The unmodified OpenAI SDKs over a real socket."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from tests.cards import plain_card
from tests.service.media import picture
from worker.jobs import keys
from worker.jobs.callers import CallerBook, Limits

SHAPES = {
    *("models", "model", "create", "create as JSON", "extra fields", "object"),
    *("list of objects", "list as text", "uneven list", "large enough", "data-URL"),
    *("open file", "named bytes", "nameless bytes", "list of files"),
    *("file", "file's content", "files", "file ids", "file deleted"),
    *("idempotency key", "idempotency key of another"),
    *("poll", "timestamps", "retrieve", "pages", "list", "list ends"),
    *("content type", "streamed", "range", "unchanged", "thumbnail", "spritesheet"),
    *("bad size", "unknown field", "no such model", "not its kind", "no picture", "no such video"),
    *("no such key", "not in a hurry", "too many at once", "not ready", "cancel too late"),
    *("cancel", "failed job", "delete", "delete again", "nothing left"),
}
POLLING = {"create and poll"}  # which the SDK of Node leaves to its users


@pytest.fixture
def studio(serving, redis, able_card):
    """An API with a model for words alone and one for everything, and a tenant of one job."""
    words = replace(plain_card(), tasks=frozenset({"text"}))
    CallerBook(redis).set_limits("small", Limits(max_active=1))
    return serving(
        cards={"pocket": words, "able": able_card},
        api_keys=("studio:key-one", "small:key-two"),
        poll_after_ms=50,
    )


def test_every_call_of_the_sdks_works(studio, hand, sdk, tmp_path, clip):
    (tmp_path / "first.png").write_bytes(picture())
    noise = np.random.default_rng(1).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    with hand.working(besides="later"):
        report = sdk.drive("drive", tmp_path, "key-two", url=studio.url, key="key-one")
    assert report["unexpected"] == []
    assert set(report["checked"]) == SHAPES | (POLLING if sdk.language == "python" else set())
    assert (tmp_path / "clip.mp4").read_bytes() == clip.read_bytes()


# The SDKs have classes of their own for some statuses only; code, param, and what is said.
REFUSALS = {
    410: ("APIStatusError", "video_expired", "video_id", "has expired"),
    413: ("APIStatusError", "payload_too_large", None, "the limit is 10000"),
    415: ("APIStatusError", "unsupported_media_type", "Content-Type", "text/xml"),
    503: ("InternalServerError", "queue_full", None, "1 jobs wait"),
}


def test_what_cannot_be_served_is_the_sdks_own_exception(serving, hand, store, sdk):
    """With our words, code and param: content that is gone, a body too large or of no known type,
    a full queue."""
    sizes = {"max_body_bytes": 10_000, "max_upload_bytes": 10_000}
    api = serving(max_queue_depth=1, result_ttl_s=1, **sizes)
    with api.client() as client:
        made = client.post("/v1/videos", json={"prompt": "a fox"}).json()["id"]
    expires_at = hand.finish(made).expires_at
    assert expires_at is not None
    store.redis.persist(keys.job(made))  # the row may outlive its content, not the reverse
    time.sleep(max(0.0, expires_at - time.time()) + 0.01)
    report = sdk.drive("refused", made, url=api.url)
    assert set(report) == {str(status) for status in REFUSALS}
    for status, (kind, code, param, words) in REFUSALS.items():
        seen = report[str(status)]
        plain = "APIError" if sdk.language == "node" else "APIStatusError"
        assert seen["kind"] == (plain if kind == "APIStatusError" else kind), seen
        assert (seen["status"], seen["code"], seen["param"]) == (status, code, param)
        assert words in seen["message"]
        assert seen["has_id"]
    assert store.depth() == 1, "what was refused is not in the queue"


@dataclass
class Spoiler:
    """A proxy that passes every request on and keeps two answers to itself."""

    port: int
    url: str = ""
    statuses: list[int] = field(default_factory=list)  # that the API answered
    ids: list[str] = field(default_factory=list)  # of the jobs in those answers


@contextlib.contextmanager
def spoiling(port: int) -> Iterator[Spoiler]:
    """Run one in front of an API: 500 for the first answer, a cut connection for the second."""
    spoiler = Spoiler(port)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as onward:
                onward.request("POST", self.path, body, dict(self.headers))
                answer = onward.getresponse()
                raw = answer.read()
            spoiler.ids.append(json.loads(raw)["id"])
            spoiler.statuses.append(answer.status)
            if len(spoiler.ids) == 2:
                return
            status, payload = (500, b"{}") if len(spoiler.ids) == 1 else (answer.status, raw)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    spoiler.url = f"http://127.0.0.1:{proxy.server_port}"
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield spoiler
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_an_sdk_retry_after_a_lost_answer_makes_one_job(api, sdk, store):
    """The job exists, the SDK hears nothing of it and tries again with another boundary."""
    with spoiling(api.port) as spoiler:
        made = sdk.drive("retry", url=spoiler.url)
    assert spoiler.statuses == [200, 200, 200]
    assert spoiler.ids == [made["id"]] * 3
    assert store.live_ids() == {made["id"]}
