"""What an operator sees and switches: workers, jobs of all tenants, paused queues."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from redis import Redis
from rq.exceptions import DequeueTimeout
from typer.testing import CliRunner

from service.cli import app
from worker.jobs import transport
from worker.jobs.contract import ErrorCode, JobError
from worker.jobs.outcomes import Serving, WorkerInfo
from worker.jobs.pause import Pause
from worker.jobs.store import JobStore

runner = CliRunner()


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def call(valkey: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls `praxino` against the server under test."""
    monkeypatch.setenv("PRAXINO_REDIS_URL", valkey.url)
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *arguments: runner.invoke(app, arguments)


def read(answer: Any) -> Any:
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def handed_out(redis: Redis, model: str = "pocket") -> str | None:
    queues = [transport.JsonQueue(name, redis) for name in transport.model_queues(model)]
    try:
        found = transport.JsonQueue.dequeue_any(queues, None, redis)
    except DequeueTimeout:
        return None
    return found[0].id if found else None


def test_workers_are_listed_with_what_they_say_and_when(call: Any, store: JobStore) -> None:
    info = WorkerInfo(
        name="host-cuda0-1",
        model="pocket",
        state="busy",
        pid=4242,
        gpu_class="h100",
        job_id="video_" + "1" * 32,
        loads=2,
        serving=(
            Serving(
                model="pocket",
                loaded=True,
                weights_sha256="ab" * 32,
                seconds_per_step=0.25,
                memory_mb=8192.0,
            ),
            Serving(model="second"),
            Serving(model="third", broken=True),
        ),
    )
    store.put_worker(info, ttl_s=30)
    [row, second, third] = read(call("workers", "--json"))
    assert [each["held"] for each in (second, third)] == ["unloaded", "broken"]
    assert (second["job"], second["weights"]) == (None, None)
    assert 0 <= row.pop("heard_s_ago") < 20
    assert row == {
        "name": "host-cuda0-1",
        "state": "busy",
        "model": "pocket",
        "held": "loaded",
        "class": "h100",
        "weights": "abababababab",
        "job": "video_" + "1" * 32,
        "seconds_per_step": 0.25,
        "memory_mb": 8192.0,
        "loads": 2,
        "pid": 4242,
    }
    table = call("workers").stdout
    assert all(word in table for word in ("host-cuda0-1", "busy", "video_" + "1" * 32, "8192"))


def test_no_worker_is_an_empty_list(call: Any) -> None:
    assert read(call("workers", "--json")) == []
    assert call("workers").exit_code == 0


def test_jobs_of_all_tenants_newest_first_or_of_one(
    call: Any, store: JobStore, make_submission: Any
) -> None:
    made = [
        store.submit(make_submission(tenant=tenant, prompt="a secret")).job
        for tenant in ("studio", "lab", "studio")
    ]
    store.cancel(made[0].id, "studio")
    ids = [job.id for job in reversed(made)]
    assert [row["id"] for row in read(call("jobs", "--everyone", "--json"))] == ids
    assert [row["id"] for row in read(call("jobs", "--tenant", "lab", "--json"))] == [made[1].id]
    failed = read(call("jobs", "--everyone", "--status", "failed", "--json"))
    assert [(row["id"], row["status"]) for row in failed] == [(made[0].id, "cancelled")]
    assert len(read(call("jobs", "--everyone", "--limit", "2", "--json"))) == 2
    shown = call("jobs", "--everyone").stdout
    assert all(job.id in shown for job in made)
    assert "a secret" not in shown
    refused = call("jobs", "--everyone", "--status", "running")
    assert refused.exit_code == 1
    assert "queued, in_progress, completed, failed" in refused.stderr


def test_one_job_is_shown_with_its_history(
    call: Any, store: JobStore, make_submission: Any, redis: Redis
) -> None:
    job = store.submit(make_submission()).job
    queue = transport.queue_name("pocket")
    assert store.claim(job.id, "first", "worker-1", transport.wip_key(queue)).job
    assert store.requeue(job.id, "first", "the child died", counts=True)
    assert store.claim(job.id, "second", "worker-2", transport.wip_key(queue)).job
    assert store.fail(job.id, "second", JobError(code=ErrorCode.TIMEOUT, message="Too long."))
    found = read(call("jobs", job.id, "--json"))
    [attempt] = found["attempts"]
    assert (attempt["number"], attempt["worker"], attempt["reason"]) == (
        1,
        "worker-1",
        "the child died",
    )
    assert found["error"] == {"code": "timeout", "message": "Too long."}
    assert "the child died" in call("jobs", job.id).stdout
    missing = call("jobs", "video_" + "0" * 32)
    assert missing.exit_code == 1
    assert "no job" in missing.stderr


def test_a_paused_queue_accepts_jobs_and_hands_none_out(
    call: Any, client: Any, redis: Redis
) -> None:
    assert call("queue", "pause").exit_code == 0
    video = client.post("/v1/videos", json={"prompt": "a red fox"})
    assert video.status_code == 200
    assert handed_out(redis) is None
    rows = {row["model"]: row for row in read(call("queue", "status", "--json"))}
    assert rows["pocket"]["state"] == "paused"
    assert rows["pocket"]["waiting"] == 1
    assert call("queue", "resume").exit_code == 0
    assert handed_out(redis) == video.json()["id"]
    assert "open" in call("queue", "status").stdout


def test_one_model_is_paused_alone(call: Any, store: JobStore, make_submission: Any) -> None:
    other = make_submission(model="another")
    waiting = store.submit(make_submission()).job
    assert call("queue", "pause", "--model", "pocket").exit_code == 0
    assert handed_out(store.redis) is None
    running = store.submit(other).job
    assert handed_out(store.redis, "another") == running.id
    assert call("queue", "pause").exit_code == 0
    alone = call("queue", "resume", "--model", "pocket")
    assert alone.exit_code == 1
    assert "without --model" in alone.stderr
    assert handed_out(store.redis) is None
    assert call("queue", "resume").exit_code == 0
    assert handed_out(store.redis) == waiting.id
    assert call("queue", "pause", "--model", "nonesuch").exit_code == 1


def test_a_pause_survives_the_queue_servers_death(
    store: JobStore, valkey: Any, make_submission: Any, redis: Redis
) -> None:
    Pause(redis).pause()
    job = store.submit(make_submission()).job
    redis.bgrewriteaof()
    redis.config_set("appendfsync", "always")
    redis.set("flush", "now")
    valkey.kill()
    valkey.start()
    assert handed_out(redis) is None
    Pause(redis).resume()
    assert handed_out(redis) == job.id


def test_readiness_tells_that_everything_is_paused(client: Any, hand: Any, redis: Redis) -> None:
    hand.announce("idle")
    Pause(redis).pause()
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["paused"]) == (200, True)
    Pause(redis).resume()
    assert client.get("/readyz").json()["paused"] is False
