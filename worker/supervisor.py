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
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import uuid4

import structlog
from rq.exceptions import DequeueTimeout
from rq.executions import Execution
from rq.job import Job as Entry
from rq.job import JobStatus
from rq.worker import BaseWorker, WorkerStatus

from worker.attempt import Attempt, Outcome
from worker.desk import QueueDesk
from worker.drain import Drain
from worker.ending import Ending, end_attempt
from worker.forecast import Pace
from worker.handout import hand_out
from worker.jobs import transport
from worker.jobs.artifacts import artifact_prefix, checkpoint_prefix, open_store
from worker.jobs.connection import web_client, worker_client
from worker.jobs.contract import Job
from worker.jobs.outcomes import Claim
from worker.jobs.settings import DAY_S
from worker.jobs.sharing import Sharing
from worker.jobs.store import JobStore
from worker.jobs.tracing import open_tracing
from worker.launcher import Child, Launcher
from worker.messages import Run
from worker.patience import OUTAGES, persist
from worker.presence import Presence
from worker.pulse import Pulse
from worker.settings import WorkerSettings
from worker.shelf import Shelf
from worker.trail import Trail

log = structlog.get_logger()

Value = TypeVar("Value")

DEQUEUE_S = 1  # how long an idle worker may overlook a signal or the death of its child
STATUS = {Ending.COMPLETED: JobStatus.FINISHED, Ending.FAILED: JobStatus.FAILED}


class Stopped(Exception):
    """The worker was told to leave while it waited."""


