"""Who makes room for a job of the highest tier: one of the lowest, one at a time, not for ever."""

import time

import pytest

from worker.jobs import keys, store, transport
from worker.jobs.contract import Tier


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(store, "ROOM_AFTER_S", 0.0)


def made(bench):
    """Forget who made room."""
    bench.redis.delete(keys.ROOM + "pocket")


def test_the_lowest_tier_makes_room_for_the_highest(bench):
    job, exec = bench.running(tier=Tier.FLEX)
    assert not bench.store.outranked(job, exec)
    bench.submit(tier=Tier.DEFAULT)
    assert not bench.store.outranked(job, exec)
    bench.submit(tier=Tier.PRIORITY)
    assert bench.store.outranked(job, exec)


@pytest.mark.parametrize("tier", [Tier.DEFAULT, Tier.PRIORITY])
def test_other_tiers_stay(bench, tier):
    job, exec = bench.running(tier=tier)
    bench.submit(tier=Tier.PRIORITY)
    assert not bench.store.outranked(job, exec)


def test_one_job_at_a_time_makes_room(bench):
    running = [bench.running(tier=Tier.FLEX) for _ in range(3)]
    bench.submit(tier=Tier.PRIORITY)
    assert [bench.store.outranked(*each) for each in running] == [True, False, False]
    assert [bench.store.outranked(*each) for each in running] == [True, False, False]


def test_a_job_makes_room_twice_and_then_runs_to_its_end(bench):
    job = bench.submit(tier=Tier.FLEX)
    bench.submit(tier=Tier.PRIORITY)
    for attempt, room in (("e1", True), ("e2", True), ("e3", False)):
        made(bench)
        assert bench.claim(job.id, attempt).job is not None
        assert bench.store.outranked(job, attempt) == room
        assert bench.store.requeue(job.id, attempt, "room", counts=False)


def test_an_attempt_that_lost_the_job_makes_no_room(bench):
    job, exec = bench.running(tier=Tier.FLEX)
    bench.submit(tier=Tier.PRIORITY)
    assert not bench.store.outranked(job, "stranger")
    assert bench.store.requeue(job.id, exec, "drain", counts=False)
    assert not bench.store.outranked(job, exec)


def test_a_job_that_has_just_come_waits_for_an_idle_worker_first(bench, monkeypatch):
    monkeypatch.setattr(store, "ROOM_AFTER_S", 0.3)
    job, exec = bench.running(tier=Tier.FLEX)
    bench.submit(tier=Tier.PRIORITY)
    assert not bench.store.outranked(job, exec)
    time.sleep(0.35)
    assert bench.store.outranked(job, exec)


def test_a_worker_of_several_models_makes_room_for_any_of_them(bench):
    first, second = bench.running(tier=Tier.FLEX), bench.running(tier=Tier.FLEX, model="other")
    bench.submit(tier=Tier.PRIORITY, model="other")
    assert not bench.store.outranked(*first)
    assert bench.store.outranked(*first, "", ("pocket", "other"))
    assert not bench.store.outranked(*second, "", ("pocket", "other"))  # one is enough
    bench.submit(tier=Tier.PRIORITY)
    assert bench.store.outranked(*second, "", ("pocket", "other"))


PRIORITY = transport.queue_key(transport.queue_name("pocket", Tier.PRIORITY))


@pytest.mark.parametrize("paused", ["*", PRIORITY])
def test_nobody_makes_room_for_a_queue_that_is_paused(bench, paused):
    job, exec = bench.running(tier=Tier.FLEX)
    bench.submit(tier=Tier.PRIORITY)
    bench.redis.sadd(keys.PAUSED, paused)
    assert not bench.store.outranked(job, exec)
    bench.redis.srem(keys.PAUSED, paused)
    assert bench.store.outranked(job, exec)
