"""Whatever web side, workers and janitor do in any order, a job's row keeps its laws."""

from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from worker.jobs import keys, transport
from worker.jobs.contract import Checkpoint, ErrorCode, JobError, Progress, Stage, Status
from worker.jobs.outcomes import JobNotFound

from .conftest import QUEUE, WIP

ATTEMPTS = st.sampled_from(["a", "b", "c", "d", "e"])
ENDED = (Status.COMPLETED, Status.FAILED)


class OneJob(RuleBasedStateMachine):
    """One job, several attempts that may all be zombies, and a small model of who holds it."""

    bench = None
    result = None

    @initialize()
    def admit(self):
        self.job_id = self.bench.submit().id
        self.salt = uuid4().hex  # attempts of an earlier run stay strangers
        self.leases = {}
        self.holder = None
        self.progress = 0
        self.retries = 2
        self.ended = None
        self.cancelled = False
        self.deleted = False

    def token(self, name):
        return f"{self.salt}{name}"

    def leased(self, name):
        return self.leases.get(name, False)

    def end(self, status):
        self.ended, self.holder = status, None

    def give_back(self, counts):
        """What must follow when the holder loses the job."""
        self.holder = None
        if self.cancelled or (counts and self.retries == 0):
            self.end(Status.FAILED)
        elif counts:
            self.retries -= 1

    @rule(name=ATTEMPTS, alive=st.booleans())
    def lease(self, name, alive):
        self.bench.lease(self.job_id, self.token(name), 20 if alive else -1)
        self.leases[name] = alive

    @rule(name=ATTEMPTS)
    def claim(self, name):
        claim = self.bench.store.claim(self.job_id, self.token(name), "w", WIP)
        if self.ended:
            assert claim.refused == "terminal"
        elif self.holder == name:
            assert claim.job is not None
        elif self.holder is not None and self.leased(self.holder):
            assert claim.refused == "running"
        else:
            if self.holder is not None:
                self.give_back(counts=True)
            assert claim.refused in (None, "lost", "cancelled")
            if claim.job is not None:
                assert not self.ended
                self.holder = name
            elif claim.refused == "cancelled":
                assert self.cancelled

    @rule(name=ATTEMPTS, step=st.integers(0, 10), stage=st.sampled_from(Stage))
    def report(self, name, step, stage):
        progress = Progress(stage=stage, step=step, total=10, eta_s=None)
        assert self.bench.store.report(self.job_id, self.token(name), progress) == (
            self.holder == name
        )

    @rule(name=ATTEMPTS, steps=st.integers(1, 9))
    def checkpoint(self, name, steps):
        checkpoint = Checkpoint(artifact=self.result.video, steps=steps)
        kept = self.bench.store.checkpoint(self.job_id, self.token(name), checkpoint)
        assert kept == (self.holder == name)

    @rule(name=ATTEMPTS, good=st.booleans())
    def publish(self, name, good):
        token, held = self.token(name), self.holder == name
        if good:
            done = self.bench.store.complete(self.job_id, token, self.result)
        else:
            error = JobError(code=ErrorCode.INTERNAL_ERROR, message="x")
            done = self.bench.store.fail(self.job_id, token, error)
        if held:
            assert done == (not (good and self.deleted))
            self.end(Status.COMPLETED if good and not self.deleted else Status.FAILED)
        elif not self.ended:
            assert not done

    @rule(name=ATTEMPTS, counts=st.booleans())
    def requeue(self, name, counts):
        done = self.bench.store.requeue(self.job_id, self.token(name), "r", counts=counts)
        if self.holder == name:
            assert done
            self.give_back(counts)

    @rule()
    def reap(self):
        lost = self.holder is not None and not self.leased(self.holder)
        outcome = self.bench.store.reap(self.job_id, None, WIP)
        assert (outcome != "stale") == lost
        if lost:
            self.give_back(counts=True)
            assert outcome == ("ended" if self.ended else "requeue")

    @rule()
    def rescue(self):
        self.bench.store.rescue(self.job_id, QUEUE)

    @rule()
    def take(self):
        transport.JsonQueue.dequeue_any([self.bench.queue()], None, self.bench.redis)

    @rule(purge=st.booleans())
    def cancel(self, purge):
        try:
            if purge:
                self.bench.store.delete(self.job_id, "studio")
            else:
                self.bench.store.cancel(self.job_id, "studio")
        except JobNotFound:
            assert self.deleted
            return
        self.deleted = self.deleted or purge
        if not self.ended:
            self.cancelled = True
            if self.holder is None:
                self.end(Status.FAILED)

    @invariant()
    def the_row_is_what_the_model_says(self):
        if not hasattr(self, "job_id"):
            return
        redis = self.bench.redis
        row = {k.decode(): v.decode() for k, v in redis.hgetall(keys.job(self.job_id)).items()}
        held = self.token(self.holder) if self.holder else ""
        state = self.ended or (Status.IN_PROGRESS if self.holder else Status.QUEUED)
        assert (row["state"], row.get("exec", "")) == (state, held)
        assert int(row["retries_left"]) == self.retries
        assert self.progress <= int(row["progress"]) <= (100 if state == "completed" else 99)
        self.progress = int(row["progress"])
        assert ("result" in row) == (state == "completed" and not self.deleted)
        assert ("error" in row) == (state == "failed" and not self.deleted)

    @invariant()
    def the_indexes_agree_with_the_row(self):
        if not hasattr(self, "job_id"):
            return
        redis, live = self.bench.redis, self.ended is None
        member = self.job_id.encode()
        assert redis.sismember(keys.LIVE, member) == live
        assert redis.sismember(keys.tenant_active("studio"), member) == live
        assert (redis.ttl(keys.job(self.job_id)) == -1) == live
        waiting = redis.lrange(transport.queue_key(QUEUE), 0, -1)
        assert waiting.count(member) <= 1

    @invariant()
    def events_are_numbered_without_gaps_and_end_once(self):
        if not hasattr(self, "job_id") or (self.deleted and self.ended):
            return
        events = self.bench.store.events.read(self.job_id) if not self.deleted else ()
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        kinds = [event.type for event in events]
        assert sum(kinds.count(kind) for kind in ENDED) == (self.ended is not None and bool(events))

    def teardown(self):
        # The next run starts with an empty server.
        self.bench.redis.flushall()


@pytest.mark.parametrize("steps", [12, 40])
def test_a_row_keeps_its_laws_whatever_happens(bench, result, steps):
    machine = type("Machine", (OneJob,), {"bench": bench, "result": result})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
