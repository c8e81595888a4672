"""What a lost worker, queue entry or lease leaves behind is put right, and nothing else."""

import pytest

from worker.jobs import keys, transport
from worker.jobs.contract import ErrorCode, Status

from .conftest import QUEUE, WIP


def waiting(bench):
    return [member.decode() for member in bench.redis.lrange(transport.queue_key(QUEUE), 0, -1)]


@pytest.mark.parametrize("vanished", [False, True])
def test_a_job_without_lease_is_reaped(bench, vanished):
    job, exec = bench.running()
    bench.redis.zrem(WIP, f"{job.id}:{exec}") if vanished else bench.lease(job.id, exec, -1)
    assert bench.store.reap(job.id, exec, WIP) == "requeue"
    seen = bench.store.get(job.id)
    assert (seen.status, seen.retries_left, len(seen.attempts)) == (Status.QUEUED, 1, 1)
    assert bench.store.reap(job.id, exec, WIP) == "stale"


def test_any_holder_is_reaped_if_none_is_named(bench):
    job, exec = bench.running()
    bench.lease(job.id, exec, -1)
    assert bench.store.reap(job.id, None, WIP) == "requeue"


def test_a_live_lease_is_left_alone(bench):
    job, exec = bench.running()
    before = bench.rows()
    assert bench.store.reap(job.id, exec, WIP) == "stale"
    assert bench.store.reap(job.id, "older", WIP) == "stale"
    assert bench.store.reap("video_" + "0" * 32, None, WIP) == "stale"
    assert bench.rows() == before


def test_an_older_attempt_is_not_reaped_twice(bench):
    job, exec = bench.running()
    bench.lease(job.id, exec, -1)
    assert bench.store.reap(job.id, "older", WIP) == "stale"
    assert bench.store.get(job.id).status is Status.IN_PROGRESS


def test_reaping_a_cancelled_job_ends_it(bench):
    job, exec = bench.running()
    bench.store.cancel(job.id, "studio")
    bench.lease(job.id, exec, -1)
    assert bench.store.reap(job.id, exec, WIP) == "ended"
    assert bench.store.get(job.id).error.code is ErrorCode.CANCELLED


def test_reaping_without_retries_ends_as_worker_lost(bench):
    job = bench.submit()
    for outcome in ("requeue", "requeue", "ended"):
        bench.claim(job.id, outcome + str(bench.store.get(job.id).attempt), seconds=-1)
        assert bench.store.reap(job.id, None, WIP) == outcome
    ended = bench.store.get(job.id)
    assert (ended.error.code, len(ended.attempts)) == (ErrorCode.WORKER_LOST, 3)
    assert not bench.store.live_ids()


def test_a_late_result_after_reaping_is_refused(bench, result):
    job, exec = bench.running()
    bench.lease(job.id, exec, -1)
    bench.store.reap(job.id, exec, WIP)
    assert not bench.store.complete(job.id, exec, result)
    assert bench.store.get(job.id).result is None


def test_a_job_in_no_list_is_rescued_to_the_front(bench):
    job, other = bench.submit(), bench.submit()
    transport.JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert waiting(bench) == [other.id]
    assert bench.store.rescue(job.id, QUEUE) == "pushed"
    assert waiting(bench) == [job.id, other.id]
    assert not bench.redis.llen(transport.intermediate_key(QUEUE))
    assert bench.store.rescue(job.id, QUEUE) == "none"
    assert waiting(bench) == [job.id, other.id]


def test_running_is_what_holds_a_lease_whoever_works_on_it(bench):
    bench.submit()
    (lost, exec), *_ = [bench.running() for _ in range(3)]
    assert bench.store.running() == bench.store.running("pocket") == 3
    bench.lease(lost.id, exec, -1)
    assert bench.store.running() == 2
    assert bench.store.running("another") == 0


def test_a_leased_job_is_not_rescued(bench):
    job = bench.submit()
    transport.JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    bench.lease(job.id, "about-to-claim")
    assert bench.store.rescue(job.id, QUEUE) == "none"
    bench.lease(job.id, "about-to-claim", seconds=-1)
    assert bench.store.rescue(job.id, QUEUE) == "pushed"


def test_a_running_job_is_not_rescued(bench):
    job, _ = bench.running()
    assert bench.store.rescue(job.id, QUEUE) == "none"
    assert waiting(bench) == []


def test_an_ended_job_is_cleared_from_the_intermediate_list(bench):
    job = bench.submit()
    transport.JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    bench.store.cancel(job.id, "studio")
    assert bench.store.rescue(job.id, QUEUE) == "none"
    assert not bench.redis.llen(transport.intermediate_key(QUEUE))
    assert waiting(bench) == []


def test_overdue_jobs_end_and_others_stay(bench):
    late, patient = bench.submit(queue_deadline_s=1e-6), bench.submit()
    slow, _ = bench.running(job_timeout_s=1e-6)
    quick, _ = bench.running()
    assert bench.store.expire_overdue(0) == {late.id: "expired", slow.id: "timeout"}
    codes = [bench.store.get(job.id).error.code for job in (late, slow)]
    assert codes == [ErrorCode.EXPIRED, ErrorCode.TIMEOUT]
    assert bench.store.live_ids() == {patient.id, quick.id}
    assert waiting(bench) == [patient.id]
    assert bench.store.expire_overdue(0) == {}


def test_a_running_job_gets_its_grace(bench):
    job, _ = bench.running(job_timeout_s=1e-6)
    assert bench.store.expire_overdue(60) == {}
    assert bench.store.live_ids() == {job.id}


def test_a_live_id_without_row_is_forgotten(bench):
    bench.redis.sadd(keys.LIVE, "video_" + "0" * 32)
    assert bench.store.expire_overdue() == {}
    assert not bench.store.live_ids()
