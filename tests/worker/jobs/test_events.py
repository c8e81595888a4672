"""Events are numbered without gaps and replay a job as it stood."""

import pytest

from worker.jobs import keys
from worker.jobs.contract import ErrorCode, JobError, Progress, Stage, Status
from worker.jobs.outcomes import JobNotFound


def report(bench, job, exec, step):
    progress = Progress(stage=Stage.DENOISING, step=step, total=1000, eta_s=None)
    assert bench.store.report(job.id, exec, progress)


def test_every_change_is_one_event_in_order(bench, result):
    job, exec = bench.running()
    report(bench, job, exec, 500)
    bench.store.requeue(job.id, exec, "drain", counts=False)
    bench.claim(job.id, "e2")
    bench.store.cancel(job.id, "studio")
    bench.store.fail(job.id, "e2", JobError(code=ErrorCode.CANCELLED, message="x"))
    replay = bench.store.events.read(job.id)
    assert [event.type for event in replay] == [
        *("queued", "in_progress", "progress", "queued", "in_progress"),
        *("cancel_requested", "failed"),
    ]
    assert [event.seq for event in replay] == list(range(1, 8))
    assert not replay.gap


def test_an_event_shows_the_job_as_it_stood(bench, result):
    job, exec = bench.running()
    report(bench, job, exec, 500)
    bench.store.complete(job.id, exec, result)
    queued, running, progress, completed = bench.store.events.read(job.id)
    assert (queued.job.status, queued.job.started_at, queued.job.result) == (
        *(Status.QUEUED, None, None),
    )
    assert (running.job.status, running.job.completed_at) == (Status.IN_PROGRESS, None)
    assert (progress.job.step, progress.job.progress) == (500, 46)
    assert completed.job == bench.store.get(job.id)


def test_replay_resumes_after_an_id_without_gap_or_duplicate(bench):
    job, exec = bench.running()
    for step in range(5):
        report(bench, job, exec, step)
    whole = bench.store.events.read(job.id).events
    for cut in range(1, len(whole) + 1):
        rest = bench.store.events.read(job.id, whole[cut - 1].id)
        assert whole[:cut] + rest.events == whole
        assert not rest.gap


def test_the_stream_is_capped_and_says_what_it_dropped(bench):
    job, exec = bench.running()
    first = bench.store.events.read(job.id).events[0]
    for step in range(500):
        report(bench, job, exec, step)
    assert bench.redis.xlen(keys.events(job.id)) <= 400
    late = bench.store.events.read(job.id, first.id)
    assert late.gap
    assert not bench.store.events.read(job.id, late.events[0].id).gap


def test_a_malformed_id_is_refused(bench):
    job = bench.submit()
    for after in ("", "abc", "1", "1-2-3", "+", "1-2\n"):
        with pytest.raises(ValueError, match="id of an event"):
            bench.store.events.read(job.id, after)


def test_another_tenants_events_are_not_found(bench):
    job = bench.submit()
    assert len(bench.store.events.read(job.id, tenant="studio")) == 1
    with pytest.raises(JobNotFound):
        bench.store.events.read(job.id, tenant="other")


def test_a_change_wakes_the_listeners(bench):
    wakes = bench.store.events.wakes()
    try:
        wakes.next(0.2)
        job = bench.submit()
        woken = [wakes.next(1) for _ in range(2)]
        assert job.id in woken
        assert wakes.next(0.01) is None
    finally:
        wakes.close()
