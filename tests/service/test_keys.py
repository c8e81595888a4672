"""Keys made while the service runs; limits of requests and jobs; who may use which tier."""

import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from redis import Redis
from typer.testing import CliRunner

from service.cli import app
from service.quotas import duration, quota_headers
from service.valkey import address_file
from tests.service.test_create import refused
from worker.jobs.callers import KEY_START, CallerBook, Limits
from worker.jobs.outcomes import Quota

runner = CliRunner()
BODY = {"prompt": "a red fox"}


@pytest.fixture(autouse=True)
def kept_logging() -> Any:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def book(redis: Redis) -> CallerBook:
    return CallerBook(redis)


@pytest.fixture
def keys(valkey: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `praxino keys` against the server under test."""
    monkeypatch.setenv("PRAXINO_REDIS_URL", valkey.url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: runner.invoke(app, ("keys", *arguments))


def test_a_key_made_on_the_command_line_opens_until_it_is_revoked(api: Any, keys: Any) -> None:
    with api.client() as anyone:
        assert anyone.get("/v1/videos").status_code == 200
        made = keys("create", "ci", "--tenant", "studio")
        assert made.exit_code == 0, made.output
        key = made.stdout.strip()
        assert re.fullmatch(KEY_START + r"[\w-]{43}", key)
        refused(anyone.get("/v1/videos"), 401, "invalid_api_key", None)
    with api.client(key) as client:
        video = client.post("/v1/videos", json=BODY).json()
        assert client.get(f"/v1/videos/{video['id']}").status_code == 200
        assert keys("revoke", "ci").exit_code == 0
        for method, path in (("GET", "/v1/videos"), ("POST", "/v1/videos"), ("GET", "/v1/models")):
            refused(client.request(method, path, json=BODY), 401, "invalid_api_key", None)


def test_keys_are_listed_without_themselves(keys: Any) -> None:
    key = keys("create", "ci", "--priority", "--max-active", "7").stdout.strip()
    keys("create", "night", "--tenant", "ci")
    keys("revoke", "night")
    listed = keys("list").stdout
    assert re.search(r"^\W*ci +ci +valid +yes +7 +- +-", listed, re.MULTILINE)
    assert re.search(r"^\W*night +ci +revoked .* no +7 ", listed, re.MULTILINE)
    assert key not in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("revoke", "nobody"), "no API key is called 'nobody'"),
        (("create", "ci"), "used for a key before"),
        (("create", "a b"), "does not match"),
        (("create", "x", "--tenant", "../y"), "does not match"),
        (("limits", "a/b", "--max-active", "1"), "does not match"),
    ],
)
def test_a_wrong_call_says_what_to_mend(keys: Any, arguments: Any, message: str) -> None:
    keys("create", "ci")
    answer = keys(*arguments)
    assert answer.exit_code == 1
    assert message in answer.stderr
    assert "Traceback" not in answer.output


def test_without_a_queue_server_keys_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valkey: Any
) -> None:
    monkeypatch.delenv("PRAXINO_REDIS_URL", raising=False)
    monkeypatch.setenv("PRAXINO_DATA_DIR", str(tmp_path))
    answer = runner.invoke(app, ("keys", "list"))
    assert answer.exit_code == 1
    assert "praxino up" in answer.stderr
    # As `praxino up` leaves it while it runs.
    address_file(tmp_path).parent.mkdir()
    address_file(tmp_path).write_text(valkey.url)
    assert runner.invoke(app, ("keys", "create", "ci")).exit_code == 0
    address_file(tmp_path).write_text(f"unix://{tmp_path}/gone.sock")
    answer = runner.invoke(app, ("keys", "list"))
    assert (answer.exit_code, "does not answer" in answer.stderr) == (1, True)


def test_a_key_of_the_environment_works_beside_made_ones(serving: Any, book: CallerBook) -> None:
    made = book.create("ci", "studio")
    running = serving(api_keys=("lab:old-key",))
    for key, tenant in (("old-key", "lab"), (made, "studio")):
        with running.client(key) as client:
            client.post("/v1/videos", json=BODY | {"user": tenant})
            found = client.get("/v1/videos").json()["data"]
            assert [video["user"] for video in found] == [tenant]
    with running.client("lab:old-key") as client:
        refused(client.get("/v1/videos"), 401, "invalid_api_key", None)


def test_keys_may_be_required_before_there_is_one(serving: Any, book: CallerBook) -> None:
    running = serving(require_keys=True)
    with running.client() as anyone:
        refused(anyone.get("/v1/videos"), 401, "invalid_api_key", None)
        assert anyone.get("/healthz").status_code == 200
    with running.client(book.create("ci", "studio")) as client:
        assert client.get("/v1/videos").status_code == 200


def test_requests_over_the_rate_are_refused_with_the_time_to_wait(
    api: Any, book: CallerBook
) -> None:
    book.set_limits("studio", Limits(requests_per_minute=5))
    with api.client(book.create("ci", "studio")) as client:
        answers = [client.get("/v1/videos") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        left = [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers]
        assert left == [4, 3, 2, 1, 0, 0]
        refused(answers[-1], 429, "rate_limit_exceeded", None)
        assert answers[-1].json()["error"]["type"] == "rate_limit_error"
        wait_s = int(answers[-1].headers["retry-after"])
        assert 1 <= wait_s <= 12
        assert answers[-1].headers["ratelimit"] == f'"requests";r=0;t={wait_s}'
        for answer in answers:
            assert answer.headers["ratelimit-policy"] == '"requests";q=5;w=60'
            assert answer.headers["x-ratelimit-limit-requests"] == "5"
            assert re.fullmatch(r"(\d+m)?\d+s|\d+ms", answer.headers["x-ratelimit-reset-requests"])
        refused(client.post("/v1/videos", json=BODY), 429, "rate_limit_exceeded", None)
        assert client.get("/healthz").status_code == 200
    with api.client(book.create("lab", "lab")) as other:
        assert other.get("/v1/videos").status_code == 200


def test_limits_change_from_the_next_request_on(api: Any, keys: Any) -> None:
    key = keys("create", "ci", "--requests-per-minute", "2").stdout.strip()
    with api.client(key) as client:
        assert [client.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
        changed = keys("limits", "ci", "--requests-per-minute", "100", "--max-queued", "1")
        assert changed.stdout.split() == (
            "max_active - max_queued 1 requests_per_minute 100".split()
        )
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/videos", json=BODY).status_code == 200
        full = client.post("/v1/videos", json=BODY)
        refused(full, 429, "concurrency_limit", None)
        assert "1 jobs of this tenant wait" in full.json()["error"]["message"]
        assert "--clear" in keys("limits", "--help").stdout
        keys("limits", "ci", "--clear")
        answer = client.post("/v1/videos", json=BODY)
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "60000"


def test_refusals_and_errors_carry_the_quota_too(api: Any, book: CallerBook) -> None:
    with api.client(book.create("ci", "studio")) as client:
        for answer in (
            client.post("/v1/videos", json={}),
            client.get("/v1/videos/video_" + "0" * 32),
        ):
            assert answer.status_code >= 400
            assert answer.headers["x-ratelimit-limit-requests"] == "60000"
    with api.client("wrong") as stranger:
        assert "ratelimit" not in stranger.get("/v1/videos").headers


def test_no_limit_sends_no_quota(serving: Any) -> None:
    with serving(requests_per_minute=0).client() as client:
        assert not [name for name in client.get("/v1/videos").headers if "ratelimit" in name]


def test_eight_clients_never_pass_the_cap_of_active_jobs(api: Any, book: CallerBook) -> None:
    book.set_limits("studio", Limits(max_active=9))
    key = book.create("ci", "studio")

    def order(number: int) -> httpx.Response:
        with api.client(key) as client:
            return client.post("/v1/videos", json=BODY | {"seed": number})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(order, range(24)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429)) == (9, 15)
    over = next(answer for answer in answers if answer.status_code == 429)
    refused(over, 429, "concurrency_limit", None)
    assert 1 <= int(over.headers["retry-after"]) <= 60


def test_tiers_are_for_keys_that_may(api: Any, book: CallerBook, store: Any) -> None:
    plain, trusted = book.create("a", "studio"), book.create("b", "studio", may_prioritise=True)
    with api.client(plain) as client:
        refused(
            client.post("/v1/videos", json=BODY | {"service_tier": "priority"}),
            403,
            "permission_denied",
            "service_tier",
        )
        ids = [
            client.post("/v1/videos", json=BODY | {"service_tier": tier}).json()["id"]
            for tier in ("flex", "default")
        ]
    with api.client(trusted) as client:
        body = BODY | {"service_tier": "priority"}
        ids.append(client.post("/v1/videos", json=body).json()["id"])
        videos = [client.get(f"/v1/videos/{one}").json() for one in ids]
    assert [video["queue_position"] for video in videos] == [3, 2, 1]
    assert [video["service_tier"] for video in videos] == ["flex", "default", "priority"]
    assert store.waiting("pocket") == ids[::-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0ms"), (0.0401, "41ms"), (1.0, "1s"), (59.2, "1m0s"), (12.5, "13s"), (125, "2m5s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_quota_in_headers() -> None:
    headers = quota_headers(Quota(limit=600, remaining=599, full_in_s=0.1))
    assert headers["RateLimit"] == '"requests";r=599;t=1'
    assert headers["RateLimit-Policy"] == '"requests";q=600;w=60'
    assert math.isclose(float(headers["x-ratelimit-reset-requests"].removesuffix("ms")), 100)
