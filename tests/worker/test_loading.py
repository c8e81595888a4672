"""What an attempt makes of the time that its model takes to load."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.worker.conftest import read_submission
from worker.attempt import Attempt, Outcome, Verdict, drive
from worker.channel import Channel
from worker.forecast import Pace
from worker.jobs.contract import Checkpoint, ErrorCode, Progress, Stage
from worker.jobs.costs import Sample, shape_of
from worker.launcher import Child
from worker.messages import (
    FROM_CHILD,
    TO_CHILD,
    Alive,
    Loading,
    Ready,
    Run,
    StageStarted,
    StepDone,
)

REQUEST = read_submission({"prompt": "a square"}).request
EXEC = "e1"


class Quiet:
    """A desk where nothing happens; remembers what was reported."""

    def __init__(self) -> None:
        self.told: list[Progress] = []
        self.renewed = 0

    def report(self, progress: Progress) -> bool:
        self.told.append(progress)
        return True

    def keep(self, checkpoint: Checkpoint) -> bool | None:
        return True

    def renew(self) -> bool:
        self.renewed += 1
        return True

    def cancel_requested(self) -> bool:
        return False

    def outranked(self) -> bool:
        return False

    def must_leave(self, eta_s: float | None) -> bool:
        return False


@pytest.fixture
def ends() -> Iterator[tuple[Child, "Channel[object]"]]:
    """A process that computes nothing, and the end of the channel that is its own."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = Child(subprocess.Popen(command, process_group=0), Channel(ours, FROM_CHILD, 1.0))
    yield child, Channel(theirs, TO_CHILD)
    child.kill()
    theirs.close()


SILENCE_S = 0.3


def attempt(child: Child, desk: Quiet, pace: Pace, timeout_s: float, load_s: float) -> Attempt:
    run = Run(exec=EXEC, job_id="video_1", attempt=1, request=REQUEST, artifact_prefix="a/")
    return Attempt(child, run, desk, pace, timeout_s, 0.1, load_s, 0.1, SILENCE_S)


def ready(model: str) -> Ready:
    return Ready(pid=1, model=model, weights_sha256="ab" * 32, load_s=2.0)


def test_a_model_that_loads_for_too_long_is_no_timeout_of_the_job(
    ends: tuple[Child, Channel[object]],
) -> None:
    child, other = ends
    desk = Quiet()
    other.send(StageStarted(exec=EXEC, stage=Stage.LOADING))
    other.send(Loading(model=REQUEST.model))
    # Nor is it a silence, which is shorter.
    ((_, outcome),) = drive(child, [attempt(child, desk, Pace(), timeout_s=0.2, load_s=0.6)])
    assert desk.renewed > 1
    assert (outcome.verdict, outcome.retryable) == (Verdict.MODELLESS, True)
    assert outcome.error is not None
    assert outcome.error.code is ErrorCode.INTERNAL_ERROR
    assert not child.alive()


def test_a_child_that_dies_over_loading_is_no_crash_of_the_job(
    ends: tuple[Child, Channel[object]],
) -> None:
    child, _ = ends
    running = attempt(child, Quiet(), Pace(), timeout_s=9, load_s=9)
    running.begin()
    for message in (StageStarted(exec=EXEC, stage=Stage.LOADING), Loading(model=REQUEST.model)):
        assert running.advance(message) is None
    assert running.lost(Verdict.BROKEN_OFF, "another's").verdict is Verdict.BROKEN_OFF
    outcome = running.lost(Verdict.CRASHED, "signal 6")
    assert (outcome.verdict, outcome.retryable) == (Verdict.MODELLESS, True)


def test_loading_takes_nothing_of_the_jobs_time_and_teaches_nothing(
    ends: tuple[Child, Channel[object]],
) -> None:
    child, _ = ends
    desk, pace = Quiet(), Pace()
    known = Sample(shape=shape_of(REQUEST), lead_s=0, step_s=0.1, tail_s=0, jobs=1)
    pace.samples, pace.load_s = (known,), 5.0
    running = attempt(child, desk, pace, timeout_s=0.4, load_s=9)
    running.begin()
    began = time.monotonic()

    def pass_on(*messages: object) -> Outcome | None:
        outcomes = [running.advance(message) for message in messages]  # type: ignore[arg-type]
        return outcomes[-1]

    pass_on(StageStarted(exec=EXEC, stage=Stage.LOADING), Loading(model=REQUEST.model))
    while time.monotonic() - began < 0.6:
        assert pass_on(None) is None
        time.sleep(0.02)
    expected = 5.0 + 0.1 * REQUEST.num_inference_steps
    assert desk.told[0].eta_s == pytest.approx(expected, abs=0.3)
    pass_on(ready(REQUEST.model), StageStarted(exec=EXEC, stage=Stage.DENOISING))
    total = REQUEST.num_inference_steps
    assert pass_on(*(StepDone(exec=EXEC, index=at, total=total) for at in range(total + 1))) is None
    pace.note_end(100.0)
    pace.note_settled()
    assert pace.fresh is not None
    assert pace.fresh.lead_s < 0.2
    time.sleep(0.45)
    pass_on(None)  # now it is late
    time.sleep(0.15)
    last = pass_on(None)
    assert last is not None
    assert last.verdict is Verdict.TIMED_OUT


def test_others_of_a_batch_speak_for_one_that_waits_for_its_turn_and_for_no_other(
    ends: tuple[Child, Channel[object]],
) -> None:
    child, _ = ends
    running = attempt(child, Quiet(), Pace(), timeout_s=9, load_s=9)
    running.begin()
    began = time.monotonic()
    running.advance(StageStarted(exec=EXEC, stage=Stage.LOADING))
    while time.monotonic() - began < 2 * SILENCE_S:
        time.sleep(0.05)
        assert running.advance(Alive(exec="another's")) is None
    assert running.advance(StageStarted(exec=EXEC, stage=Stage.DENOISING)) is None
    outcome = None
    while outcome is None and time.monotonic() - began < 9:
        time.sleep(0.05)
        outcome = running.advance(Alive(exec="another's"))
    assert outcome is not None
    assert outcome.verdict is Verdict.SILENT
    assert not child.alive()
