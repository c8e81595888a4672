"""Every panel of the dashboard asks for what `/metrics` gives, by name and label."""

import json
import re
from pathlib import Path

import pytest

from worker.jobs import keys
from worker.jobs.contract import ErrorCode
from worker.jobs.costs import Sample, Shape
from worker.jobs.outbox import Outbox
from worker.jobs.outcomes import Serving, WorkerInfo

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "praxino.json"
METRIC = re.compile(r"\b(?:praxino|process)_\w+")
SCRAPED = {"instance", "job", "le"}  # labels that Prometheus adds, and that of every histogram


def queries():
    """Panel and query of everything that the dashboard shows."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = [panel for panel in panels if panel["type"] != "row"]
    return [(panel["title"], target["expr"]) for panel in shown for target in panel["targets"]]


def given(text):
    """The labels of every sample of an exposition, by its name."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition(" ")[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', rest))
    return found


def asked(expression):
    """The labels that a query names."""
    groups = re.findall(r"by \(([^)]*)\)", expression)
    matched = re.findall(r"(\w+)!?=~?\"", expression)
    return {label.strip() for group in groups for label in group.split(",")} | set(matched)


@pytest.fixture
def exposition(serving, hand, make_submission):
    """The metrics of a service on which everything that is counted has happened."""
    with serving().client() as client:
        shape = Shape(task_type="text", width=64, height=64, num_frames=16, passes=2)
        sample = Sample(shape=shape, lead_s=0.1, step_s=0.25, tail_s=0.1, peak_mb=512)
        basics = {
            "name": "hand-0",
            "model": "pocket",
            "state": "idle",
            "pid": 1,
        }
        told = Serving(
            model="pocket",
            loaded=True,
            weights_sha256="ab" * 32,
            seconds_per_step=0.25,
            memory_mb=1024,
            peak_mb=512,
            samples=(sample,),
        )
        worker = WorkerInfo(**basics, serving=(told,))
        hand.store.put_worker(worker, ttl_s=30)
        order = {"prompt": "a red fox", "seed": 3}
        ids = [client.post("/v1/videos", json=order | {"seed": n}).json()["id"] for n in range(4)]
        hand.finish(ids[0])
        assert client.post("/v1/videos", json=order | {"seed": 0, "cache": True}).json()["cached"]
        hand.fail(ids[1], ErrorCode.TIMEOUT, "too long")
        client.post(f"/v1/videos/{ids[2]}/cancel")
        _, exec = hand.start(ids[3])
        assert hand.store.requeue(ids[3], exec, "the inference process died", counts=True)
        told = hand.store.submit(make_submission(callback_url="https://receiver.example/")).job
        hand.store.cancel(told.id, told.tenant)
        outbox = Outbox(hand.redis, hand.store.settings)
        assert outbox.settle(outbox.due(1)[0], "delivered", "")
        hand.store.count_load("pocket")
        yield client.get("/metrics").text


def test_every_panel_asks_for_what_there_is(exposition):
    known = given(exposition)
    for panel, expression in queries():
        names = METRIC.findall(expression)
        assert names, panel
        for name in names:
            assert name in known, f"{panel}: nothing is called {name}"
        labels = set().union(*(known[name] for name in names)) | SCRAPED
        assert asked(expression) <= labels, f"{panel}: {asked(expression) - labels}"


def test_everything_that_is_counted_is_shown(exposition):
    shown = {name for _, expression in queries() for name in METRIC.findall(expression)}
    roots = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    ours = {name for name in given(exposition) if name.startswith("praxino_")}
    # A counter's moment of making, and batches, which say more in a log.
    ours = {name for name in ours if not name.endswith("_created") and "batches" not in name}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours} - roots == set()


def test_figures_of_workers_and_queues_are_in_plain_units(exposition):
    values = dict(line.rsplit(" ", 1) for line in exposition.splitlines() if line[0] != "#")
    worker = 'model="pocket",worker="hand-0"'
    assert float(values[f"praxino_worker_steps_per_second{{{worker}}}"]) == 4
    memory = 'praxino_worker_memory_bytes{kind="%s",' + worker + "}"
    assert float(values[memory % "limit"]) == 1024 * 2**20
    assert float(values[memory % "peak"]) == 512 * 2**20
    assert float(values['praxino_model_loads_total{model="pocket"}']) == 1
    kind = 'model="pocket",task_type="text",why="fault"'
    assert float(values[f"praxino_jobs_requeued_total{{{kind}}}"]) == 1
    assert float(values['praxino_queue_depth{queue="pocket"}']) == 0
    assert float(values['praxino_queue_age_seconds{queue="pocket"}']) == 0
    assert float(values["praxino_webhooks_waiting"]) == 0


def test_the_age_of_a_queue_is_that_of_its_first_order(client, hand):
    assert hand.store.oldest("pocket") is None
    first = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
    client.post("/v1/videos", json={"prompt": "b", "service_tier": "flex"})
    hand.redis.hincrbyfloat(keys.job(first), "created_at", -100)
    assert 100 <= hand.store.oldest("pocket") < 160
    line = 'praxino_queue_age_seconds{queue="pocket"} '
    assert float(client.get("/metrics").text.split(line)[1].split("\n")[0]) >= 100
