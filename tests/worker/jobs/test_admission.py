"""Admission writes a job whole or not at all, and each request becomes at most one."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from worker.jobs import keys, transport
from worker.jobs.connection import worker_client
from worker.jobs.contract import Stage, Status
from worker.jobs.outcomes import (
    Admission,
    IdempotencyConflict,
    JobNotFound,
    QueueFull,
    StoreError,
    TenantFull,
)
from worker.jobs.store import JobStore

QUEUE = transport.queue_name("pocket")


def capped(redis, settings, **caps):
    return JobStore(redis, settings.model_copy(update=caps))


def flood(store, submissions):
    """Submit from 8 threads. returns the admissions and the refusals"""

    def attempt(submission):
        try:
            return store.submit(submission)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, submissions))
    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreError)]
    return [outcome for outcome in outcomes if outcome not in refused], refused


def test_a_job_is_admitted_whole(store, make_submission, redis):
    submission = make_submission()
    admission = store.submit(submission)
    job = admission.job
    assert not admission.replayed
    assert (job.status, job.stage, job.progress) == (Status.QUEUED, Stage.QUEUED, 0)
    assert job.request == submission.request
    assert (job.queue_position, job.attempt, job.retries_left) == (1, 0, 2)
    assert redis.lrange(transport.queue_key(QUEUE), 0, -1) == [job.id.encode()]
    assert redis.hget(transport.entry_key(job.id), "status") == b"queued"
    assert store.live_ids() == {job.id}
    assert store.depth() == store.depth("pocket") == 1
    assert redis.ttl(keys.job(job.id)) == -1


def test_prompts_stay_out_of_the_transport(store, make_submission, redis):
    job = store.submit(make_submission(prompt="a secret heron")).job
    entry = redis.hgetall(transport.entry_key(job.id))
    read = transport.JsonJob.fetch(job.id, connection=redis)
    assert b"heron" not in b"".join([*entry, *entry.values()])
    assert b"heron" not in read.data


def test_full_queue_refuses_exactly_at_its_depth(redis, job_settings, make_submission):
    store = capped(redis, job_settings, max_queue_depth=50, max_active_per_tenant=1000)
    admitted, refused = flood(store, [make_submission() for _ in range(90)])
    assert len(admitted) == store.depth() == len(store.live_ids()) == 50
    assert {type(error) for error in refused} == {QueueFull}
    assert "50" in str(refused[0])


def test_busy_tenant_is_refused_exactly_at_its_cap(redis, job_settings, make_submission):
    store = capped(redis, job_settings, max_active_per_tenant=20)
    admitted, refused = flood(store, [make_submission() for _ in range(60)])
    assert len(admitted) == redis.scard(keys.tenant_active("studio")) == 20
    assert {type(error) for error in refused} == {TenantFull}
    assert store.submit(make_submission(tenant="other")).job.status is Status.QUEUED


def test_a_refused_job_leaves_nothing(redis, job_settings, make_submission, bench):
    store = capped(redis, job_settings, max_queue_depth=1)
    store.submit(make_submission())
    before = bench.rows()
    with pytest.raises(QueueFull):
        store.submit(make_submission(idempotency_key="/v1/videos\0k"))
    assert bench.rows() == before


def test_an_idempotency_key_admits_once_under_concurrency(store, make_submission):
    submission = make_submission(idempotency_key="/v1/videos\0abc")
    admitted, refused = flood(store, [submission] * 24)
    assert not refused
    assert len({admission.job.id for admission in admitted}) == 1
    assert sorted(admission.replayed for admission in admitted) == [False] + [True] * 23


def test_an_idempotency_key_for_another_request_conflicts(store, make_submission):
    store.submit(make_submission(idempotency_key="/v1/videos\0abc"))
    with pytest.raises(IdempotencyConflict):
        store.submit(make_submission(idempotency_key="/v1/videos\0abc"))
    assert store.depth() == 1


def test_idempotency_keys_of_tenants_are_strangers(store, make_submission):
    first = store.submit(make_submission(idempotency_key="k"))
    second = store.submit(make_submission(idempotency_key="k", tenant="other"))
    assert first.job.id != second.job.id


def test_a_declared_retry_is_the_same_job(store, make_submission):
    first = store.submit(make_submission(fingerprint="f"))
    again = store.submit(make_submission(fingerprint="f", retry_of_fingerprint=True))
    assert (again.replayed, again.job.id) == (True, first.job.id)


def test_the_same_request_undeclared_is_a_new_job(store, make_submission):
    first = store.submit(make_submission(fingerprint="f"))
    again = store.submit(make_submission(fingerprint="f"))
    assert (again.replayed, again.job.id != first.job.id) == (False, True)


def test_a_retry_whose_first_try_never_arrived_is_admitted(store, make_submission):
    assert not store.submit(make_submission(retry_of_fingerprint=True)).replayed


def test_a_replay_passes_a_full_queue(redis, job_settings, make_submission):
    store = capped(redis, job_settings, max_queue_depth=1)
    submission = make_submission(idempotency_key="k")
    job = store.submit(submission).job
    assert store.submit(submission).job.id == job.id


@pytest.mark.parametrize("how", [{"idempotency_key": "k"}, {"retry_of_fingerprint": True}])
def test_what_was_submitted_is_recalled_without_a_trace(store, redis, make_submission, how):
    submission = make_submission(**how)
    assert store.recall(submission) is None
    first = store.submit(submission)
    before = redis.dbsize()
    assert store.recall(submission) == Admission(first.job, replayed=True)
    assert store.recall(replace(submission, tenant="other")) is None
    assert redis.dbsize() == before
    if "idempotency_key" in how:
        with pytest.raises(IdempotencyConflict):
            store.recall(replace(submission, fingerprint="another"))
    store.delete(first.job.id, first.job.tenant)
    assert store.recall(submission) is None


def test_a_deleted_job_is_never_replayed(store, make_submission):
    submission = make_submission(idempotency_key="k")
    job = store.submit(submission).job
    store.delete(job.id, "studio")
    assert store.submit(submission).job.id != job.id


def test_an_unsafe_tenant_is_refused(make_submission):
    for tenant in ("", "..", "a/b", "a b", "a\n"):
        with pytest.raises(ValueError, match="tenant"):
            make_submission(tenant=tenant)


def test_out_of_memory_is_a_full_queue(store, make_submission, redis):
    job = store.submit(make_submission()).job
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull, match="memory"):
            store.submit(make_submission())
        assert store.get(job.id).status is Status.QUEUED
    finally:
        redis.config_set("maxmemory", 0)
    assert store.depth() == 1


def test_queue_position_counts_from_one(store, make_submission):
    ids = [store.submit(make_submission()).job.id for _ in range(3)]
    assert [store.get(job_id).queue_position for job_id in ids] == [1, 2, 3]


def test_another_tenants_job_is_not_found(store, make_submission):
    job = store.submit(make_submission()).job
    for tenant, job_id in (("other", job.id), ("studio", "video_" + "0" * 32)):
        with pytest.raises(JobNotFound):
            store.get(job_id, tenant)


def test_acknowledged_jobs_survive_a_killed_server(valkey, job_settings, make_submission):
    with worker_client(valkey.url) as redis:
        store = JobStore(redis, job_settings.model_copy(update={"max_active_per_tenant": 500}))
        acknowledged = []
        for _ in range(200):
            acknowledged.append(store.submit(make_submission()).job.id)
        valkey.kill()
        valkey.start()
        assert store.live_ids() == set(acknowledged)
        assert store.depth() == 200
        assert store.get(acknowledged[-1]).queue_position == 200
