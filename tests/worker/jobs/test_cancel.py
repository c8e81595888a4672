"""Cancelling touches one job; deleting also forgets it, and may be repeated for a day."""

import json

import pytest

from worker.jobs import keys, transport
from worker.jobs.contract import ErrorCode, Status
from worker.jobs.outcomes import CancelOutcome, JobNotFound

from .conftest import QUEUE, WIP


def test_cancelling_a_queued_job_ends_it_at_once(bench):
    job, other = bench.submit(), bench.submit()
    assert bench.store.cancel(job.id, "studio") is CancelOutcome.ENDED
    ended = bench.store.get(job.id)
    assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.CANCELLED)
    assert bench.redis.lrange(transport.queue_key(QUEUE), 0, -1) == [other.id.encode()]
    assert bench.store.live_ids() == {other.id}
    assert bench.redis.smembers(keys.tenant_active("studio")) == {other.id.encode()}
    assert bench.redis.ttl(transport.entry_key(job.id)) > 0


def test_cancelling_a_running_job_flags_it(bench):
    job, _ = bench.running()
    assert not bench.store.cancel_requested(job.id)
    assert bench.store.cancel(job.id, "studio") is CancelOutcome.FLAGGED
    flagged = bench.store.get(job.id)
    assert (flagged.status, flagged.cancel_requested) == (Status.IN_PROGRESS, True)
    assert bench.store.cancel_requested(job.id)


def test_cancelling_a_running_job_tells_its_worker(bench):
    job, _ = bench.running()
    bench.redis.hset(transport.entry_key(job.id), "worker_name", "worker-1")
    with bench.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("rq:pubsub:worker-1")
        channel.get_message(timeout=1)
        bench.store.cancel(job.id, "studio")
        told = channel.get_message(timeout=2)
    assert json.loads(told["data"]) == {"command": "stop-job", "job_id": job.id}


def test_cancelling_again_says_so(bench):
    job = bench.submit()
    bench.store.cancel(job.id, "studio")
    assert bench.store.cancel(job.id, "studio") is CancelOutcome.ALREADY_CANCELLED


def test_a_finished_job_is_not_cancelled(bench, result):
    job, exec = bench.running()
    bench.store.complete(job.id, exec, result)
    assert bench.store.cancel(job.id, "studio") is CancelOutcome.TERMINAL
    assert bench.store.get(job.id).status is Status.COMPLETED


def test_a_result_that_beats_the_flag_counts(bench, result):
    job, exec = bench.running()
    bench.store.cancel(job.id, "studio")
    assert bench.store.complete(job.id, exec, result)
    assert bench.store.get(job.id).status is Status.COMPLETED


def test_another_tenants_job_is_neither_cancelled_nor_deleted(bench):
    job = bench.submit()
    for act in (bench.store.cancel, bench.store.delete):
        with pytest.raises(JobNotFound):
            act(job.id, "other")
        with pytest.raises(JobNotFound):
            act("video_" + "0" * 32, "studio")
    assert bench.store.get(job.id).status is Status.QUEUED


@pytest.mark.parametrize("state", ["queued", "completed"])
def test_a_deleted_job_is_gone_and_may_be_deleted_again(bench, result, state):
    if state == "queued":
        job = bench.submit(prompt="a secret heron")
    else:
        job, exec = bench.running(prompt="a secret heron")
        bench.store.complete(job.id, exec, result)
    for _ in range(2):
        bench.store.delete(job.id, "studio")
    for read in (bench.store.get, bench.store.cancel, bench.store.events.read):
        with pytest.raises(JobNotFound):
            read(job.id, tenant="studio")
    assert not bench.store.list("studio", after=None, limit=9, descending=True).jobs
    assert b"heron" not in b"".join(bench.redis.hgetall(keys.job(job.id)).values())
    assert 0 < bench.redis.ttl(keys.job(job.id)) <= 24 * 3600
    assert bench.store.depth() == len(bench.store.live_ids()) == 0


def test_a_deleted_running_job_stops_and_its_result_is_refused(bench, result):
    job, exec = bench.running()
    bench.store.delete(job.id, "studio")
    assert bench.store.cancel_requested(job.id)
    assert bench.redis.ttl(keys.job(job.id)) == -1
    with pytest.raises(JobNotFound):
        bench.store.get(job.id)
    for _ in range(2):
        assert not bench.store.complete(job.id, exec, result)
    assert 0 < bench.redis.ttl(keys.job(job.id)) <= 24 * 3600
    assert not bench.store.live_ids()
    with pytest.raises(JobNotFound):
        bench.store.get(job.id)


def test_cancelled_in_the_dequeue_gap_never_runs(bench):
    job = bench.submit()
    taken = transport.JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert taken is not None
    assert bench.store.cancel(job.id, "studio") is CancelOutcome.ENDED
    assert bench.store.claim(job.id, "e1", "w", WIP).refused == "terminal"
