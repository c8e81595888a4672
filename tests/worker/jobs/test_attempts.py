"""One attempt at a time holds a job; what any other says is refused."""

import pytest

from worker.jobs import keys
from worker.jobs.contract import (
    Artifact,
    Checkpoint,
    ErrorCode,
    JobError,
    Progress,
    Stage,
    Status,
)

from .conftest import WIP

TIMEOUT = JobError(code=ErrorCode.TIMEOUT, message="The job ran longer than allowed.")


def report(step, total=10, stage=Stage.DENOISING):
    return Progress(stage=stage, step=step, total=total, eta_s=1.5)


def test_a_claim_starts_an_attempt(bench):
    claim = bench.claim(bench.submit(job_timeout_s=77).id, "e1")
    assert (claim.attempt, claim.refused, claim.timeout_s) == (1, None, 77)
    job = claim.job
    assert (job.status, job.stage, job.worker) == (Status.IN_PROGRESS, Stage.LOADING, "worker-1")
    assert job.queue_position is None
    assert job.created_at <= job.started_at


def test_the_same_attempt_may_claim_again(bench):
    job_id = bench.submit().id
    first, second = bench.claim(job_id, "e1"), bench.claim(job_id, "e1")
    assert first == second


def test_another_attempt_is_refused_while_the_lease_runs(bench):
    job, exec = bench.running()
    claim = bench.claim(job.id, "e2")
    assert (claim.job, claim.refused) == (None, "running")
    assert bench.store.report(job.id, exec, report(1))


def test_another_attempt_takes_over_once_the_lease_ran_out(bench, result):
    job, exec = bench.running()
    bench.lease(job.id, exec, seconds=-1)
    claim = bench.claim(job.id, "e2")
    assert (claim.attempt, claim.job.retries_left) == (2, 1)
    assert [attempt.exec for attempt in claim.job.attempts] == [exec]
    assert not bench.store.report(job.id, exec, report(1))
    assert not bench.store.complete(job.id, exec, result)
    assert bench.store.complete(job.id, "e2", result)


def test_an_attempt_that_lost_the_job_never_gets_it_back(bench):
    job, exec = bench.running()
    assert bench.store.requeue(job.id, exec, "drain", counts=False)
    assert bench.claim(job.id, exec).refused == "lost"


def test_a_takeover_without_retries_ends_the_job(bench):
    job = bench.submit()
    for number in range(1, 4):
        assert bench.claim(job.id, f"e{number}", seconds=-1).attempt == number
    assert bench.claim(job.id, "e4").refused == "lost"
    assert bench.store.get(job.id).error.code is ErrorCode.WORKER_LOST


def test_a_missing_row_is_refused(bench):
    assert bench.claim("video_" + "0" * 32, "e1").refused == "missing"
    assert not bench.redis.keys(keys.job("*"))


@pytest.mark.parametrize("purge", [False, True])
def test_a_cancelled_job_is_refused(bench, purge):
    job = bench.submit()
    (bench.store.delete if purge else bench.store.cancel)(job.id, "studio")
    claim = bench.claim(job.id, "e1")
    assert (claim.job, claim.refused) == (None, "terminal")


def test_a_flagged_job_given_back_ends_as_cancelled(bench):
    job, exec = bench.running()
    bench.store.cancel(job.id, "studio")
    assert bench.store.requeue(job.id, exec, "drain", counts=False)
    assert bench.store.get(job.id).error.code is ErrorCode.CANCELLED


def test_a_flag_set_in_the_dequeue_gap_is_refused(bench):
    # No script leaves a queued row flagged; a row that is must still not run.
    job = bench.submit()
    bench.redis.hset(keys.job(job.id), "cancel", "1")
    assert bench.claim(job.id, "e1").refused == "cancelled"
    assert bench.store.get(job.id).error.code is ErrorCode.CANCELLED


def test_a_job_past_its_queue_deadline_is_refused(bench):
    job = bench.submit(queue_deadline_s=1e-6)
    assert bench.claim(job.id, "e1").refused == "expired"
    assert bench.store.get(job.id).error.code is ErrorCode.EXPIRED


