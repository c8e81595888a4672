"""Clients resend a command whose reply was lost: every script twice equals once."""

import hashlib

import pytest

from worker.jobs import keys, transport
from worker.jobs.contract import Tier
from worker.jobs.scripts import NAMES, Scripts

from .conftest import QUEUE, WIP

LISTS = transport.queue_key(QUEUE), transport.intermediate_key(QUEUE)
ERROR = '{"code":"timeout","message":"too long"}'


def admit(bench):
    calls = []
    scripts = bench.store._scripts
    original = scripts.call
    scripts.call = lambda *args: calls.append(args) or original(*args)
    bench.submit(idempotency_key="k")
    scripts.call = original
    return calls[0][1:]


def recall(bench):
    job = bench.submit(idempotency_key="k", fingerprint="ab")
    assert job.id
    return "studio", "ab", hashlib.sha256(b"k").hexdigest(), 0


def claim(bench):
    job = bench.submit()
    bench.lease(job.id, "e1")
    return job.id, "e1", "worker-1", WIP


def take_over(bench):
    job, exec = bench.running()
    bench.lease(job.id, exec, -1)
    return job.id, "e2", "worker-1", WIP


def claim_expired(bench):
    return bench.submit(queue_deadline_s=1e-6).id, "e1", "worker-1", WIP


def publish_result(bench):
    return *running(bench), "completed", "result", "{}"


def publish_error(bench):
    return *running(bench), "failed", "error", ERROR


def checkpoint(bench):
    return *running(bench), '{"steps": 3}'


def outrank(bench):
    job, exec = bench.running(tier="flex")
    bench.submit(tier="priority")
    above = transport.queue_key(transport.queue_name("pocket", Tier.PRIORITY))
    return job.id, exec, "flex", 0, 10, 2, above


def requeue(bench):
    return *running(bench), "child died", 1


def requeue_last(bench):
    job_id, exec = running(bench)
    bench.redis.hset(keys.job(job_id), "retries_left", 0)
    return job_id, exec, "child died", 1


def running(bench):
    job, exec = bench.running()
    return job.id, exec


def cancel_queued(bench):
    job = bench.submit()
    return job.id, "studio", 0, transport.entry_key(job.id)


def cancel_running(bench):
    job, _ = bench.running()
    return job.id, "studio", 0, transport.entry_key(job.id)


def delete_queued(bench):
    job = bench.submit()
    return job.id, "studio", 1, transport.entry_key(job.id)


def delete_running(bench):
    job, _ = bench.running()
    return job.id, "studio", 1, transport.entry_key(job.id)


def reap(bench):
    job, exec = bench.running()
    bench.lease(job.id, exec, -1)
    return job.id, exec, WIP


def rescue(bench):
    job = bench.submit()
    transport.JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    return job.id, transport.intermediate_key(QUEUE), WIP


def expire(bench):
    job = bench.submit(queue_deadline_s=1e-6)
    return job.id, 0, transport.entry_key(job.id)


def page(bench):
    return "studio", bench.submit().id, 9, 1


def take(bench):
    bench.submit(), bench.submit(tenant="other")
    return "token", *LISTS


def take_unlisted(bench):
    bench.redis.rpush(LISTS[0], "x", "y")
    return "token", *LISTS


def mates(bench):
    bench.submit(tenant="other"), bench.submit()
    _, leader = Scripts(bench.redis).call("take", "another", *LISTS)
    return "token", leader, 9, 0, LISTS[1]


def places(bench):
    return bench.submit().id, 1, transport.queue_key("urgent")


def oldest(bench):
    bench.submit()
    return LISTS[:1]


def order(bench):
    bench.submit(), bench.submit(tenant="other")
    return LISTS[:1]


def enrol(bench):
    return "key-1", "ab" * 32, "studio", 1


def enter(bench):
    Scripts(bench.redis).call("enrol", *enrol(bench))
    return "ab" * 32, "", "", "token", 60


