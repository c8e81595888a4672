"""What survives when processes are killed, stopped, or lose the queue server."""

import os
import signal
import time

from redis import Redis

from tests.buckets import wired
from tests.conftest import Valkey
from tests.worker.conftest import LEASE_S, Studio, is_running, until
from worker.jobs import transport
from worker.jobs.contract import ErrorCode, Status, Tier

TAKEOVER_S = 25.0  # the bound promised; here lease and tick are short, but machines may be slow
QUEUE = transport.queue_name("pocket")


def test_crashes_in_a_row_end_the_worker(studio: Studio) -> None:
    worker = studio.worker(crash_limit=2)
    job_id = studio.submit("die=1")
    assert worker.wait() == 5
    assert studio.job(job_id).status is Status.QUEUED


def registered(redis: Redis) -> set[str]:
    """The names in every list of workers that RQ keeps."""
    lists = redis.keys("rq:workers*")
    assert len(lists) == 1 + len(Tier), "one of all, and one for each queue"
    members = set[bytes]().union(*(redis.smembers(key) for key in lists))
    return {member.decode().removeprefix("rq:worker:") for member in members}


def test_killed_supervisor_takes_its_child_along_and_another_takes_over(
    studio: Studio, redis: Redis
) -> None:
    studio.start("worker.janitor", sweep_every_s=0.5)
    workers = [studio.start(), studio.start()]
    for worker in workers:
        until(lambda worker=worker: studio.info(worker).state == "idle")
    job_id = studio.submit("pace=0.05", num_inference_steps=40)
    name = studio.denoising(job_id, 2).worker
    first, second = sorted(workers, key=lambda worker: studio.info(worker).name != name)
    child = first.child_pid()
    first.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    until(lambda: not is_running(child), 1.0, "end of the child")
    until(lambda: studio.job(job_id).attempt == 2, TAKEOVER_S, "takeover")
    assert time.monotonic() - killed_at < TAKEOVER_S
    assert studio.ended(job_id).status is Status.COMPLETED
    assert studio.job(job_id).worker == studio.info(second).name
    assert studio.completions(job_id) == 1
    assert registered(redis) == {name, studio.info(second).name}
    redis.delete(f"rq:worker:{name}")  # a minute and a half after its last word it is gone anyway
    until(lambda: registered(redis) == {studio.info(second).name}, 10.0, "forgetting its name")


def test_zombie_publishes_nothing(studio: Studio) -> None:
    studio.start("worker.janitor")
    zombie = studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=60)
    studio.denoising(job_id, 2)
    child = zombie.child_pid()
    zombie.signal(signal.SIGSTOP)
    # The child goes on; its messages wait in the socket, the result is there before SIGCONT.
    studio.worker()
    until(lambda: studio.job(job_id).attempt == 2, TAKEOVER_S, "takeover")
    job = studio.ended(job_id)
    until(lambda: len(studio.videos()) == 2, what="the zombie's film")
    zombie.signal(signal.SIGCONT)
    until(lambda: len(studio.videos()) == 1, what="the zombie clearing up")
    assert studio.job(job_id) == job
    assert job.result is not None
    assert studio.artifacts.exists(job.result.video.key)
    assert studio.completions(job_id) == 1
    assert is_running(child)  # fenced, not broken: the model stays


def test_zombie_still_computing_stops_itself(studio: Studio) -> None:
    studio.start("worker.janitor")
    zombie = studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id, 2)
    os.kill(zombie.child_pid(), signal.SIGSTOP)
    zombie.signal(signal.SIGSTOP)
    studio.worker()
    until(lambda: studio.job(job_id).attempt == 2, TAKEOVER_S, "takeover")
    os.kill(zombie.child_pid(), signal.SIGCONT)
    zombie.signal(signal.SIGCONT)
    until(lambda: "fenced" in zombie.log.read_text(), what="the fenced attempt")
    assert studio.ended(job_id).status is Status.COMPLETED
    assert studio.completions(job_id) == 1