def test_an_ended_job_is_refused(bench, result):
    job, exec = bench.running()
    bench.store.complete(job.id, exec, result)
    assert bench.claim(job.id, "e2").refused == "terminal"
    assert bench.store.get(job.id).status is Status.COMPLETED


def test_progress_never_falls_and_stays_below_100(bench):
    job, exec = bench.running()
    seen = []
    stages = (Stage.ENCODING, Stage.DENOISING, Stage.LOADING, Stage.DECODING, Stage.UPLOADING)
    for stage in (*stages, Stage.DONE):
        for step in (0, 9, 3, 10, 99):
            assert bench.store.report(job.id, exec, report(step, stage=stage))
            seen.append(bench.store.get(job.id).progress)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (1, 99)


def test_progress_survives_a_second_attempt(bench):
    job, exec = bench.running()
    bench.store.report(job.id, exec, report(9))
    high = bench.store.get(job.id).progress
    bench.store.requeue(job.id, exec, "child died", counts=True)
    again = bench.store.get(job.id)
    assert (again.progress, again.step, again.stage) == (high, 0, Stage.QUEUED)
    bench.claim(job.id, "e2")
    bench.store.report(job.id, "e2", report(1))
    assert (bench.store.get(job.id).progress, bench.store.get(job.id).step) == (high, 1)


def test_a_report_shows_stage_step_and_eta(bench):
    job, exec = bench.running()
    bench.store.report(job.id, exec, report(3))
    seen = bench.store.get(job.id)
    assert (seen.stage, seen.step, seen.total, seen.eta_s) == (Stage.DENOISING, 3, 10, 1.5)


@pytest.mark.parametrize("exec", ["", "zombie"])
def test_a_foreign_token_changes_nothing(bench, result, exec):
    running, _ = bench.running()
    waiting, (given_back, token) = bench.submit(), bench.running()
    bench.store.requeue(given_back.id, token, "drain", counts=False)
    before = bench.rows()
    for job_id in (running.id, waiting.id, given_back.id, "video_" + "0" * 32):
        assert not bench.store.report(job_id, exec, report(1))
        assert not bench.store.complete(job_id, exec, result)
        assert not bench.store.fail(job_id, exec, TIMEOUT)
        assert not bench.store.requeue(job_id, exec, "drain", counts=True)
    assert bench.rows() == before


def test_completing_ends_the_job_and_frees_its_tenant(bench, result):
    job, exec = bench.running()
    assert bench.store.complete(job.id, exec, result)
    done = bench.store.get(job.id)
    assert (done.status, done.stage, done.progress) == (Status.COMPLETED, Stage.DONE, 100)
    assert (done.result, done.error, done.eta_s) == (result, None, None)
    assert done.expires_at == pytest.approx(done.completed_at + 7 * 24 * 3600, abs=0.01)
    assert not bench.store.live_ids()
    assert not bench.redis.scard(keys.tenant_active("studio"))


def test_the_row_outlives_its_result(bench, result):
    job, exec = bench.running()
    bench.store.complete(job.id, exec, result)
    assert bench.redis.ttl(keys.job(job.id)) > 7 * 24 * 3600 + 3600
    assert 0 < bench.redis.ttl(keys.events(job.id)) <= 24 * 3600


def test_failing_ends_the_job_and_frees_its_tenant(bench):
    job, exec = bench.running()
    assert bench.store.fail(job.id, exec, TIMEOUT)
    failed = bench.store.get(job.id)
    assert (failed.status, failed.error, failed.result) == (Status.FAILED, TIMEOUT, None)
    assert (failed.expires_at, failed.progress < 100) == (None, True)
    assert not bench.redis.scard(keys.tenant_active("studio"))


def test_only_the_first_ending_counts(bench, result):
    job, exec = bench.running()
    assert bench.store.complete(job.id, exec, result)
    assert bench.store.fail(job.id, exec, TIMEOUT)  # acknowledged as a repeat, and ignored
    assert bench.store.get(job.id).status is Status.COMPLETED
    kinds = [event.type for event in bench.store.events.read(job.id)]
    assert kinds == ["queued", "in_progress", "completed"]


