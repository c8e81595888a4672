"""The counter needs no more rights on the server than those that the documentation grants."""

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from worker.jobs import keys, transport
from worker.jobs.contract import Progress, Stage
from worker.jobs.outbox import Outbox
from worker.jobs.store import JobStore

from .conftest import QUEUE, WIP, Bench

RIGHTS = (
    f"~rq:* ~{keys.PREFIX}* &rq:pubsub:* &{keys.PREFIX}* -@all +@read +@write +@pubsub "
    "+@transaction +@scripting +@connection +@blocking -@dangerous +info +time -@admin"
)


@pytest.fixture
def limited(redis, valkey):
    redis.execute_command("ACL", "SETUSER", "praxino", "reset", "on", ">word", *RIGHTS.split())
    client = Redis.from_url(valkey.url, username="praxino", password="word")
    yield client
    client.close()
    redis.acl_deluser("praxino")


def test_a_limited_user_may_do_all_that_the_counter_does(
    limited, job_settings, make_submission, result
):
    bench = Bench(JobStore(limited, job_settings), limited, make_submission)
    wakes = bench.store.events.wakes()
    done, exec = bench.running(idempotency_key="k")
    assert bench.store.report(
        done.id, exec, Progress(stage=Stage.LOADING, step=0, total=1, eta_s=1)
    )
    bench.store.cancel(done.id, "studio")
    assert bench.store.complete(done.id, exec, result)
    back = bench.submit()
    entry, _ = transport.JsonQueue.dequeue_any([bench.queue()], None, limited)
    assert bench.store.rescue(entry.id, QUEUE) == "pushed"
    assert bench.store.reap(back.id, None, WIP) == "stale"
    assert bench.store.expire_overdue() == {}
    bench.store.delete(back.id, "studio")
    page = bench.store.list("studio", after=None, limit=9, descending=True)
    assert [job.id for job in page.jobs] == [done.id]
    assert len(bench.store.events.read(done.id)) == 5
    assert bench.store.workers() == ()
    wakes.close()


def test_a_limited_user_may_do_all_that_the_outbox_does(limited, job_settings, make_submission):
    store, outbox = JobStore(limited, job_settings), Outbox(limited, job_settings)
    job = store.submit(make_submission(callback_url="https://receiver.example/")).job
    store.cancel(job.id, "studio")
    (letter,) = outbox.due(9)
    assert outbox.hold(letter.id, 30)
    assert not outbox.is_unwanted(letter)
    assert outbox.settle(letter, "gone", "the receiver answered 410")
    assert outbox.is_unwanted(letter)
    assert [dead.id for dead in outbox.dead()] == [letter.id]
    assert outbox.redeliver(letter.id)
    assert outbox.deliveries() == {"gone": 1}
    assert outbox.rotate("studio") in outbox.secrets("studio")


def test_a_limited_user_may_not_leave_its_keys(limited):
    for command in (("GET", "other"), ("FLUSHALL",), ("CONFIG", "GET", "dir"), ("KEYS", "*")):
        with pytest.raises(NoPermissionError):
            limited.execute_command(*command)
