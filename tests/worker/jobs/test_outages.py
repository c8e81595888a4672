"""A server that hangs or is away is noticed soon, and a resent command does nothing twice."""

import os
import signal
import time

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.jobs import keys, transport
from worker.jobs.connection import web_client
from worker.jobs.outcomes import CancelOutcome
from worker.jobs.store import JobStore
from worker.patience import OUTAGES

from .conftest import QUEUE


@pytest.fixture
def web_store(valkey, job_settings):
    with web_client(valkey.url) as client:
        yield JobStore(client, job_settings)


def test_a_hanging_server_is_given_up_and_a_resent_submission_is_one_job(
    bench, web_store, make_submission, valkey
):
    web_store.submit(make_submission(tenant="other", model="other"))  # connected, script loaded
    bench.redis.delete(keys.LIVE)
    os.kill(valkey.pid, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        with pytest.raises(RedisTimeoutError):
            web_store.submit(make_submission())
        waited = time.monotonic() - begin
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    assert waited < 5
    # The server now reads every copy of the command that the client sent.
    deadline = time.monotonic() + 5
    while not bench.store.live_ids() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    (job_id,) = bench.store.live_ids()
    assert bench.redis.lrange(transport.queue_key(QUEUE), 0, -1) == [job_id.encode()]
    assert bench.redis.xlen(keys.events(job_id)) == 1


def test_an_absent_server_is_noticed_at_once(bench, web_store, valkey):
    job = bench.submit()
    valkey.stop()
    begin = time.monotonic()
    with pytest.raises(RedisConnectionError):
        web_store.get(job.id)
    assert time.monotonic() - begin < 3
    valkey.start()
    assert web_store.get(job.id) == job


@pytest.mark.parametrize("code", ["MISCONF", "NOREPLICAS", "BUSY", "READONLY", "LOADING", "OOM"])
def test_a_refusal_that_passes_is_an_outage(web_store, code):
    """Web clients have been opened: they know more of them than redis-py does."""
    assert isinstance(BaseParser.parse_error(f"{code} for now"), OUTAGES)
    assert not isinstance(BaseParser.parse_error("ERR for ever"), OUTAGES)


def test_a_cancellation_holds_though_its_fast_path_fails(bench, monkeypatch):
    job, _ = bench.running()

    def unreachable(redis, job_id):
        raise RedisConnectionError

    monkeypatch.setattr(transport, "send_stop", unreachable)
    assert bench.store.cancel(job.id, "studio") is CancelOutcome.FLAGGED
    assert bench.store.cancel_requested(job.id)