class Supervisor(BaseWorker):
    """One worker: one model's queues, one child. Must be used on the main thread."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        url = settings.redis_url.get_secret_value()
        patient = worker_client(url)
        self._impatient = web_client(url)
        names = transport.model_queues(settings.model)
        device = settings.device.replace(":", "")
        super().__init__(
            [transport.JsonQueue(name, connection=patient) for name in names],
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
        self._launcher = Launcher(settings, settings.data_dir.resolve() / "scratch" / self.name)
        self._pace = Pace()
        self._pulse = Pulse(settings.data_dir, "worker")
        self._presence = Presence(
            self._quick_store,
            self.name,
            settings.model,
            settings.worker_ttl_s,
            self._launcher,
            self._pace,
            self._pulse,
        )
        self._tracing = open_tracing("worker")
        self._attempt: Attempt | None = None
        self._drain = Drain(settings.drain_s, self._hurry)

    # Life

    def serve(self) -> None:
        """Load the model, take jobs until told to stop, leave in order.

        raises LoadFailed, CrashLoop; the last outage if the queue server stays away too long
        """
        self._drain.listen()
        try:
            self._child()
            self._persist(self._register, "register")
            self._persist(self.subscribe, "subscribe")
            self._persist(self._clear_shelf, "clear shelf")
            self._presence.announce("idle")
            log.info("worker.ready", worker=self.name, model=self.settings.model)
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
        loads = self._launcher.loads
        child = self._child()
        try:
            if self._presence.due() or self._launcher.loads > loads:
                self._presence.announce("idle")
                self.heartbeat()
            taken = transport.JsonQueue.dequeue_any(self.queues, DEQUEUE_S, self.connection)
        except DequeueTimeout:
            return
        except OUTAGES as error:
            log.warning("queue.unreachable", action="dequeue", error=type(error).__name__)
            time.sleep(DEQUEUE_S)
            return
        if taken is not None:
            self._take(taken[0], child)

    def _child(self) -> Child:
        loads = self._launcher.loads
        child = self._launcher.ensure(self._stay_known)
        if self._launcher.loads > loads and child.ready is not None:
            self._presence.meet(child.ready)
        return child

    def _register(self) -> None:
        with contextlib.suppress(ValueError):  # the name is ours alone: a repeat after a lost reply
            self.register_birth()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.IDLE)

    def _leave(self) -> None:
        self._presence.retire()
        with contextlib.suppress(*OUTAGES):
            self.register_death()  # type: ignore[no-untyped-call]
            self.unsubscribe()  # type: ignore[no-untyped-call]

    def _hurry(self) -> None:
        if self._attempt is not None:
            self._attempt.hurry()

    # One job

    def _take(self, entry: Entry, child: Child) -> None:
        if not child.alive():
            self._persist(lambda: self.store.rescue(entry.id, entry.origin), "put back")
            return
        execution = self._persist(lambda: self.prepare_execution(entry), "lease")
        wip = transport.wip_key(entry.origin)
        claim = self._persist(
            lambda: self.store.claim(entry.id, execution.id, self.name, wip), "claim"
        )
        if claim.job is None:
            log.info("job.refused", job_id=entry.id, reason=claim.refused)
            ended = claim.refused != "running"
            self._persist(lambda: self._settle(entry, execution, None, ended), "settle")
            return
        job = claim.job
        log.info("job.claimed", job_id=job.id, tenant=job.tenant, attempt=claim.attempt)
        trail = Trail(self._tracing, job, claim.attempt, self.name)
        self._persist(lambda: self._begin(entry), "begin")
        outcome = self._drive(child, entry, execution, claim, job, trail)
        trail.leave(outcome)
        trail.end(self._conclude(entry, execution, job, outcome, claim.timeout_s))

    def _drive(
        self,
        child: Child,
        entry: Entry,
        execution: Execution,
        claim: Claim,
        job: Job,
        trail: Trail,
    ) -> Outcome:
        desk = QueueDesk(
            self._quick_store,
            job,
            execution.id,
            lambda: self._renew(entry, execution),
            self._drain.must_leave,
            trail.follow,
        )
        run = Run(
            exec=execution.id,
            job_id=job.id,
            attempt=claim.attempt,
            request=job.request,
            artifact_prefix=artifact_prefix(job, execution.id),
            checkpoint_prefix=checkpoint_prefix(job.tenant, job.id),
            resume=claim.checkpoint,
        )
        self._attempt = Attempt(
            child,
            run,
            desk,
            self._pace,
            claim.timeout_s,
            self.settings.cancel_grace_s,
            self.settings.lease_s / 4,
        )
        try:
            self._presence.announce("busy", job.id)
            return self._attempt.drive()
        finally:
            self._attempt = None

    def _conclude(
        self, entry: Entry, execution: Execution, job: Job, outcome: Outcome, timeout_s: float
    ) -> Ending:
        ending = self._persist(
            lambda: end_attempt(self.store, job, execution.id, outcome, timeout_s), "publish"
        )
        facts = {"job_id": job.id, "tenant": job.tenant}
        log.info("job.ended", verdict=outcome.verdict, ending=ending, **facts)
        self._clear(job, execution.id, ending, outcome.checkpointed)
        if self._launcher.has_child():
            self._launcher.went_well()
        status = STATUS.get(ending)
        self._persist(lambda: self._settle(entry, execution, status, status is not None), "settle")
        if ending is Ending.REQUEUED:
            self._persist(lambda: self.store.rescue(job.id, entry.origin), "requeue")
        if ending is Ending.COMPLETED:
            hand_out(self._sharing, job.id)
            self._pace.note_settled()
            self._presence.share()
        self._presence.announce("draining" if self._drain.begun else "idle")
        return ending

    def _clear(self, job: Job, token: str, ending: Ending, checkpointed: bool) -> None:
        ended = ending in (Ending.COMPLETED, Ending.FAILED)
        try:
            if ending is not Ending.COMPLETED:
                self._artifacts.delete_prefix(artifact_prefix(job, token))
            if ended and checkpointed:
                self._artifacts.delete_prefix(checkpoint_prefix(job.tenant, job.id))
        except OSError as error:  # the janitor clears it up
            log.warning("storage.failed", job_id=job.id, reason=str(error))
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
            execution.heartbeat(entry.started_job_registry, ttl, pipeline=pipeline)
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

    def get_heartbeat_ttl(self, job: Entry, working_time: float = 0.0) -> int:
        """A lease, not RQ's minute and more."""
        return math.ceil(self.settings.lease_s)

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """RQ's stop command, on its thread: a soft cancel, so that the model stays loaded."""
        attempt = self._attempt
        if attempt is not None:
            attempt.request_cancel()

    def handle_payload(self, message: Any) -> None:
        """A command from the channel; nonsense must not end the thread that listens."""
        try:
            super().handle_payload(message)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("command.refused", error=type(error).__name__)

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
