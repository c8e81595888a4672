"""An RQ worker that keeps one inference child alive and never loads torch.

RQ brings the queue entry, the worker's registration, its leases and its command channel; the job
row decides whether anything runs and what became of it. `job.perform()` is never called.
"""

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import structlog
from redis import Redis
from rq.command import parse_payload
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import Job as Entry
from rq.job import JobStatus
from rq.worker import BaseWorker, WorkerStatus

from worker.attempt import Attempt, Outcome, Verdict, drive
from worker.desk import QueueDesk
from worker.drain import Drain
from worker.ending import Ending, end_attempt
from worker.forecast import Pace
from worker.handout import hand_out
from worker.jobs import transport
from worker.jobs.artifacts import artifact_prefix, checkpoint_prefix, open_store
from worker.jobs.connection import web_client, worker_client
from worker.jobs.contract import Job
from worker.jobs.costs import fitting
from worker.jobs.outcomes import Claim
from worker.jobs.settings import DAY_S
from worker.jobs.sharing import Sharing
from worker.jobs.store import JobStore
from worker.jobs.tenants import read_owner
from worker.jobs.tracing import open_tracing
from worker.launcher import Child, Launcher, LoadFailed
from worker.messages import Run
from worker.patience import OUTAGES, persist
from worker.presence import Presence
from worker.pulse import Pulse
from worker.repertoire import Repertoire
from worker.rest import Rest
from worker.settings import WorkerSettings
from worker.shelf import Shelf
from worker.trail import Trail

log = structlog.get_logger()

Value = TypeVar("Value")

DEQUEUE_S = 1  # how long an idle worker may overlook a signal or the death of its child
DOZE_S = 0.25  # how long one that rests may overlook a signal
SHORTEST_TIMEOUT_S = 2.0  # of a connection; a wait for the next job is no silence
STATUS = {Ending.COMPLETED: JobStatus.FINISHED, Ending.FAILED: JobStatus.FAILED}


class Stopped(Exception):
    """The worker was told to leave while it waited."""


@dataclass(frozen=True)
class Held:
    """A job that this worker has claimed, until it has ended or waits again."""

    entry: Entry
    execution: Execution
    claim: Claim
    job: Job
    trail: Trail

    @property
    def token(self) -> str:
        """The attempt token."""
        return self.execution.id