def test_queue_server_away_mid_job_costs_nothing(studio: Studio, valkey: Valkey) -> None:
    studio.start("worker.janitor")
    worker = studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=60)
    waiting = studio.submit()
    studio.denoising(job_id, 2)
    time.sleep(1.1)  # the append-only file is flushed every second
    valkey.stop()
    time.sleep(LEASE_S + 2)  # the job ends meanwhile, and so does its lease
    valkey.start()
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert studio.ended(waiting).status is Status.COMPLETED
    assert studio.info(worker).loads == 1
    assert len(studio.videos()) == 2


def test_queue_server_that_takes_no_writes_costs_nothing(studio: Studio, redis: Redis) -> None:
    """As with a full disk or without its replicas: it answers, and refuses."""
    janitor, worker = studio.start("worker.janitor"), studio.worker()
    job_id, waiting = studio.submit("pace=0.05", num_inference_steps=40), studio.submit()
    studio.denoising(job_id, 2)
    redis.config_set("min-replicas-to-write", 1)
    try:
        time.sleep(LEASE_S + 2)  # the job ends meanwhile, and so does its lease
    finally:
        redis.config_set("min-replicas-to-write", 0)
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert studio.ended(waiting).status is Status.COMPLETED
    assert studio.info(worker).loads == 1
    assert is_running(janitor.pid)


def test_connections_that_fall_silent_cost_no_attempt(studio: Studio, valkey: Valkey) -> None:
    """Half-open ones: their peer is gone without a word, and a new one would be answered."""
    studio.start("worker.janitor")
    with wired(valkey.socket) as wire:
        url = f"redis://127.0.0.1:{wire.port}"
        studio.worker(redis_url=url, lease_s=9)
        job_id = studio.submit("pace=0.05", num_inference_steps=40)
        studio.denoising(job_id, 10)
        wire.freeze()
        job = studio.ended(job_id)
        assert (job.status, job.attempt) == (Status.COMPLETED, 1)
        assert studio.ended(studio.submit(), 20).status is Status.COMPLETED


def test_queue_server_killed_while_idle_is_waited_for(studio: Studio, valkey: Valkey) -> None:
    worker = studio.worker()
    valkey.kill()
    time.sleep(1.0)
    valkey.start()
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert is_running(worker.pid)


def test_job_longer_than_its_lease_runs_once_whatever_its_hosts_clock(studio: Studio) -> None:
    studio.start("worker.janitor")
    worker = studio.start("tests.worker.behind")
    until(lambda: studio.info(worker).state == "idle", 120.0, "worker ready")
    job_id = studio.submit("pace=0.1", num_inference_steps=10 * LEASE_S + 25)
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)


def test_two_workers_run_one_id_once(studio: Studio, redis: Redis) -> None:
    studio.worker()
    studio.worker()
    job_id = studio.submit("pace=0.02")
    redis.rpush(transport.queue_key(QUEUE), job_id, job_id)
    job = studio.ended(job_id)
    until(lambda: redis.llen(transport.queue_key(QUEUE)) == 0)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert studio.completions(job_id) == 1


def test_id_lost_between_dequeue_and_claim_returns(studio: Studio, redis: Redis) -> None:
    job_id = studio.submit()
    redis.lmove(transport.queue_key(QUEUE), transport.intermediate_key(QUEUE))
    studio.start("worker.janitor")
    studio.worker()
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert redis.llen(transport.intermediate_key(QUEUE)) == 0


def test_live_row_in_no_list_returns(studio: Studio, redis: Redis) -> None:
    job_id = studio.submit()
    redis.delete(transport.queue_key(QUEUE))
    studio.start("worker.janitor")
    studio.worker()
    assert studio.ended(job_id).status is Status.COMPLETED


def test_every_row_ends_without_any_worker(studio: Studio) -> None:
    job_id = studio.submit(queue_deadline_s=0.1)
    studio.start("worker.janitor")
    job = studio.ended(job_id)
    assert job.error is not None
    assert job.error.code is ErrorCode.EXPIRED


def test_janitor_killed_holding_the_lock_is_succeeded(studio: Studio) -> None:
    first = studio.start("worker.janitor")
    until(lambda: "janitor.active" in first.log.read_text())
    second = studio.start("worker.janitor")
    first.signal(signal.SIGKILL)
    until(lambda: "janitor.active" in second.log.read_text())
    second.signal(signal.SIGTERM)
    assert second.wait() == 0
