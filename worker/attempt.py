"""Attempts as the supervisor drives them: from `run` to an outcome, whatever the child does.

One at a time, or several that are made in one batch: each watches the clock, the cancel flag,
its lease and the drain order for itself. Knows neither RQ nor Redis: what an attempt asks of the
queue goes through its `Desk`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from worker.channel import ChannelClosed, ChannelGarbled
from worker.clock import Clock
from worker.forecast import Pace
from worker.jobs.contract import (
    Checkpoint,
    ErrorCode,
    JobError,
    JobResult,
    Progress,
    Stage,
)
from worker.launcher import Child
from worker.messages import (
    MODELLESS,
    Cancel,
    CancelledMessage,
    Done,
    Failed,
    FromChild,
    Loading,
    Ready,
    Run,
    Unloaded,
    Yield,
)

POLL_S = 0.25
REPORT_EVERY_S = 0.25
CANCEL_CHECK_EVERY_S = 1.0
DRAIN_CHECK_EVERY_S = 0.25
KEEP_EVERY_S = 0.5
RANK_CHECK_EVERY_S = 1.0
SOON_S = 5.0  # a job that ends so soon makes no room for another
HAND_BACK_S = 4.0  # from a drain order to a kill, so that the job waits again within 5 s


class Verdict(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    FAILED = "failed"
    CRASHED = "crashed"  # the child died by itself
    BROKEN_OFF = "broken_off"  # the child was ended over another job of the same batch
    CROWDED = "crowded"  # no memory for it beside the others of its batch: it is made alone next
    UNBEGUN = "unbegun"  # the child had died before it took the run
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SILENT = "silent"  # the child hangs
    UNSTORED = "unstored"  # the film is finished and kept on this machine; the store is away
    ROOMLESS = "roomless"  # this machine's disk is full
    MODELLESS = "modelless"  # its model did not load here
    FENCED = "fenced"  # the job belongs to another attempt by now: publish nothing
    DRAINED = "drained"  # the worker leaves: give the job back
    OUTRANKED = "outranked"  # a job of a higher tier waits: give this one back


# Stopped for another attempt to go on.
GONE_ON_WITH = frozenset({Verdict.DRAINED, Verdict.OUTRANKED, Verdict.SILENT})


@dataclass(frozen=True)
class Outcome:
    """An ended attempt; `result` with DONE, `error` with FAILED, ROOMLESS, MODELLESS and most
    UNSTORED."""

    verdict: Verdict
    result: JobResult | None = None
    error: JobError | None = None
    retryable: bool = False
    reason: str = ""
    checkpoint: Checkpoint | None = None  # written, but the queue server did not hear of it yet
    checkpointed: bool = False  # this attempt or an earlier one has left checkpoints


class Desk(Protocol):
    """What an attempt asks of the queue. Nothing raises on an outage: the answer is then as if
    all were well, since the child goes on computing."""

    def report(self, progress: Progress) -> bool:
        """Tell the progress; false if the job belongs to another attempt."""
        ...

    def keep(self, checkpoint: Checkpoint) -> bool | None:
        """Let the next attempt go on from here; false if the job belongs to another attempt
        already, None if nobody could be asked."""
        ...

    def renew(self) -> bool:
        """Renew the lease; false if it is lost."""
        ...

    def cancel_requested(self) -> bool:
        """Whether the owner wants the job stopped."""
        ...

    def outranked(self) -> bool:
        """Whether a job of a higher tier waits for this one's worker."""
        ...

    def must_leave(self, eta_s: float | None) -> bool:
        """Whether the worker drains and cannot wait `eta_s` (None: unknown) for this job."""
        ...