def test_requeueing_counts_retries_and_ends_at_the_last(bench):
    job = bench.submit()
    for left in (1, 0):
        bench.claim(job.id, f"e{left}")
        assert bench.store.requeue(job.id, f"e{left}", "child died", counts=True)
        seen = bench.store.get(job.id)
        assert (seen.status, seen.retries_left, seen.worker) == (Status.QUEUED, left, None)
    bench.claim(job.id, "last")
    assert bench.store.requeue(job.id, "last", "child died", counts=True)
    ended = bench.store.get(job.id)
    assert (ended.status, ended.error.code) == (Status.FAILED, ErrorCode.WORKER_LOST)
    assert [attempt.exec for attempt in ended.attempts] == ["e1", "e0", "last"]
    assert [attempt.number for attempt in ended.attempts] == [1, 2, 3]
    assert {attempt.reason for attempt in ended.attempts} == {"child died"}
    assert {attempt.worker for attempt in ended.attempts} == {"worker-1"}


def test_a_drain_uses_no_retry(bench):
    job = bench.submit()
    for number in range(5):
        bench.claim(job.id, f"e{number}")
        assert bench.store.requeue(job.id, f"e{number}", "drain", counts=False)
    assert bench.store.get(job.id).retries_left == 2


def test_a_requeued_job_gets_a_new_queue_deadline(bench):
    job, exec = bench.running(queue_deadline_s=100)
    bench.redis.hset(keys.job(job.id), "queue_deadline", "1")
    bench.store.requeue(job.id, exec, "drain", counts=False)
    assert bench.store.claim(job.id, "e2", "w", WIP).attempt == 2


def checkpoint(steps):
    key = f"studio/video_1/checkpoints/e-{steps}/state.safetensors"
    artifact = Artifact(key=key, sha256="0" * 64, size_bytes=9, media_type="text/plain")
    return Checkpoint(artifact=artifact, steps=steps)


def test_the_next_attempt_is_told_where_the_last_one_stood(bench):
    job, exec = bench.running()
    assert bench.claim(job.id, exec).checkpoint is None
    assert bench.store.checkpoint(job.id, exec, checkpoint(3))
    assert bench.store.checkpoint(job.id, exec, checkpoint(5))
    assert bench.store.requeue(job.id, exec, "drain", counts=False)
    assert bench.claim(job.id, "e2").checkpoint == checkpoint(5)
    assert bench.store.requeue(job.id, "e2", "drain", counts=False)
    assert bench.claim(job.id, "e3").checkpoint == checkpoint(5)


def test_a_zombies_checkpoint_is_refused(bench):
    job, exec = bench.running()
    assert bench.store.checkpoint(job.id, exec, checkpoint(3))
    bench.lease(job.id, exec, seconds=-1)
    assert bench.claim(job.id, "e2").checkpoint == checkpoint(3)
    assert not bench.store.checkpoint(job.id, exec, checkpoint(9))
    assert bench.claim(job.id, "e2").checkpoint == checkpoint(3)
    assert bench.store.requeue(job.id, "e2", "drain", counts=False)
    for token in (exec, "e2", ""):
        assert not bench.store.checkpoint(job.id, token, checkpoint(9))


def test_an_ended_job_has_no_checkpoint(bench, result):
    job, exec = bench.running()
    assert bench.store.checkpoint(job.id, exec, checkpoint(3))
    assert bench.store.complete(job.id, exec, result)
    assert not bench.store.checkpoint(job.id, exec, checkpoint(4))
    assert bench.redis.hget(keys.job(job.id), "ckpt") is None


def test_a_checkpoint_that_nobody_can_read_is_none(bench):
    job, exec = bench.running()
    bench.redis.hset(keys.job(job.id), "ckpt", '{"from": "another version"}')
    assert bench.claim(job.id, exec).checkpoint is None
