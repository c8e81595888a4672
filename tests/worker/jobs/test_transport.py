"""The queue carries ids as JSON: nothing planted in it is imported, unpickled or lost."""

import inspect
import json
import pickle
import subprocess
import sys
import time
import zlib
from importlib import import_module

import pytest
from rq import command, registry, scripts
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker
from rq.worker_registration import clean_worker_registry

from worker.jobs import transport
from worker.jobs.connection import worker_client
from worker.jobs.transport import JsonJob, JsonQueue

from .conftest import QUEUE

PARAMETERS = {
    Queue.lmove: "connection queue_key timeout",
    Queue._fetch_dequeued_job: "connection queue_key job_id job_class serializer "
    "death_penalty_class",
    Queue.dequeue_any: "queues timeout connection job_class serializer death_penalty_class",
    Queue.from_queue_key: "queue_key connection job_class serializer death_penalty_class",
    Job.__init__: "self id connection serializer",
    Job.restore: "self raw_data",
    scripts._build_hset_args: "job",
    command.send_command: "connection worker_name command kwargs",
    registry.StartedJobRegistry.cleanup: "self timestamp exception_handlers",
    registry.StartedJobRegistry.add_execution: "self execution pipeline ttl xx",
    registry.BaseRegistry.get_queue: "self",
    Execution.create: "job ttl pipeline worker_name",
    clean_worker_registry: "queue",
    BaseWorker._set_connection: "self connection",
    BaseWorker.prepare_execution: "self job",
    BaseWorker.prepare_job_execution: "self job remove_from_intermediate_queue",
    BaseWorker.maintain_heartbeats: "self job execution",
    BaseWorker._finalize_success: "self job queue execution return_value",
    BaseWorker._finalize_failure: "self job queue execution exc_info",
}


class Bomb:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("function", PARAMETERS, ids=lambda function: function.__qualname__)
def test_rq_has_the_signatures_that_we_need(function):
    assert (
        " ".join(inspect.signature(function).parameters).removeprefix("cls ")
        == (PARAMETERS[function])
    )


def test_rq_names_its_keys_as_we_expect():
    assert transport.queue_key("q") == "rq:queue:q"
    assert transport.intermediate_key("q") == "rq:queue:q:intermediate"
    assert transport.wip_key("q") == "rq:wip:q"
    assert transport.entry_key("j") == "rq:job:j"
    assert transport.QUEUES == "rq:queues"


def test_a_lease_of_rq_is_one_that_claims_understand(bench):
    job = bench.submit()
    taken, queue = JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    with bench.redis.pipeline() as pipeline:
        execution = Execution.create(taken, 20, pipeline)
        pipeline.execute()
    wip = queue.started_job_registry.key
    assert wip == transport.wip_key(QUEUE)
    assert bench.store.claim(job.id, execution.id, "w", wip).attempt == 1
    assert bench.store.claim(job.id, "other", "w", wip).refused == "running"
    assert bench.store.reap(job.id, execution.id, wip) == "stale"


def test_the_task_name_resolves_and_refuses_to_run():
    module, name = transport.TASK.rsplit(".", 1)
    task = getattr(import_module(module), name)
    with pytest.raises(RuntimeError, match="video_1"):
        task("video_1")


def test_an_entry_is_read_as_it_was_admitted(bench):
    job = bench.submit(job_timeout_s=77)
    entry = JsonJob.fetch(job.id, connection=bench.redis, serializer="pickle")
    assert entry.serializer is JSONSerializer
    assert (entry.func_name, entry.args, entry.kwargs) == (transport.TASK, [job.id], {})
    assert (entry.timeout, entry.retries_left, entry.origin) == (77, 2, QUEUE)
    assert entry.get_status() == "queued"
    assert entry.description == job.id


@pytest.mark.parametrize("field", ["data", "meta", "result"])
@pytest.mark.parametrize("pack", [zlib.compress, bytes])
def test_a_planted_pickle_is_never_loaded(bench, tmp_path, field, pack):
    job, crater = bench.submit(), tmp_path / "crater"
    planted = pack(pickle.dumps(Bomb(crater)))
    bench.redis.hset(transport.entry_key(job.id), field, planted)
    entry, queue = JsonQueue.dequeue_any([bench.queue()], None, bench.redis, serializer="pickle")
    assert (entry.id, entry.func_name, entry.meta) == (job.id, transport.TASK, {})
    assert queue.serializer is JSONSerializer
    assert not crater.exists()
    assert bench.claim(job.id, "e1").attempt == 1  # the row decides, so the job still runs
    pickle.loads(pickle.dumps(Bomb(crater))).close()  # noqa: S301  (the bomb is live)
    assert crater.exists()