class Supervisor(BaseWorker):
    """One worker: its models' queues, one child. Must be used on the main thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        url = settings.redis_url.get_secret_value()
        patient = worker_client(url, max(SHORTEST_TIMEOUT_S, settings.lease_s / 3))
        self._impatient = web_client(url)
        self._repertoire = Repertoire(settings.served, settings.gpu_class, settings.model_turn_s)
        names = self._repertoire.queues()
        device = settings.device.replace(":", "")
        super().__init__(
            self._open(names, patient),
            name=f"{socket.gethostname()}-{device}-{uuid4().hex[:12]}",
            connection=patient,
            job_class=transport.JsonJob,
            queue_class=transport.JsonQueue,
            worker_ttl=settings.worker_ttl_s,
            log_job_description=False,
            prepare_for_work=False,  # it would ask the queue server, which may be away
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()
        self.store = JobStore(patient, settings)
        self._quick_store = JobStore(self._impatient, settings)
        self._artifacts = open_store(settings)
        self._sharing = Sharing(self.store, self._artifacts)
        self._shelf = Shelf(settings.shelf_dir.resolve())
        scratch = settings.data_dir.resolve() / "scratch"
        self._launcher = Launcher(settings, scratch / self.name)
        self._rest = Rest(scratch)
        self._paces = {model: Pace() for model in settings.served}
        self._pulse = Pulse(settings.data_dir, "worker")
        self._presence = Presence(
            self._quick_store,
            self.name,
            settings.gpu_class,
            settings.worker_ttl_s,
            self._launcher,
            self._repertoire,
            self._paces,
            self._pulse,
        )
        self._tracing = open_tracing("worker")
        self._attempts: tuple[Attempt, ...] = ()
        self._drain = Drain(settings.drain_s, self._hurry)

    # Life

    def serve(self) -> None:
        """Load the first model, take jobs until told to stop, leave in order.

        raises LoadFailed, CrashLoop; the last outage if the queue server stays away too long
        """
        self._drain.listen()
        try:
            self._child()
            self._persist(self._register, "register")
            self._persist(self.subscribe, "subscribe")
            self._persist(self._clear_shelf, "clear shelf")
            self._presence.announce("idle")
            log.info("worker.ready", worker=self.name, models=self.settings.served)
            while not self._drain.begun:
                self._serve_one()
        except Stopped:
            pass
        finally:
            self._launcher.close()
            self._leave()
            self._tracing.close()
        log.info("worker.stopped", worker=self.name)

    def _serve_one(self) -> None:
        child = self._child()
        awake = self._rest.over()
        try:
            names = self._repertoire.queues()
            if self._presence.due() or self._presence.outdated():
                self._presence.announce("idle" if awake and names else "resting")
                self.heartbeat()
            if not awake or not names:
                time.sleep(DOZE_S)
                return
            queues = self._open(names, self.connection)
            taken = transport.JsonQueue.dequeue_any(queues, DEQUEUE_S, self.connection)
        except DequeueTimeout:
            self._repertoire.nobody_waits()
            return
        except OUTAGES as error:
            log.warning("queue.unreachable", action="dequeue", error=type(error).__name__)
            time.sleep(DEQUEUE_S)
            return
        if taken is not None:
            self._take(taken[0], child)

    def _child(self) -> Child:
        """A child that runs, with a model loaded if it is new. raises LoadFailed, CrashLoop"""
        try:
            child = self._launcher.ensure(self._repertoire.next_up(), self._stay_known)
        except LoadFailed as error:
            self._repertoire.failed(self._repertoire.next_up())
            if self._repertoire.queues():
                log.error("model.load_failed", reason=str(error))
                return self._child()
            raise
        self._meet()
        return child

    def _meet(self) -> None:
        """Whatever the child has loaded or unloaded meanwhile."""
        for ready in self._launcher.news():
            self._repertoire.loaded(ready.model)
            self._presence.meet(ready)

    def _open(self, names: Sequence[str], redis: Redis) -> list[transport.JsonQueue]:
        return [transport.JsonQueue(name, connection=redis) for name in names]

    def _register(self) -> None:
        transport.list_queues(self.connection, self.queue_names())
        with contextlib.suppress(ValueError):  # the name is ours alone: a repeat after a lost reply
            self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.IDLE)

    def _leave(self) -> None:
        self._presence.retire()
        with contextlib.suppress(*OUTAGES):
            self.register_death()  # type: ignore[no-untyped-call]
            self.unsubscribe()  # type: ignore[no-untyped-call]

    def _hurry(self) -> None:
        for attempt in self._attempts:
            attempt.hurry()

    # One job, or a batch of them

    def _take(self, entry: Entry, child: Child) -> None:
        if not child.alive():
            self._persist(lambda: self.store.rescue(entry.id, entry.origin), "put back")
            return
        first = self._claim(entry)
        if first is not None:
            self._make([first, *self._mates(first)], child)

    def _claim(self, entry: Entry) -> Held | None:
        """Claim a job that was taken from its queue; None if there is nothing to do for it."""
        self._repertoire.took(entry.origin)
        execution = self._persist(lambda: self.prepare_execution(entry), "lease")
        wip = transport.wip_key(entry.origin)
        claim = self._persist(
            lambda: self.store.claim(entry.id, execution.id, self.name, wip), "claim"
        )
        if claim.job is None:
            tenant = self._persist(lambda: read_owner(self.connection, entry.id), "owner")
            log.info("job.refused", job_id=entry.id, tenant=tenant, reason=claim.refused)
            ended = claim.refused != "running"
            self._persist(lambda: self._settle(entry, execution, None, ended), "settle")
            return None
        job = claim.job
        log.info("job.claimed", job_id=job.id, tenant=job.tenant, attempt=claim.attempt)
        trail = Trail(self._tracing, job, claim.attempt, self.name)
        self._persist(lambda: self._begin(entry), "begin")
        return Held(entry, execution, claim, job, trail)

    def _mates(self, first: Held) -> list[Held]:
        """Jobs that are made in one batch with this one. One that was given back is made alone,
        for it may be what ended its batch."""
        most = self._room(first) - 1
        if most < 1 or first.claim.attempt > 1 or self._drain.begun:
            return []
        try:
            before = self._repertoire.before(first.entry.origin)
            ids = self._quick_store.mates(first.job, most, before)
        except OUTAGES as error:  # what it took all the same the janitor puts back
            log.warning("queue.unreachable", action="mates", error=type(error).__name__)
            return []
        mates = []
        for job_id in ids:
            entry = self._persist(lambda id=job_id: self._entry(id, first), "fetch")  # type: ignore[misc]
            held = None if entry is None else self._claim(entry)
            if held is not None:
                mates.append(held)
        return mates

    def _room(self, first: Held) -> int:
        """How many jobs like this one may be made at once."""
        request, timeout_s = first.job.request, first.claim.timeout_s
        ready, most = self._presence.known.get(request.model), self.settings.batch
        if most == 1 or ready is None or not ready.batchable:
            return 1
        pace = self._paces[request.model]
        return min(most, fitting(request, pace.curve, pace.samples, ready.memory_mb, timeout_s))

    def _entry(self, job_id: str, first: Held) -> Entry | None:
        return transport.JsonQueue.entry_of(self.connection, first.entry.origin, job_id)

    def _make(self, batch: Sequence[Held], child: Child) -> None:
        """Run attempts; each job is published as soon as it has ended, whatever the others do."""
        by_token = {held.token: held for held in batch}
        self._attempts = tuple(
            self._attempt(held, child, shared=len(batch) > 1, more=held is not batch[-1])
            for held in batch
        )
        if len(batch) > 1:
            log.info("batch.begun", jobs=len(batch), job_ids=[held.job.id for held in batch])
        ended = []
        try:
            self._presence.announce("busy", batch[0].job.id)
            for attempt, outcome in drive(child, self._attempts):
                held = by_token[attempt.token]
                held.trail.leave(outcome)
                ended.append((held, outcome, self._publish(held, outcome)))
        finally:
            self._attempts = ()
        # What may take its time comes last: meanwhile no lease is renewed.
        self._meet()
        verdicts = {outcome.verdict for _, outcome, _ in ended}
        if self._launcher.has_child() and Verdict.MODELLESS not in verdicts:
            self._launcher.went_well()
        self._reckon(verdicts, batch[0].job.request.model)
        for held, outcome, ending in ended:
            self._tidy(held, outcome, ending)
        self._presence.announce(self._idle_state())

    def _reckon(self, verdicts: set[Verdict], model: str) -> None:
        """Whether to rest before the next job, or before the next of this model."""
        if Verdict.MODELLESS in verdicts:
            self._repertoire.failed(model)
        if Verdict.ROOMLESS in verdicts:
            self._rest.begin()
        elif Verdict.DONE in verdicts:
            self._rest.went_well()

    def _idle_state(self) -> str:
        """What a worker without a job does."""
        if self._drain.begun:
            return "draining"
        return "idle" if self._rest.over() and self._repertoire.queues() else "resting"

    def _attempt(self, held: Held, child: Child, *, shared: bool, more: bool) -> Attempt:
        job, claim = held.job, held.claim
        pace = self._paces[job.request.model]
        desk = QueueDesk(
            self._quick_store,
            job,
            held.token,
            self.settings.gpu_class,
            self._repertoire.models,
            lambda: self._renew(held.entry, held.execution),
            self._drain.must_leave,
            held.trail.follow,
        )
        run = Run(
            exec=held.token,
            job_id=job.id,
            attempt=claim.attempt,
            request=job.request,
            artifact_prefix=artifact_prefix(job, held.token),
            checkpoint_prefix=checkpoint_prefix(job.tenant, job.id),
            resume=claim.checkpoint,
            more=more,
        )
        return Attempt(
            child,
            run,
            desk,
            pace.aside() if shared else pace,
            claim.timeout_s,
            self.settings.cancel_grace_s,
            self.settings.load_timeout_s,
            self.settings.lease_s / 4,
            self.settings.silence_s,
        )

    def _publish(self, held: Held, outcome: Outcome) -> Ending:
        """Write the outcome down, and let the queue know."""
        job, entry = held.job, held.entry
        timeout_s = held.claim.timeout_s
        ending = self._persist(
            lambda: end_attempt(self.store, job, held.token, outcome, timeout_s), "publish"
        )
        facts = {"job_id": job.id, "tenant": job.tenant}
        log.info("job.ended", verdict=outcome.verdict, ending=ending, **facts)
        status = STATUS.get(ending)
        self._persist(
            lambda: self._settle(entry, held.execution, status, status is not None), "settle"
        )
        if ending is Ending.REQUEUED:
            self._persist(lambda: self.store.rescue(job.id, entry.origin), "requeue")
        return ending

    def _tidy(self, held: Held, outcome: Outcome, ending: Ending) -> None:
        """What an ended attempt leaves behind: files to forget, copies to hand out, a lesson."""
        self._clear(held.job, held.token, ending, outcome.checkpointed)
        if ending is Ending.COMPLETED:
            hand_out(self._sharing, held.job.id, held.job.tenant)
            model = held.job.request.model
            self._paces[model].note_settled()
            self._presence.share(model)
        held.trail.end(ending)

    def _clear(self, job: Job, token: str, ending: Ending, checkpointed: bool) -> None:
        ended = ending in (Ending.COMPLETED, Ending.FAILED)
        try:
            if ending is not Ending.COMPLETED:
                self._artifacts.delete_prefix(artifact_prefix(job, token))
            if ended and checkpointed:
                self._artifacts.delete_prefix(checkpoint_prefix(job.tenant, job.id))
        except OSError as error:  # the janitor clears it up
            facts = {"job_id": job.id, "tenant": job.tenant}
            log.warning("storage.failed", reason=str(error), **facts)
        if ended:
            self._shelf.drop(job.id)

    def _clear_shelf(self) -> None:
        """Forget the films of jobs that ended while no worker of this machine was looking."""
        live = self.store.live_ids()
        for job_id in self._shelf.jobs():
            if job_id not in live:
                self._shelf.drop(job_id)

    # The queue entry and the lease

    def _begin(self, entry: Entry) -> None:
        with self.connection.pipeline() as pipeline:
            entry.prepare_for_execution(self.name, pipeline=pipeline)
            pipeline.persist(entry.key)
            pipeline.lrem(transport.intermediate_key(entry.origin), 0, entry.id)
            pipeline.execute()

    def _renew(self, entry: Entry, execution: Execution) -> bool:
        """Renew lease and registration; false if the lease was taken away."""
        with self._impatient.pipeline() as pipeline:
            ttl = self.get_heartbeat_ttl(entry)
            leases = transport.leases(entry.origin, self._impatient)
            execution.heartbeat(leases, ttl, pipeline=pipeline)
            self.heartbeat(pipeline=pipeline)
            pipeline.zscore(transport.wip_key(entry.origin), execution.composite_key)
            held = pipeline.execute()[-1] is not None
        if self._presence.due():
            self._presence.announce("draining" if self._drain.begun else "busy", entry.id)
        return held

    def _settle(
        self, entry: Entry, execution: Execution, status: JobStatus | None, ended: bool
    ) -> None:
        """Give the lease up; an ended job's entry gets its status and expires."""
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(entry, pipeline=pipeline, execution=execution)
            pipeline.lrem(transport.intermediate_key(entry.origin), 0, entry.id)
            if status is not None:
                entry.set_status(status, pipeline=pipeline)
            if ended:
                pipeline.expire(entry.key, DAY_S)
            self.set_state(WorkerStatus.IDLE, pipeline=pipeline)
            pipeline.execute()

    # What RQ calls

    def _set_connection(self, connection: Redis) -> Redis:
        """As it is: RQ would let it wait for longer than a lease."""
        return connection

    def get_heartbeat_ttl(self, job: Entry, working_time: float = 0.0) -> int:
        """A lease, not RQ's minute and more."""
        return math.ceil(self.settings.lease_s)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """RQ's way to stop whatever runs: a soft cancel, so that the model stays loaded."""
        for attempt in self._attempts:
            attempt.request_cancel()

    def handle_payload(self, message: Any) -> None:
        """A command from the channel; nonsense must not end the thread that listens."""
        try:
            command = parse_payload(message)
            if command["command"] == "stop-job":  # RQ's own handler knows of one job at a time
                self._stop(command["job_id"])
            else:
                super().handle_payload(message)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("command.refused", error=type(error).__name__)

    def _stop(self, job_id: str) -> None:
        for attempt in self._attempts:
            if attempt.job_id == job_id:
                attempt.request_cancel()

    # Waiting

    def _stay_known(self) -> None:
        if self._drain.begun:
            raise Stopped
        if self._presence.due():
            self._presence.announce("starting")

    def _persist(self, action: Callable[[], Value], what: str) -> Value:
        return persist(action, what, self.settings.redis_patience_s, self._give_up)

    def _give_up(self) -> bool:
        self._pulse.beat()  # whoever waits for the queue server is alive
        return self._drain.over()