def hold(bench):
    return letter(bench), 30


def settle_delivered(bench):
    return letter(bench), 0, "delivered", "", 0, ""


def settle_failed(bench):
    return letter(bench), 0, "failed", "the receiver answered 500", 5, ""


def settle_gone(bench):
    return letter(bench), 0, "gone", "the receiver answered 410", 0, keys.gone("studio", "ab")


def redeliver(bench):
    found = letter(bench)
    Scripts(bench.redis).call("settle", found, 0, "dead", "the receiver answered 500", 0, "")
    return (found,)


def letter(bench):
    job = bench.submit(callback_url="https://receiver.example/hook")
    bench.store.cancel(job.id, "studio")
    return bench.redis.zrange(keys.OUTBOX, 0, -1)[0].decode()


def adopt(bench):
    first, second = bench.submit(share="ab" * 32), bench.submit(share="ab" * 32)
    bench.claim(first.id, "exec")
    Scripts(bench.redis).call("publish", first.id, "exec", "completed", "result", "{}")
    return second.id, first.id, "token", "{}", transport.entry_key(second.id)


def release(bench):
    first, second = bench.submit(share="ab" * 32), bench.submit(share="ab" * 32)
    bench.claim(first.id, "exec")
    Scripts(bench.redis).call("publish", first.id, "exec", "completed", "result", "{}")
    assert bench.redis.zscore(keys.HANDOUT, first.id)
    assert second.cached
    return (first.id,)


CASES = {
    "hold": [hold],
    "settle": [settle_delivered, settle_failed, settle_gone],
    "redeliver": [redeliver],
    "admit": [admit],
    "recall": [recall],
    "claim": [claim, take_over, claim_expired],
    "checkpoint": [checkpoint],
    "outrank": [outrank],
    "publish": [publish_result, publish_error],
    "requeue": [requeue, requeue_last],
    "cancel": [cancel_queued, cancel_running, delete_queued, delete_running],
    "reap": [reap],
    "rescue": [rescue],
    "expire": [expire],
    "page": [page],
    "take": [take, take_unlisted],
    "mates": [mates],
    "oldest": [oldest],
    "places": [places],
    "order": [order],
    "enrol": [enrol],
    "enter": [enter],
    "adopt": [adopt],
    "release": [release],
}
READS = ("admit", "recall", "page", "places", "order")  # the case of `admit` has been run already
CLOCKS = ("oldest",)  # reads whose answer grows by the moment
PAIRS = [(name, setup) for name, setups in CASES.items() for setup in setups]


def test_every_script_is_repeated_here():
    # A repeated report writes one more event of the same progress; see the next test.
    assert set(CASES) | {"report"} == set(NAMES)


@pytest.mark.parametrize(("name", "setup"), PAIRS, ids=[setup.__name__ for _, setup in PAIRS])
def test_a_script_repeated_equals_once(bench, name, setup):
    args = setup(bench)
    scripts = Scripts(bench.redis)
    before = bench.rows()
    first = scripts.call(name, *args)
    once = bench.rows()
    assert once != before or name in (*READS, *CLOCKS), "the script under test did nothing"
    second = scripts.call(name, *args)
    assert bench.rows() == once
    if name in (*READS, "publish", "requeue", "take", "mates", "enrol"):
        assert second == first


def test_an_admission_repeated_answers_as_the_first(bench):
    args = admit(bench)
    assert Scripts(bench.redis).call("admit", *args) == ["created", args[0]]
    assert bench.store.depth() == 1


def test_a_report_repeated_only_repeats_its_event(bench):
    job_id, exec = running(bench)
    scripts = Scripts(bench.redis)
    jobs = []
    for _ in range(2):
        assert scripts.call("report", job_id, exec, "denoising", 3, 10, "", 40, 0, "0.5") == "owned"
        jobs.append(bench.store.get(job_id))
    assert jobs[0] == jobs[1].model_copy(update={"reported_at": jobs[0].reported_at})
