"""Which waiting jobs join a batch: those who are next anyway, as long as they are of its kind."""

from typing import Any

import pytest

from worker.jobs import store, transport
from worker.jobs.contract import Tier, VideoRequest
from worker.jobs.likeness import ALONE, kind_of
from worker.jobs.pause import Pause
from worker.jobs.transport import JsonQueue

from .conftest import QUEUE, Bench
from .test_admission import capped
from .test_costs import request
from .test_fairness import drain, submit, take


@pytest.fixture
def bench(redis, job_settings, make_submission, monkeypatch):
    """A bench whose tenants may queue as much as they like, and whose jobs have waited enough."""
    monkeypatch.setattr(store, "MATE_AFTER_S", 0.0)
    return Bench(capped(redis, job_settings, max_active_per_tenant=9999), redis, make_submission)


def take_batch(bench, most=9):
    """The ids that a worker would make at once now."""
    first = bench.store.get(take(bench))
    return [first.id, *bench.store.mates(first, most)]


def handed_out(bench):
    return [id.decode() for id in bench.redis.lrange(transport.intermediate_key(QUEUE), 0, -1)]


def plain(**changes: Any) -> VideoRequest:
    return request().model_copy(update=changes)


def test_a_batch_is_what_would_be_handed_out_next_in_that_order(bench):
    ids = submit(bench, "a", "a", "a", "b", "c", "b", "a")
    expected = [ids[0], ids[3], ids[4], ids[1], ids[5], ids[2], ids[6]]
    assert bench.store.waiting("pocket") == expected
    batch = take_batch(bench, most=4)
    assert batch == expected[:5]
    assert handed_out(bench) == batch
    assert bench.store.waiting("pocket") == drain(bench) == expected[5:]


def test_a_thousand_jobs_of_one_tenant_leave_another_ones_its_turn(bench):
    submit(bench, *["crowd"] * 1000)
    first = bench.store.get(take(bench))
    (single,) = submit(bench, "single")
    assert single in bench.store.mates(first, 1)
    other = submit(bench, "other", request=plain(num_frames=24))
    assert take_batch(bench) == other  # its turn, though the crowd's would have fitted


def test_nobody_is_passed_over_for_one_that_fits(bench):
    fits, different, behind = (
        bench.submit(tenant=tenant, request=plain(num_inference_steps=steps)).id
        for tenant, steps in (("a", 20), ("b", 30), ("c", 20))
    )
    assert take_batch(bench) == [fits]
    assert take_batch(bench) == [different]
    assert take_batch(bench) == [behind]


def test_a_job_that_is_served_before_ends_the_batch(bench):
    default = submit(bench, "a", "a", "a")
    first = bench.store.get(take(bench))
    submit(bench, "b", tier=Tier.PRIORITY)
    assert bench.store.mates(first, 9) == []
    take(bench)
    assert bench.store.mates(first, 9) == default[1:]


def test_batches_hold_one_tier(bench):
    submit(bench, "a", tier=Tier.FLEX)
    submit(bench, "a")
    assert len(take_batch(bench)) == 1
    assert len(take_batch(bench)) == 1


def test_a_paused_queue_adds_nobody_and_one_served_before_stops_nobody(bench):
    pause = Pause(bench.redis)
    submit(bench, "a", "a", "a")
    first = bench.store.get(take(bench))
    pause.pause("pocket")
    assert bench.store.mates(first, 9) == []
    pause.resume("pocket")
    submit(bench, "b", tier=Tier.PRIORITY)
    above = transport.queue_key(transport.queue_name("pocket", Tier.PRIORITY))
    bench.redis.sadd("px:paused", above)
    assert len(bench.store.mates(first, 9)) == 2


def test_a_job_that_was_given_back_is_made_alone(bench):
    job, exec = bench.running(tenant="a")
    (other,) = submit(bench, "a")
    first = bench.store.get(take(bench))
    assert first.id == other
    bench.store.requeue(job.id, exec, "the child died", counts=True)
    bench.redis.zrem(transport.wip_key(QUEUE), f"{job.id}:{exec}")
    assert bench.store.rescue(job.id, QUEUE) == "pushed"
    submit(bench, "a")
    assert bench.store.mates(first, 9) == []


def test_what_has_just_come_is_left_to_idle_workers(bench, monkeypatch):
    ids = submit(bench, "a", "a")
    first = bench.store.get(take(bench))
    monkeypatch.setattr(store, "MATE_AFTER_S", 3600.0)
    assert bench.store.mates(first, 9) == []
    monkeypatch.setattr(store, "MATE_AFTER_S", 0.0)
    assert bench.store.mates(first, 9) == ids[1:]


def test_a_lost_reply_takes_nobody_twice(bench, monkeypatch):
    ids = submit(bench, "a", "a", "a", "a")
    first = bench.store.get(take(bench))
    call = bench.store._scripts.call
    monkeypatch.setattr(bench.store._scripts, "call", lambda *args: (call(*args), call(*args))[1])
    assert bench.store.mates(first, 2) == ids[1:3]
    assert handed_out(bench) == ids[:3]
    assert bench.store.tally().batched == {("pocket", "3"): 1}


def test_a_mate_has_an_entry_and_is_claimed_like_any_other(bench):
    ids = submit(bench, "a", "a")
    batch = take_batch(bench)
    entry = JsonQueue.entry_of(bench.redis, QUEUE, batch[1])
    assert entry is not None
    assert (entry.id, entry.origin) == (ids[1], QUEUE)
    assert bench.claim(batch[1], "e1").attempt == 1


def test_a_job_that_is_always_made_alone_takes_nobody_along(bench):
    alone = plain(task_type="image")
    bench.submit(tenant="a", request=alone)
    bench.submit(tenant="a", request=alone)
    assert len(take_batch(bench)) == 1
    assert bench.store.tally().batched == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 9},
        {"prompt": "another"},
        {"negative_prompt": "grey"},
        {"guidance_scale": 7.5},
        {"guidance_rescale": 0.5},
        {"metadata": {"a": "b"}},
        {"return_last_frame": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_words_seeds_and_strengths_differ_as_they_like(changes):
    assert kind_of(plain(**changes)) == kind_of(plain()) != ALONE


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 128},
        {"height": 128},
        {"num_frames": 17},
        {"fps": 12},
        {"num_inference_steps": 21},
        {"sampler": "ancestral"},
        {"guidance_scale": 1.0},
        {"guidance_schedule": "oscillating"},
        {"quality": "draft"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_shape_or_number_of_passes_is_another_kind(changes):
    assert kind_of(plain(**changes)) not in (kind_of(plain()), ALONE)


@pytest.mark.parametrize(
    "changes",
    [
        {"task_type": "image"},
        {"adapter": "rex"},
        {"reconstruction_weight": 1.0},
        {"quality": "fast"},
        {"quality": "turbo"},
    ],
)
def test_what_never_gains_is_made_alone(changes):
    assert kind_of(plain(**changes)) == ALONE
