"""Tenants take turns: whoever queues much delays whoever queues little by one job a worker."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.jobs import keys, transport
from worker.jobs.callers import CallerBook, Limits
from worker.jobs.connection import worker_client
from worker.jobs.contract import Tier
from worker.jobs.outcomes import QueueFull, TenantFull
from worker.jobs.store import JobStore
from worker.jobs.transport import JsonQueue

from .conftest import QUEUE, Bench
from .test_admission import capped, flood

MODEL = "pocket"


@pytest.fixture
def bench(redis, job_settings, make_submission):
    """A bench whose tenants may queue as much as they like."""
    return Bench(capped(redis, job_settings, max_active_per_tenant=9999), redis, make_submission)


def queues(bench):
    names = transport.model_queues(MODEL)
    return [JsonQueue(name, connection=bench.redis) for name in names]


def take(bench):
    """The id that a worker would get now, or None."""
    taken = JsonQueue.dequeue_any(queues(bench), None, bench.redis)
    return taken and taken[0].id


def drain(bench):
    return list(iter(lambda: take(bench), None))


def submit(bench, *tenants, **fields):
    return [bench.submit(tenant=tenant, **fields).id for tenant in tenants]


def test_a_thousand_jobs_delay_another_tenants_by_one_job_a_worker(bench):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: submit(bench, "crowd"), range(1000)))
    for workers in (1, 1, 2, 4):
        for _ in range(workers):
            assert bench.store.get(take(bench)).tenant == "crowd"
        (single,) = submit(bench, "single")
        # Every worker is busy with one job of the crowd, and the first to end takes this one.
        assert bench.store.get(single).queue_position == 1
        assert take(bench) == single
    assert bench.store.depth() == 992


def test_tenants_are_served_in_turn(bench):
    ids = submit(bench, *"aaabbc")
    assert drain(bench) == [ids[i] for i in (0, 3, 5, 1, 4, 2)]


def test_a_tenant_that_always_has_one_waiting_gets_no_more_than_its_share(bench):
    submit(bench, *["crowd"] * 20)
    served = []
    submit(bench, "steady")
    for _ in range(12):
        served.append(bench.store.get(take(bench)).tenant)
        if served[-1] == "steady":
            submit(bench, "steady")
    assert served == ["crowd", "steady"] * 6


def test_ever_new_tenants_do_not_starve_those_that_wait(bench):
    waiting = submit(bench, "old", "old")
    take(bench)
    for number in range(3):
        submit(bench, f"new-{number}")
    assert bench.store.get(waiting[1]).queue_position == 4
    for number in range(3, 8):
        take(bench)
        if number < 6:
            submit(bench, f"new-{number % 3}")  # served before: behind
    assert waiting[1] not in bench.store.waiting(MODEL)


def test_cancelled_jobs_cost_their_tenant_no_turn(bench):
    ids = submit(bench, *["a"] * 50, "b", "b", "b")
    for job_id in ids[:48]:
        bench.store.cancel(job_id, "a")
    assert drain(bench) == [ids[i] for i in (48, 50, 49, 51, 52)]


def test_a_job_given_back_is_next(bench):
    first, *rest = submit(bench, *"aab")
    assert take(bench) == first
    assert bench.store.rescue(first, QUEUE) == "pushed"
    assert bench.store.get(first).queue_position == 1
    assert drain(bench) == [first, rest[1], rest[0]]


def test_priority_goes_before_default_before_flex(bench):
    tiers = [Tier.FLEX, Tier.DEFAULT, Tier.PRIORITY, Tier.FLEX, Tier.DEFAULT, Tier.PRIORITY]
    ids = [bench.submit(tier=tier).id for tier in tiers]
    order = [ids[i] for i in (2, 5, 1, 4, 0, 3)]
    assert [bench.store.get(job_id).queue_position for job_id in order] == [1, 2, 3, 4, 5, 6]
    assert bench.store.depth(MODEL) == 6
    assert drain(bench) == order


def test_turns_of_one_tier_are_not_those_of_another(bench):
    submit(bench, "a", "b", tier=Tier.FLEX)
    take(bench)
    first, second = submit(bench, "a", "b")
    assert [take(bench), take(bench)] == [first, second]


@pytest.mark.parametrize("seed", range(3))
def test_the_queue_position_is_the_place_in_the_order_of_service(bench, seed):
    chance = random.Random(seed)
    taken, known = [], []
    for _ in range(120):
        action = chance.choices(("submit", "take", "cancel", "back"), (6, 2, 1, 1))[0]
        if action == "submit":
            tenant = chance.choices("abcd", (8, 4, 2, 1))[0]
            known += submit(bench, tenant, tier=chance.choice(list(Tier)))
        elif action == "take":
            taken += [job_id for job_id in [take(bench)] if job_id]
        elif action == "back" and taken:
            job_id = taken.pop(chance.randrange(len(taken)))
            bench.store.rescue(job_id, transport.queue_name(MODEL))
        elif action == "cancel" and known:
            job_id = chance.choice(known)
            bench.store.cancel(job_id, bench.store.get(job_id).tenant)
    waiting = bench.store.waiting(MODEL)
    assert len(waiting) == bench.store.depth(MODEL) > 5
    said = {job_id: bench.store.get(job_id).queue_position for job_id in waiting}
    assert sorted(said, key=said.__getitem__) == waiting
    assert list(said.values()) == list(range(1, len(waiting) + 1))
    assert drain(bench) == waiting


def test_nothing_is_left_of_a_queue_that_was_drained(bench):
    submit(bench, *"aabbc")
    drain(bench)
    left = {key.decode() for key in bench.redis.scan_iter()}
    queue = transport.queue_key(QUEUE)
    assert not {key for key in left if key.startswith((keys.LINE, keys.TURNS, keys.BELL))}
    assert left & {keys.SERVED + queue}, "whose turn it was is remembered"


def test_an_id_pushed_past_admission_is_handed_out_too(bench):
    first, second = submit(bench, "a", "a")
    bench.redis.rpush(transport.queue_key(QUEUE), "stranger", first)
    assert drain(bench) == [first, second, "stranger"]


def test_lines_survive_a_lost_list(bench):
    ids = submit(bench, "a", "b")
    bench.redis.delete(transport.queue_key(QUEUE))
    assert bench.store.rescue(ids[1], QUEUE) == "pushed"
    assert drain(bench) == [ids[1], ids[0]]


def test_an_idle_worker_wakes_at_once(bench, valkey):
    delays = []
    with worker_client(valkey.url) as patient:
        listening = [JsonQueue(name, patient) for name in transport.model_queues(MODEL)]

        def work():
            JsonQueue.dequeue_any(listening, 30, patient)
            delays.append(time.monotonic() - submitted)

        for tier in Tier:
            worker = threading.Thread(target=work)
            worker.start()
            time.sleep(0.1)
            submitted = time.monotonic()
            bench.submit(tier=tier)
            worker.join(20)
    assert len(delays) == 3
    assert max(delays) < 0.5, delays


def test_every_idle_worker_gets_one_of_many_jobs(bench, valkey):
    taken = []

    def work():
        with worker_client(valkey.url) as patient:
            found = JsonQueue.dequeue_any([JsonQueue(QUEUE, patient)], 20, patient)
            taken.append(found[0].id)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    ids = submit(bench, *"ababab")
    for worker in workers:
        worker.join(30)
    assert sorted(taken) == sorted(ids)


def test_the_depth_of_a_model_counts_all_its_tiers(redis, job_settings, make_submission):
    store = capped(redis, job_settings, max_queue_depth=40)
    tiers = list(Tier)
    submissions = [make_submission(tier=tiers[i % 3], tenant=f"t{i % 5}") for i in range(80)]
    admitted, refused = flood(store, submissions)
    assert len(admitted) == store.depth(MODEL) == 40
    assert {type(error) for error in refused} == {QueueFull}


def test_a_tenants_waiting_jobs_stop_exactly_at_their_cap(redis, job_settings, make_submission):
    store = capped(redis, job_settings, max_queued_per_tenant=25)
    tiers = list(Tier)
    admitted, refused = flood(store, [make_submission(tier=tiers[i % 3]) for i in range(60)])
    assert len(admitted) == store.depth(MODEL) == 25
    assert {type(error) for error in refused} == {TenantFull}
    assert "25 jobs of this tenant wait" in str(refused[0])
    store.submit(make_submission(tenant="other"))
    store.submit(make_submission(model="another"))


@pytest.mark.parametrize("name", ["max_active", "max_queued"])
def test_a_tenants_own_caps_go_before_everybodys(redis, job_settings, make_submission, name):
    store = JobStore(redis, job_settings)
    CallerBook(redis).set_limits("studio", Limits(**{name: 7}))
    admitted, refused = flood(store, [make_submission() for _ in range(30)])
    assert (len(admitted), store.depth()) == (7, 7)
    assert {error.limit for error in refused} == {7}