class Attempt:
    """One run of the child, see `drive`. `request_cancel` may come from any thread."""

    def __init__(
        self,
        child: Child,
        run: Run,
        desk: Desk,
        pace: Pace,
        timeout_s: float,
        grace_s: float,
        load_s: float,
        renew_every_s: float,
        silence_s: float = 0.0,
    ) -> None:
        """
        timeout_s  that the attempt may run, not counting what loading its model takes
        grace_s    from a soft stop to a kill
        load_s     that loading may take
        silence_s  after which a child that says nothing hangs; 0: never
        """
        self._child = child
        self._run = run
        self._desk = desk
        self._pace = pace
        self._grace_s = grace_s
        self._load_s = load_s
        self._loading_since: float | None = None
        self._deadline = time.monotonic() + timeout_s
        self._silence_s = silence_s or float("inf")
        self._heard_at = time.monotonic()
        self._renewal = Clock(renew_every_s)
        self._cancel_check = Clock(CANCEL_CHECK_EVERY_S, at_once=True)
        self._report = Clock(REPORT_EVERY_S, at_once=True)
        self._drain_check = Clock(DRAIN_CHECK_EVERY_S)
        self._rank_check = Clock(RANK_CHECK_EVERY_S)
        self._keep = Clock(KEEP_EVERY_S)
        self._unkept: Checkpoint | None = None
        self._checkpointed = run.resume is not None
        self._stage, self._index, self._total = Stage.LOADING, 0, 0
        self._shot, self._shot_done = 0, 0.0
        self._reported = True
        self._cancel_asked = False
        self._begun = False
        self._hurry = False
        self._stopped: Verdict | None = None
        self._kill_at = float("inf")
        self.killed = False  # the child, by this attempt

    @property
    def token(self) -> str:
        """The attempt token."""
        return self._run.exec

    @property
    def job_id(self) -> str:
        """The job that is attempted."""
        return self._run.job_id

    def request_cancel(self) -> None:
        """Pass a cancellation on at once; the loop then sees to it that it happens."""
        self._cancel_asked = True
        self._tell_child_to_stop()

    def hurry(self) -> None:
        """Give the job back at once, without grace. From any thread or signal handler."""
        self._hurry = True

    @property
    def makes_room(self) -> bool:
        """Whether it was told to stop for a job of a higher tier."""
        return self._stopped is Verdict.OUTRANKED

    def make_room(self) -> None:
        """Another of the same batch makes room, which it can only together with this one."""
        self._stop(Verdict.OUTRANKED)

    def begin(self) -> None:
        """Give the order to the child. raises ChannelClosed"""
        self._pace.begin(self._run.request)
        self._child.send(self._run)

    def advance(self, message: FromChild | None) -> Outcome | None:
        """Take a message, perhaps another attempt's, and look after everything else; the outcome
        in the end. raises ChannelClosed"""
        outcome = None if message is None else self._take(message)
        if outcome is None and time.monotonic() > self._kill_at:
            self._kill()
            outcome = self._halted(self._stopped or Verdict.CRASHED)
        if outcome is None:
            self._tick()
            return None
        return self._ended(outcome)

    def lost(self, died: Verdict, reason: str) -> Outcome:
        """The outcome of an attempt whose child is gone."""
        if died is Verdict.CRASHED and self._loading_since is not None:
            died = Verdict.MODELLESS
        verdict = self._stopped or (died if self._begun else Verdict.UNBEGUN)
        return self._ended(self._halted(verdict, reason))

    def _halted(self, verdict: Verdict, reason: str = "") -> Outcome:
        """The outcome of an attempt that was stopped, or whose child is gone."""
        if verdict is not Verdict.MODELLESS:
            return Outcome(verdict, reason=reason)
        error = JobError(code=ErrorCode.INTERNAL_ERROR, message=MODELLESS)
        return Outcome(verdict, error=error, retryable=True)

    def _ended(self, outcome: Outcome) -> Outcome:
        result = outcome.result
        self._pace.note_end(None if result is None else result.peak_memory_mb)
        return replace(outcome, checkpoint=self._unkept, checkpointed=self._checkpointed)

    def _kill(self) -> None:
        self._child.kill()
        self.killed = True

    def _take(self, message: FromChild) -> Outcome | None:
        if isinstance(message, Loading | Ready | Unloaded):
            self._heard_at = time.monotonic()
            self._note_model(message)
            return None
        ours = message.exec == self._run.exec
        # One that waits for its turn in a batch says nothing while the others are made.
        if ours or self._stage is Stage.LOADING:
            self._heard_at = time.monotonic()
        if not ours:
            return None  # of an earlier attempt, or another of the batch
        self._begun = True  # the child confirms every run by a first message
        if message.type == "alive":
            return None
        if message.type == "stage":
            self._enter(message.stage)
            return None
        if message.type == "step":
            self._index, self._total = message.index, message.total
            self._shot, self._shot_done = message.shot, message.shot_done
            self._reported = False
            if self._stage is Stage.DENOISING:
                self._pace.note_step(message.index, message.total)
            return None
        if message.type == "checkpoint":
            self._unkept, self._checkpointed = message.checkpoint, True
            self._send_checkpoint()
            return None
        return self._read_end(message)

    def _enter(self, stage: Stage) -> None:
        if stage is not self._stage:
            self._stage, self._index, self._total = stage, 0, 0
            self._send_report()

    def _read_end(self, message: Done | CancelledMessage | Failed) -> Outcome:
        if self._stopped is Verdict.FENCED:
            return Outcome(Verdict.FENCED)
        if message.type == "done":
            return Outcome(Verdict.DONE, result=message.result)
        if message.type == "cancelled":
            return self._halted(self._stopped or Verdict.CANCELLED)
        return self._failed(message)

    def _note_model(self, message: Loading | Ready | Unloaded) -> None:
        """Loading its model is on the worker's time, not on the job's."""
        if message.type == "loading":
            self._loading_since = time.monotonic()
            self._pace.begin_loading()
            self._reported = False
        elif message.type == "ready" and self._loading_since is not None:
            self._deadline += time.monotonic() - self._loading_since
            self._loading_since = None
            self._pace.end_loading()

    def _failed(self, message: Failed) -> Outcome:
        if message.fatal:
            self._kill()
        if self._stopped is not None:
            return self._halted(self._stopped)
        if message.crowded:
            return Outcome(Verdict.CROWDED, reason="no memory for it beside other jobs")
        if message.full:
            verdict = Verdict.ROOMLESS
        elif message.modelless:
            verdict = Verdict.MODELLESS
        else:
            verdict = Verdict.UNSTORED if message.finished else Verdict.FAILED
        return Outcome(
            verdict,
            error=JobError(code=message.code, message=message.message),
            retryable=message.retryable,
        )

    def _tick(self) -> None:
        if self._renewal.due() and not self._desk.renew():
            self._stop(Verdict.FENCED)
        if not self._reported and self._report.due():
            self._send_report()
        if self._unkept is not None and self._keep.due():
            self._send_checkpoint()
        if self._hurry:
            self._stop(Verdict.DRAINED)
            self._kill_at = 0.0
        if self._stopped is None:
            verdict = self._reason_to_stop()
            if verdict is not None:
                self._stop(verdict)

    def _reason_to_stop(self) -> Verdict | None:
        if self._cancel_asked or (self._cancel_check.due() and self._desk.cancel_requested()):
            return Verdict.CANCELLED
        if late := self._lateness():
            return late
        if self._is_silent():
            return Verdict.SILENT
        if self._drain_check.due() and self._desk.must_leave(self._eta_s()):
            return Verdict.DRAINED
        return Verdict.OUTRANKED if self._makes_room() else None

    def _lateness(self) -> Verdict | None:
        now = time.monotonic()
        if self._loading_since is not None:
            return Verdict.MODELLESS if now - self._loading_since > self._load_s else None
        if now <= self._deadline:
            return None
        # What is left to do of a finished film is not the job's to answer for.
        return Verdict.UNSTORED if self._stage is Stage.UPLOADING else Verdict.TIMED_OUT

    def _is_silent(self) -> bool:
        """Whether the child hangs. Loading a model has a limit of its own."""
        silent_s = time.monotonic() - self._heard_at
        return silent_s > self._silence_s and self._loading_since is None

    def _makes_room(self) -> bool:
        """Whether to make room for a job of a higher tier: only what can be gone on with does."""
        model = self._run.request.model
        if not self._child.resumes(model) or not self._rank_check.due():
            return False
        eta_s = self._eta_s()
        return (eta_s is None or eta_s > SOON_S) and self._desk.outranked()

    def _stop(self, verdict: Verdict) -> None:
        """Stop softly, and after the grace period by force. The first verdict stands, except that
        a lost lease overrides all."""
        if self._stopped is None:
            drained = verdict is Verdict.DRAINED
            grace_s = min(self._grace_s, HAND_BACK_S) if drained else self._grace_s
            self._kill_at = time.monotonic() + grace_s
            self._stopped = verdict
            self._tell_child_to_stop(checkpoint=verdict in GONE_ON_WITH)
        elif verdict is Verdict.FENCED:
            self._stopped = verdict

    def _tell_child_to_stop(self, *, checkpoint: bool = False) -> None:
        order = Yield if checkpoint else Cancel
        try:
            self._child.send(order(exec=self._run.exec))
        except ChannelClosed:
            return  # the loop reads the same from its own end

    def _send_checkpoint(self) -> None:
        kept = None if self._unkept is None else self._desk.keep(self._unkept)
        if kept is None:
            return  # tried again, and before the job is given back
        self._unkept = None
        if not kept:
            self._stop(Verdict.FENCED)

    def _send_report(self) -> None:
        self._reported = True
        progress = Progress(
            stage=self._stage,
            step=self._index,
            total=self._total,
            eta_s=self._eta_s(),
            shot=self._shot,
            shot_done=self._shot_done,
        )
        if not self._desk.report(progress):
            self._stop(Verdict.FENCED)

    def _eta_s(self) -> float | None:
        return self._pace.eta_s()


def drive(child: Child, attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, Outcome]]:
    """Run attempts to their outcomes, each handed over as soon as it is there. Afterwards the
    child is idle and reusable, or dead."""
    running = list(attempts)
    died, reason = Verdict.CRASHED, ""
    try:
        for attempt in attempts:
            attempt.begin()
        while running and not any(attempt.killed for attempt in attempts):
            message = child.receive(POLL_S)
            for attempt in tuple(running):
                outcome = attempt.advance(message)
                if outcome is not None:
                    running.remove(attempt)
                    yield attempt, outcome
            if any(attempt.makes_room for attempt in running):
                for attempt in running:
                    attempt.make_room()
        died, reason = Verdict.BROKEN_OFF, "the inference process was ended over another job"
    except ChannelClosed:
        child.kill()
        reason = f"the inference process died ({child.exit_reason()})"
    except ChannelGarbled:
        child.kill()
        reason = "the inference process sent nonsense"
    for attempt in running:
        yield attempt, attempt.lost(died, reason)
