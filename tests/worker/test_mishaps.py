"""Mishaps that one worker outlives: dying children, deleted jobs, planted entries."""

import os
import signal

from tests.worker.conftest import Running, is_running, until
from worker.jobs import transport
from worker.jobs.contract import ErrorCode, Status

QUEUE = transport.queue_name("pocket")


def test_killed_child_costs_one_attempt_and_one_load(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job_id = studio.submit("pace=0.05", num_inference_steps=30)
    studio.denoising(job_id, 3)
    os.kill(worker.child_pid(), signal.SIGKILL)
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 2)
    assert [attempt.reason for attempt in job.attempts] == ["the inference process died (signal 9)"]
    assert studio.completions(job_id) == 1
    assert len(studio.videos(job_id)) == 1
    assert studio.info(worker).loads == loads + 1


def test_child_killed_idle_costs_no_attempt(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    os.kill(worker.child_pid(), signal.SIGKILL)
    until(lambda: studio.info(worker).loads == loads + 1)
    job = studio.ended(studio.submit())
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)


def test_child_dying_as_a_job_arrives_costs_no_retry(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    # Stopped, it takes no run; killed then, it has begun nothing.
    child = worker.child_pid()
    os.kill(child, signal.SIGSTOP)
    job_id = studio.submit()
    until(lambda: studio.job(job_id).status is Status.IN_PROGRESS)
    os.kill(child, signal.SIGKILL)
    job = studio.ended(job_id)
    assert job.status is Status.COMPLETED
    assert job.retries_left == studio.settings.max_attempts - 1
    assert studio.info(worker).loads == loads + 1


def test_poison_job_ends_as_worker_lost_and_others_run(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    poison, other = studio.submit("die=1"), studio.submit()
    job = studio.ended(poison)
    assert job.error is not None
    assert (job.error.code, job.attempt) == (ErrorCode.WORKER_LOST, 3)
    assert studio.ended(other).status is Status.COMPLETED
    assert studio.info(worker).loads == loads + 3


def test_deleted_running_job_leaves_no_files(running: Running) -> None:
    studio, worker = running
    job_id = studio.submit("pace=0.05", num_inference_steps=60)
    studio.denoising(job_id, 2)
    studio.store.delete(job_id, "studio")
    until(lambda: studio.info(worker).state == "idle")
    assert studio.videos(job_id) == []


def test_finished_job_leaves_no_lease_and_an_entry_that_expires(running: Running) -> None:
    studio, _ = running
    redis = studio.store.redis
    ids = [studio.submit(), studio.submit("raise=RuntimeError")]
    for job_id in ids:
        studio.ended(job_id)
        until(lambda: redis.zcard(transport.wip_key(QUEUE)) == 0)
        assert redis.ttl(transport.entry_key(job_id)) > 0
    assert redis.llen(transport.intermediate_key(QUEUE)) == 0


def test_planted_entry_runs_nothing(running: Running) -> None:
    studio, worker = running
    redis = studio.store.redis
    planted = "video_" + "0" * 32
    redis.hset(
        transport.entry_key(planted),
        mapping={"data": b"cos\nsystem\n(S'true'\ntR.", "origin": QUEUE, "status": "queued"},
    )
    redis.rpush(transport.queue_key(QUEUE), planted)
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    until(lambda: redis.llen(transport.intermediate_key(QUEUE)) == 0)
    assert is_running(worker.pid)


def test_nonsense_on_the_command_channel_is_survived(running: Running) -> None:
    studio, worker = running
    redis = studio.store.redis
    channel = f"rq:pubsub:{studio.info(worker).name}"
    for nonsense in (b"\xff", b"[]", b"{}", b'{"command": 7}', b'{"command": "stop-job"}'):
        redis.publish(channel, nonsense)
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id)
    assert transport.send_stop(redis, job_id)
    assert studio.ended(job_id).status is Status.FAILED
