"""Jobs for one class of workers reach these alone; jobs for any reach all."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from tests.worker.jobs.conftest import Bench
from worker.jobs import store as stores
from worker.jobs import transport
from worker.jobs.contract import Tier
from worker.jobs.outcomes import QueueFull
from worker.jobs.pause import Pause
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore
from worker.settings import WorkerSettings

CLASSES = ("large", "small")


@pytest.fixture
def classed(bench: Bench, job_settings: JobSettings, make_submission) -> Bench:
    settings = job_settings.model_copy(update={"gpu_classes": CLASSES, "max_queue_depth": 4})
    return Bench(JobStore(bench.redis, settings), bench.redis, make_submission)


def take(bench: Bench, gpu_class: str) -> str | None:
    """What a worker of a class is handed out; None if nothing."""
    names = transport.served_queues("pocket", gpu_class)
    queues = [transport.JsonQueue(name, connection=bench.redis) for name in names]
    found = transport.JsonQueue.dequeue_any(queues, None, bench.redis)
    return None if found is None else found[0].id


def test_a_job_for_a_class_is_handed_to_nobody_else(classed):
    meant = classed.submit(gpu_class="large")
    assert meant.gpu_class == "large"
    assert take(classed, "small") is None
    assert take(classed, "") is None
    assert take(classed, "large") == meant.id


@pytest.mark.parametrize("gpu_class", ["large", ""])
def test_a_job_for_any_is_handed_to_all(classed, gpu_class):
    anybodys = classed.submit()
    assert anybodys.gpu_class == ""
    assert take(classed, gpu_class) == anybodys.id


def test_within_a_tier_a_worker_serves_its_own_class_first(classed):
    order = [
        classed.submit(tier=tier, gpu_class=gpu_class).id
        for tier, gpu_class in ((Tier.DEFAULT, ""), (Tier.DEFAULT, "large"), (Tier.PRIORITY, ""))
    ]
    assert [take(classed, "large") for _ in range(3)] == [order[2], order[1], order[0]]


def test_the_cap_of_a_model_counts_every_class(classed):
    for gpu_class in ("", "large", "small", ""):
        classed.submit(gpu_class=gpu_class)
    assert classed.store.depth("pocket") == len(classed.store.waiting("pocket")) == 4
    assert classed.store.oldest("pocket") is not None
    with pytest.raises(QueueFull):
        classed.submit(gpu_class="large")


def test_a_paused_model_is_so_for_every_class(classed):
    meant = classed.submit(gpu_class="large")
    Pause(classed.redis).pause("pocket")
    assert take(classed, "large") is None
    Pause(classed.redis).resume("pocket")
    assert take(classed, "large") == meant.id


def test_a_job_that_is_given_back_waits_for_its_class_again(classed):
    meant = classed.submit(gpu_class="large")
    taken = take(classed, "large")
    assert taken is not None
    queue = transport.queue_name("pocket", Tier.DEFAULT, "large")
    wip = transport.wip_key(queue)
    assert classed.store.claim(meant.id, "e1", "worker-1", wip).job is not None
    assert classed.store.requeue(meant.id, "e1", "drain", counts=False)
    assert classed.store.rescue(meant.id, queue) == "pushed"
    assert take(classed, "") is None
    assert take(classed, "large") == meant.id


def test_its_place_counts_what_its_workers_serve_before(classed):
    classed.submit(tier=Tier.PRIORITY)
    classed.submit(tier=Tier.PRIORITY, gpu_class="small")
    meant = classed.submit(gpu_class="large")
    assert classed.store.get(meant.id).queue_position == 2


def test_room_is_made_for_the_worker_of_a_class(classed, monkeypatch):
    monkeypatch.setattr(stores, "ROOM_AFTER_S", 0.0)
    job, exec = classed.running(tier=Tier.FLEX)
    classed.submit(tier=Tier.PRIORITY, gpu_class="large")
    assert not classed.store.outranked(job, exec, "small")
    assert classed.store.outranked(job, exec, "large")


def test_mates_are_taken_only_if_nothing_is_served_before(classed, monkeypatch):
    monkeypatch.setattr(stores, "MATE_AFTER_S", 0.0)
    first, mate = classed.submit(), classed.submit()
    leader = classed.store.peek([take(classed, "") or ""])[0]
    assert leader.id == first.id
    meant = classed.submit(gpu_class="large")
    before = transport.served_queues("pocket", "large")
    before = before[: before.index(transport.queue_name("pocket"))]
    assert classed.store.mates(leader, 1, before) == []
    assert take(classed, "large") == meant.id
    assert classed.store.mates(leader, 1, before) == [mate.id]


def test_the_folder_of_one_model_is_not_that_of_several():
    several = {"models": "one, two,one"}
    settings = WorkerSettings(redis_url="redis://host", **several)
    assert (settings.served, settings.model) == (("one", "two"), "pocket")
    assert WorkerSettings(redis_url="redis://host", weights_dir="w").served == ("pocket",)
    with pytest.raises(ValidationError, match="there are several"):
        WorkerSettings(redis_url="redis://host", weights_dir="w", **several)
    for fields in (several, {"idle_unload_s": 1}):
        with pytest.raises(ValidationError, match="ranks keep the one model"):
            WorkerSettings(redis_url="redis://host", ranks=2, **fields)


def test_a_class_that_is_not_there_is_refused(classed, make_submission):
    wanted = replace(make_submission(), gpu_class="huge")
    with pytest.raises(ValueError, match="'huge' is none of"):
        classed.store.submit(wanted)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"gpu_classes": "large,Small"}, "'Small'"),
        ({"gpu_classes": "a@b"}, "'a@b'"),
        ({"gpu_classes": "large", "gpu_class": "small"}, "'small' is none of gpu_classes: large"),
        ({"gpu_class": "small"}, "'small' is none of gpu_classes: none"),
    ],
)
def test_wrong_names_of_classes_are_refused(fields, reason):
    with pytest.raises(ValidationError, match=reason):
        WorkerSettings(redis_url="redis://host", **fields)
