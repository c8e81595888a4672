"""One job is one trace over all processes, told to a real collector; without one, nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from tests.collector import Collector, Seen
from tests.conftest import Valkey
from tests.outside import Authority, Receiver
from tests.senders import SECRET, Sender, sender_settings, until
from tests.worker.conftest import Studio
from worker.jobs.settings import JobSettings
from worker.jobs.tracing import Untraced, open_tracing

ROOT = Path(__file__).parents[2]
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET_WORDS = "an unannounced zeppelin"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that every process started from here on knows."""
    opened = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", opened.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield opened
    opened.close()


@pytest.fixture
def api(
    job_settings: JobSettings, authority: Authority, request: pytest.FixtureRequest
) -> Iterator[httpx.Client]:
    """A client of an API process of the test's own, which may call the receivers."""
    if "collector" in request.fixturenames:
        request.getfixturevalue("collector")
    fields = {
        "redis_url": job_settings.redis_url.get_secret_value(),
        "data_dir": job_settings.data_dir,
        **sender_settings(authority),
    }
    listener = socket.create_server(("127.0.0.1", 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "api", "--fd", str(listener.fileno())],
        env=os.environ | {f"PRAXINO_{name.upper()}": str(value) for name, value in fields.items()},
        pass_fds=(listener.fileno(),),
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    try:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            client.headers["x-pid"] = str(process.pid)
            yield client
    finally:
        process.terminate()
        process.wait(60)


def packages(pid: int) -> set[str]:
    """Which of these packages a process has loaded, by the libraries it has mapped or read."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("torch", "google/_upb") if f"/site-packages/{name}" in maps}


def by_name(spans: list[Seen]) -> dict[str, Seen]:
    names = [span.name for span in spans]
    assert len(set(names)) == len(names), names
    return {span.name: span for span in spans}


def test_one_job_is_one_trace_through_all_processes(
    collector: Collector,
    api: httpx.Client,
    studio: Studio,
    valkey: Valkey,
    authority: Authority,
    plain_receiver: Receiver,
    tmp_path: Path,
) -> None:
    worker = studio.worker()
    sender = Sender(valkey.url, tmp_path / "sender.log", authority)
    sender.start()
    body = {
        "prompt": SECRET_WORDS,
        "callback_url": plain_receiver.url(),
        "num_inference_steps": 6,
        "metadata": {"note": SECRET_WORDS},
    }
    for path in ("/healthz", "/metrics", "/v1/nothing"):
        api.get(path)
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    answer = api.post("/v1/videos", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    job_id = answer.json()["id"]
    assert studio.ended(job_id).error is None
    until(plain_receiver.requests)
    assert "torch" not in packages(int(api.headers["x-pid"]))
    assert packages(worker.pid) == {"google/_upb"}
    assert "google/_upb" not in packages(worker.child_pid()), "the child has no part in traces"
    for pid, is_told in ((worker.pid, True), (worker.child_pid(), False)):
        assert (b"\0OTEL_EXPORTER" in Path(f"/proc/{pid}/environ").read_bytes()) is is_told

    def told() -> list[Seen]:
        spans = [span for span in collector.spans() if span.trace == TRACE]
        return spans if len(spans) >= 10 else []

    until(told)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert sender.stop() == 0

    spans = by_name(told())
    assert set(spans) == {
        "POST /v1/videos",
        "job.wait",
        "job.attempt",
        "job.loading",
        "job.encoding",
        "job.denoising",
        "job.decoding",
        "job.post_processing",
        "job.uploading",
        "webhook.deliver",
    }
    call, attempt = spans["POST /v1/videos"], spans["job.attempt"]
    assert call.parent == CALLER
    for name in ("job.wait", "job.attempt", "webhook.deliver"):
        assert spans[name].parent == call.id, name
    stages = [spans[f"job.{s}"] for s in "loading encoding denoising decoding".split()]
    stages += [spans["job.post_processing"], spans["job.uploading"]]
    for stage, following in zip(stages, [*stages[1:], attempt], strict=True):
        assert stage.parent == attempt.id, stage.name
        assert stage.began <= stage.ended <= max(following.began, attempt.ended)
    assert call.began <= spans["job.wait"].began <= spans["job.wait"].ended <= attempt.began + 0.01
    assert {span.service for span in spans.values()} == {
        "praxino-api",
        "praxino-worker",
        "praxino-webhooks",
    }
    kinds = (call.kind, attempt.kind, spans["webhook.deliver"].kind)
    assert kinds == ("SERVER", "CONSUMER", "CLIENT")
    assert call.facts["http.response.status_code"] == 200
    assert {call.facts["praxino.job_id"], attempt.facts["praxino.job_id"]} == {job_id}
    assert (attempt.facts["praxino.verdict"], attempt.facts["praxino.attempt"]) == ("done", 1)
    assert attempt.facts["praxino.steps"] == 6
    assert spans["webhook.deliver"].facts["praxino.outcome"] == "delivered"
    assert not [span.name for span in spans.values() if span.failed]
    others = [span.name for span in collector.spans() if span.trace != TRACE]
    assert others == ["GET unmatched"], "health and metrics are not traced"
    for word in (SECRET_WORDS, "zeppelin", SECRET, plain_receiver.url()):
        assert word.encode() not in b"".join(collector.bodies), word


def test_every_attempt_of_a_job_has_its_place_and_a_fault_its_mark(
    collector: Collector, studio: Studio
) -> None:
    studio.worker()
    ordered = f"00-{TRACE}-{CALLER}-01"
    studio.submit("die=3 pace=0.01", traceparent=ordered)
    spans = until(lambda: attempts(collector) if len(attempts(collector)) >= 2 else [])[:2]
    assert [span.facts["praxino.attempt"] for span in spans] == [1, 2]
    assert {span.parent for span in spans} == {CALLER}
    assert all(span.failed and span.facts["error.type"] == "crashed" for span in spans)
    waits = [span for span in collector.spans() if span.name == "job.wait"]
    assert waits[1].began >= spans[0].ended - 0.2, "the second wait begins after the first attempt"


def attempts(collector: Collector) -> list[Seen]:
    return [span for span in collector.spans() if span.name == "job.attempt"]


def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    collector: Collector, studio: Studio
) -> None:
    collector.close()
    worker = studio.worker()
    done = studio.submit(traceparent=f"00-{TRACE}-{CALLER}-01")
    assert studio.ended(done).error is None
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - began < 10
    assert not collector.bodies


def test_without_a_collector_nothing_of_it_is_loaded() -> None:
    code = (
        "import os, sys\n"
        "from worker.jobs.tracing import open_tracing\n"
        "span = open_tracing('api').begin('a', 'server', '00-nonsense')\n"
        "assert span.traceparent == ''\n"
        "import worker.supervisor, worker.webhooks, service.app\n"
        "unwanted = 'opentelemetry.exporter', 'opentelemetry.sdk.trace', 'google.protobuf'\n"
        "def check():\n"
        "    loaded = [name for name in sys.modules if name.startswith(unwanted)]\n"
        "    assert not loaded, loaded\n"
        "check()\n"
        "os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = 'http://127.0.0.1:9'\n"
        "os.environ['OTEL_SDK_DISABLED'] = 'true'\n"
        "open_tracing('api')\n"
        "check()\n"
        "del os.environ['OTEL_SDK_DISABLED']\n"
        "open_tracing('api').close()\n"
        "assert 'opentelemetry.sdk.trace' in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=ROOT, timeout=240)


def test_an_empty_endpoint_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", " ")
    assert isinstance(open_tracing("api"), Untraced)


def test_an_endpoint_without_the_packages_is_told_and_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "worker.jobs.spans", raising=False)
    with capture_logs() as logged:
        assert isinstance(open_tracing("api"), Untraced)
    assert [event["event"] for event in logged] == ["traces.unavailable"]
