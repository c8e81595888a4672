"""Health, readiness, metrics, headers, and the envelope around every refusal."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from structlog.testing import capture_logs

from service import errors
from worker.jobs import keys
from worker.jobs.contract import ErrorCode

PROMPT = "a red fox walks to the left"


def envelope(answer):
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/videos/", 404, "not_found"),
        ("PUT", "/v1/videos", 405, "method_not_allowed"),
        ("GET", "/v1/models/nothing", 404, "model_not_found"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("PROPFIND", "/v1/videos", 405, "method_not_allowed"),
    ],
)
def test_the_frameworks_refusals_wear_the_envelope(client, method, path, status, code):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert envelope(answer)["code"] == code
    assert answer.headers["x-request-id"].startswith("req_")
    if status == 405:
        assert answer.headers["allow"] == ("GET" if path == "/healthz" else "GET, POST")


def test_a_method_that_http_does_not_know_is_refused_by_the_server_itself(client):
    assert client.request("BREW", "/v1/videos").status_code == 400
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/videos/edits", "POST"),
        ("/v1/videos/models", "GET"),
        ("/v1/videos/video_1", "DELETE, GET"),
    ],
)
def test_allow_names_the_methods_of_a_name_of_our_own_and_not_those_of_an_id(client, path, methods):
    assert client.request("PATCH", path).headers["allow"] == methods


def test_problem_details_are_for_who_asks(client):
    answer = client.get("/v1/nothing", headers={"Accept": "application/problem+json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404
    assert answer.json()["code"] == "not_found"


def test_an_unexpected_fault_says_nothing_about_itself(client, redis):
    made = client.post("/v1/videos", json={"prompt": PROMPT}).json()
    redis.hset(keys.job(made["id"]), "params", "a secret that is no JSON")
    with capture_logs() as logged:
        answer = client.get(f"/v1/videos/{made['id']}", headers={"x-request-id": "r-1"})
    assert answer.status_code == 500
    error = envelope(answer)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in answer.text
    assert "Validation" not in answer.text
    assert answer.headers["x-request-id"] == "r-1"
    assert [event["event"] for event in logged] == ["http.failed"]
    assert "secret" not in str(logged)


def test_every_answer_carries_its_id_and_time(client):
    for path in ("/healthz", "/v1/videos", "/v1/nothing", "/openapi.json"):
        first, second = client.get(path), client.get(path)
        assert first.headers["x-request-id"] != second.headers["x-request-id"]
        assert int(first.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("given", ["x" * 200, "a b", "é", "a\tb"])
def test_only_sane_request_ids_are_echoed(client, given):
    sane = client.get("/healthz", headers={"x-request-id": "trace-1.2:3"})
    assert sane.headers["x-request-id"] == "trace-1.2:3"
    odd = client.get("/healthz", headers={"x-request-id": given.encode("latin-1")})
    assert odd.headers["x-request-id"].startswith("req_")


def test_models_tell_their_limits_and_readiness(client, hand):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["pocket"]
    assert client.get("/v1/models/pocket").json() == listed["data"][0]
    assert set(listed["data"][0]) == {"id", "object", "created", "owned_by"}

    model = client.get("/v1/videos/models").json()["data"][0]
    assert (model["ready"], model["workers"], model["is_default"]) == (False, 0, True)
    hand.announce("starting")
    hand.announce("idle")
    model = client.get("/v1/videos/models").json()["data"][0]
    assert (model["ready"], model["workers"], model["loaded"]) == (True, 2, 2)


def test_what_models_tell_is_what_create_accepts(serving, two_cards):
    with serving(cards=two_cards).client() as client:
        for model in client.get("/v1/videos/models").json()["data"]:
            frames = model["num_frames"]
            for count in (frames["minimum"], frames["maximum"], frames["default"]):
                for steps in ("minimum", "maximum"):
                    body = {
                        "prompt": "p" * model["max_prompt_chars"],
                        "model": model["id"],
                        "size": model["sizes"][-1],
                        "num_frames": count,
                        "fps": model["fps"][0],
                        "num_inference_steps": model["num_inference_steps"][steps],
                        "guidance_scale": model["guidance_scale"][steps],
                        "sampler": model["samplers"][-1],
                        "task_type": "text",
                    }
                    answer = client.post("/v1/videos", json=body)
                    assert answer.status_code == 200, answer.text
            body = {"prompt": PROMPT, "model": model["id"], "num_frames": frames["maximum"] + 1}
            assert client.post("/v1/videos", json=body).status_code == 400


def test_readiness_needs_a_loaded_worker(client, hand):
    assert client.get("/readyz").status_code == 503
    assert envelope(client.get("/readyz"))["code"] == "not_ready"
    hand.announce("starting")
    assert client.get("/readyz").status_code == 503
    hand.announce("idle")
    assert client.get("/readyz").json() == {"status": "ready", "workers": 1, "paused": False}


def samples(client):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_jobs_and_requests_without_ids(serving, hand):
    with serving().client() as client:
        ids = [client.post("/v1/videos", json={"prompt": PROMPT}).json()["id"] for _ in range(3)]
        client.get(f"/v1/videos/{ids[0]}")
        client.get("/v1/unheard/of")
        hand.announce("busy")
        found = samples(client)
        assert found['praxino_jobs_submitted_total{model="pocket",task_type="text"}'] == 3
        assert found['praxino_queue_depth{queue="pocket"}'] == 3
        assert found['praxino_workers{state="busy"}'] == 1
        route = 'method="GET",route="/v1/videos/{video_id}",status="200"'
        assert found[f"praxino_http_requests_total{{{route}}}"] == 1
        route = 'method="GET",route="unmatched",status="404"'
        assert found[f"praxino_http_requests_total{{{route}}}"] == 1
        assert found["praxino_queue_up"] == 1
        text = client.get("/metrics").text
        assert not any(job_id in text for job_id in ids)
        assert "unheard" not in text


def test_metrics_count_how_jobs_ended_the_same_everywhere(serving, hand):
    """Counted by the queue server, so that every API process tells the same."""
    with serving().client() as client, serving().client() as other:
        done, failed, waiting = (
            client.post("/v1/videos", json={"prompt": PROMPT}).json()["id"] for _ in range(3)
        )
        hand.finish(done)
        hand.fail(failed, ErrorCode.TIMEOUT, "too long")
        client.post(f"/v1/videos/{waiting}/cancel")
        found = samples(client)
        kind = 'model="pocket",{}task_type="text"'
        for outcome in ("completed", "timeout", "cancelled"):
            labels = kind.format(f'outcome="{outcome}",')
            assert found[f"praxino_jobs_finished_total{{{labels}}}"] == 1
        assert found[f"praxino_job_queue_wait_seconds_count{{{kind.format('')}}}"] == 2
        assert found[f"praxino_job_run_seconds_count{{{kind.format('')}}}"] == 2
        stage = 'model="pocket",stage="denoising"'
        assert found[f"praxino_job_stage_seconds_sum{{{stage}}}"] == 1.25
        assert found[f'praxino_job_stage_seconds_bucket{{le="1.0",{stage}}}'] == 0
        assert found[f'praxino_job_stage_seconds_bucket{{le="2.5",{stage}}}'] == 1
        assert found['praxino_workers{state="idle"}'] == 0
        ours = {name: value for name, value in found.items() if "praxino_job" in name}
        theirs = samples(other)
        assert all(theirs[name] == value for name, value in ours.items() if "submitted" not in name)


def test_readiness_tells_when_every_worker_drains(client, hand):
    hand.announce("draining")
    answer = client.get("/readyz")
    assert (answer.status_code, envelope(answer)["code"]) == (503, "draining")
    hand.announce("idle")
    assert client.get("/readyz").status_code == 200


def test_readiness_ends_while_every_queue_is_full(serving, hand, two_cards):
    hand.announce("idle")
    hand.announce("idle", "wide")
    with serving(cards=two_cards, max_queue_depth=2).client() as client:
        for model, ready in (("pocket", 200), ("pocket", 200), ("wide", 200), ("wide", 503)):
            made = client.post("/v1/videos", json={"prompt": PROMPT, "model": model})
            assert made.status_code == 200, made.text
            assert client.get("/readyz").status_code == ready, model
        assert envelope(client.get("/readyz"))["code"] == "queue_full"
        assert int(client.get("/readyz").headers["retry-after"]) > 0
        hand.finish(made.json()["id"])
        assert client.get("/readyz").status_code == 200
    with serving(cards=two_cards, unready_depth=1).client() as client:
        assert client.get("/readyz").status_code == 503
        assert client.post("/v1/videos", json={"prompt": PROMPT}).status_code == 200


def test_a_stopping_api_is_unready_and_takes_no_job_but_serves_on(job_settings, tmp_path):
    """A real process: told to stop, it drains for a while, ends its streams and leaves."""
    listener = socket.create_server(("127.0.0.1", 0))
    environment = os.environ | {
        "PRAXINO_REDIS_URL": job_settings.redis_url.get_secret_value(),
        "PRAXINO_DATA_DIR": str(tmp_path),
        "PRAXINO_API_DRAIN_S": "3",
    }
    command = [sys.executable, "-m", "service.cli", "api", "--fd", str(listener.fileno())]
    process = subprocess.Popen(
        command, env=environment, pass_fds=(listener.fileno(),), stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
        made = client.post("/v1/videos", json={"prompt": PROMPT})
        path = f"/v1/videos/{made.json()['id']}"
        with client.stream("GET", f"{path}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            process.terminate()
            deadline = time.monotonic() + 30
            while envelope_code(client, "/readyz") != "draining":
                assert time.monotonic() < deadline
            answer = client.post("/v1/videos", json={"prompt": PROMPT})
            assert (answer.status_code, envelope(answer)["code"]) == (503, "draining")
            assert client.get(path).status_code == 200
            rest = list(lines)  # ends, so that the client resumes elsewhere
        assert "data: [DONE]" not in rest
    assert process.wait(30) in (0, -signal.SIGTERM)


def envelope_code(client, path):
    return client.get(path).json()["error"]["code"]


def test_without_the_queue_server_everything_says_so_and_health_answers(serving, valkey):
    with serving().client() as client:
        assert client.post("/v1/videos", json={"prompt": PROMPT}).status_code == 200
        valkey.stop()
        try:
            for method, path in (
                ("POST", "/v1/videos"),
                ("GET", "/v1/videos"),
                ("GET", f"/v1/videos/video_{'0' * 32}"),
                ("GET", "/readyz"),
                ("GET", "/v1/videos/models"),
                ("GET", "/v1/models"),  # whose key it is, is not known
            ):
                body = {"json": {"prompt": PROMPT}} if method == "POST" else {}
                answer = client.request(method, path, **body)
                assert answer.status_code == 503, path
                assert envelope(answer)["code"] == "queue_unavailable"
                assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert client.get("/healthz").status_code == 200
            assert samples(client)["praxino_queue_up"] == 0
        finally:
            valkey.start()
        assert client.get("/v1/videos").json()["data"]


def test_health_answers_at_once_while_every_thread_waits(serving, valkey):
    """A queue server that accepts and never answers is the worst case: each call hangs."""
    api = serving()
    hanging = []

    def call():
        with api.client() as other:
            hanging.append(other.get("/v1/videos").status_code)

    threads = [threading.Thread(target=call) for _ in range(60)]
    took = []
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        with api.client() as client:
            for _ in range(5):
                began = time.perf_counter()
                assert client.get("/healthz").json() == {"status": "ok"}
                took.append(time.perf_counter() - began)
        assert not hanging
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
    assert min(took) < 0.1
    assert set(hanging) <= {200, 503}


def test_the_api_process_never_loads_torch():
    code = (
        "import sys, service.app, service.settings\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'av', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_every_refusal_has_a_legal_status_and_type():
    kinds = {
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    }
    pending, seen = [errors.ApiError], []
    while pending:
        kind = pending.pop()
        seen.append(kind)
        pending += kind.__subclasses__()
        assert kind.type in kinds
        assert 400 <= kind.status <= 503
        assert (kind.type == "server_error") == (kind.status >= 500)
    assert len(seen) > 20


def test_a_foreign_default_model_is_refused_at_the_start(serving):
    with pytest.raises(ValueError, match="default_model 'sora-2'"):
        serving(default_model="sora-2")
