"""Where an attempt stands: its stages and steps told, timed, and stopped when somebody says so."""

import time
from collections.abc import Callable, Generator, Iterable

from models.protocol import Cancelled, Frames, Step
from worker.checkpoints import Checkpoints
from worker.clock import Clock
from worker.jobs.contract import Stage
from worker.messages import Alive, FromChild, StageStarted, StepDone

Tell = Callable[[FromChild], None]

ALIVE_EVERY_S = 0.25  # at most; much less than any silence that means something


def never() -> bool:
    """Nobody asks for it."""
    return False


class Stopwatch:
    """Announces each stage and the steps within it, and adds up the seconds of each."""

    def __init__(
        self,
        token: str,
        tell: Tell,
        cancelled: Callable[[], bool],
        leaving: Callable[[], bool] = never,
    ) -> None:
        self._token = token
        self.tell = tell
        self._cancelled = cancelled
        self._leaving = leaving
        self.checkpoints: Checkpoints | None = None
        self._stage: Stage | None = None
        self._since = 0.0
        self._life = Clock(ALIVE_EVERY_S)
        self.seconds: dict[str, float] = {}

    def enter(self, stage: Stage) -> None:
        """Close the stage before and begin this one; raises Cancelled if told to stop."""
        self.check()
        if stage is self._stage:
            return
        self.leave()
        self._stage, self._since = stage, time.monotonic()
        self.tell(StageStarted(exec=self._token, stage=stage))

    def leave(self) -> None:
        """Close the current stage."""
        if self._stage is not None:
            self._spend(self._stage, time.monotonic() - self._since)
        self._stage = None

    def step(self, step: Step) -> None:
        """The model's callback: reports, keeps what was made, raises Cancelled if told to stop."""
        self.enter(Stage(step.stage))
        place = {"shot": step.shot, "shots": step.shots, "shot_done": step.shot_done}
        self.tell(StepDone(exec=self._token, index=step.index, total=step.total, **place))
        if self.checkpoints is not None:
            self.checkpoints.note()

    def aside(self, film: Iterable[Frames]) -> Generator[Frames]:
        """The pieces of a film in the making; what is done with them in between is no part of the
        stage that makes them, but post-processing."""
        for piece in film:
            lent = time.monotonic()
            yield piece
            del piece
            spent = time.monotonic() - lent
            self._since += spent
            self._spend(Stage.POST_PROCESSING, spent)

    def _spend(self, stage: Stage, spent_s: float) -> None:
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent_s, 4)

    def pulse(self) -> None:
        """A sign of life, if it is time for one. Never raises what `check` does, so that others'
        code may call it in the middle of something."""
        if self._life.due():
            self.tell(Alive(exec=self._token))

    def check(self) -> None:
        """Raise Cancelled if told to stop; with a checkpoint, if another attempt is to go on."""
        self.pulse()
        if self._cancelled():
            raise Cancelled
        if self._leaving():
            if self.checkpoints is not None:
                self.checkpoints.save()
            raise Cancelled