def test_a_foreign_function_is_never_imported(bench, tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    job = bench.submit()
    data = zlib.compress(json.dumps(["hostile.run", None, [], {}]).encode())
    names = ("success_callback_name", "failure_callback_name", "stopped_callback_name")
    hooks = dict.fromkeys(names, "hostile.run")
    webhook = json.dumps([{"url": "http://127.0.0.1:9/", "statuses": ["finished"]}])
    bench.redis.hset(
        transport.entry_key(job.id), mapping={"data": data, "webhooks": webhook, **hooks}
    )
    entry, _ = JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert (entry.func_name, entry.webhooks) == (transport.TASK, [])
    assert {entry.success_callback, entry.failure_callback, entry.stopped_callback} == {None}
    for run in (entry.perform, lambda: entry.func):
        with pytest.raises(RuntimeError):
            run()
    assert "hostile" not in sys.modules


def test_an_entry_without_row_is_refused_by_the_claim(bench):
    bench.queue().enqueue("os.system", "true", job_id="planted")
    entry, _ = JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert entry.func_name == transport.TASK
    assert bench.claim(entry.id, "e1").refused == "missing"


def test_a_vanished_entry_loses_no_job(bench):
    job = bench.submit()
    bench.redis.delete(transport.entry_key(job.id))
    entry, _ = JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert entry.id == job.id
    assert JsonJob.fetch(job.id, connection=bench.redis).func_name == transport.TASK
    assert bench.claim(job.id, "e1").attempt == 1


def test_an_impossible_id_is_thrown_away(bench):
    bench.redis.rpush(transport.queue_key(QUEUE), "not:an/id")
    job = bench.submit()
    entry, _ = JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert entry.id == job.id
    assert bench.redis.lrange(transport.intermediate_key(QUEUE), 0, -1) == [job.id.encode()]


NONSENSE = {
    "timeout": "soon",
    "status": "asleep",
    "created_at": "yesterday",
    "retries_left": "many",
    "meta": "{",
    "dependency_ids": "[",
    "retry_intervals": "nonsense",
    "repeats_left": "x",
    "data": b"\xff",
}


@pytest.mark.parametrize("field", NONSENSE)
def test_a_nonsense_entry_stops_no_worker(bench, field):
    job = bench.submit()
    bench.redis.hset(transport.entry_key(job.id), field, NONSENSE[field])
    entry, _ = JsonQueue.dequeue_any([bench.queue()], None, bench.redis)
    assert (entry.id, entry.func_name) == (job.id, transport.TASK)
    assert bench.claim(job.id, "e1").attempt == 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_dequeued_id_is_kept_until_it_is_claimed(bench, count):
    job = bench.submit()
    queues = [bench.queue(), *(JsonQueue(f"idle{n}", bench.redis) for n in range(count - 1))]
    entry, queue = JsonQueue.dequeue_any(queues[::-1], 1, bench.redis)
    assert (entry.id, queue.name) == (job.id, QUEUE)
    assert bench.redis.lrange(transport.intermediate_key(QUEUE), 0, -1) == [job.id.encode()]


@pytest.mark.parametrize("count", [1, 2])
def test_an_empty_queue_waits_and_says_so(valkey, count):
    with worker_client(valkey.url) as patient:
        queues = [JsonQueue(f"idle{number}", patient) for number in range(count)]
        assert JsonQueue.dequeue_any(queues, None, patient) is None
        begin = time.monotonic()
        with pytest.raises(DequeueTimeout):
            JsonQueue.dequeue_any(queues, 1, patient)
    assert 0.9 < time.monotonic() - begin < 3


def test_the_first_queue_goes_first(bench):
    low, high = JsonQueue("low", bench.redis), JsonQueue("high", bench.redis)
    for name, job_id in (("low", "a"), ("high", "b")):
        bench.redis.rpush(transport.queue_key(name), job_id)
    taken = [JsonQueue.dequeue_any([high, low], None, bench.redis)[0].id for _ in range(2)]
    assert taken == ["b", "a"]


def test_reaping_by_rq_reads_entries_as_json(bench, tmp_path):
    crater = tmp_path / "crater"
    job, exec = bench.running()
    planted = {"status": "started", "meta": pickle.dumps(Bomb(crater))}
    bench.redis.hset(transport.entry_key(job.id), mapping=planted)
    bench.lease(job.id, exec, -1)
    registry = bench.queue().started_job_registry
    assert bench.store.reap(job.id, exec, registry.key) == "requeue"
    registry.cleanup()
    assert bench.redis.lrange(transport.queue_key(QUEUE), 0, -1) == [job.id.encode()]
    entry = JsonJob.fetch(job.id, connection=bench.redis)
    assert (entry.retries_left, bench.store.get(job.id).retries_left) == (1, 1)
    assert not crater.exists()
    assert bench.store.rescue(job.id, QUEUE) == "none"


def test_stop_reaches_only_a_worker_that_runs_the_job(bench):
    job = bench.submit()
    assert not transport.send_stop(bench.redis, job.id)
    bench.redis.hset(transport.entry_key(job.id), "worker_name", "w")
    assert transport.send_stop(bench.redis, job.id)


def test_queue_names_are_those_that_ever_held_a_job_or_had_a_worker(bench):
    for model in ("pocket", "other"):
        bench.submit(model=model)
    assert transport.queue_names(bench.redis) == ["praxino-other", "praxino-pocket"]
    transport.list_queues(bench.redis, ["praxino-third:flex", "praxino-other"])
    named = ["praxino-other", "praxino-pocket", "praxino-third:flex"]
    assert transport.queue_names(bench.redis) == named
    assert (bench.store.depth(), bench.store.depth("other")) == (2, 1)


def test_the_audit_hook_refuses_pickles_by_name_only():
    script = (
        "import pickle, sys\n"
        "from worker.jobs.audit import PickleRefused, refuse_pickle\n"
        "evil = pickle.dumps(print)\n"
        "assert pickle.loads(evil) is print\n"
        "refuse_pickle(); refuse_pickle()\n"
        "assert pickle.loads(pickle.dumps({'a': [1, 2.5, b'x']})) == {'a': [1, 2.5, b'x']}\n"
        "try:\n"
        "    pickle.loads(evil)\n"
        "except PickleRefused as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("refused to unpickle builtins.print", "")
