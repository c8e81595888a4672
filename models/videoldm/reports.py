"""What a film in the making says of itself, steps counted over all its clips; and remembers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from models.protocol import GenerationStage, OnStep, Step, Task
from models.videoldm.checkpoints import FilmMemory
from models.videoldm.samplers import OnStep as OnState
from models.videoldm.samplers import SamplerState
from models.videoldm.segments import Segment


class Whole:
    """The steps of a film's clips and the frames that stages make of them, told as one stage.

    They take turns, and a film of several clips would fall back to denoising again and again.
    """

    def __init__(self, on_step: OnStep, task: Task, frames: int) -> None:
        """frames  that the stages make"""
        self._on_step, self._frames = on_step, frames
        self._lengths = [shot.num_frames for shot in task.shots] or [frames]
        self._base = Step("denoising", 0, 1)
        self._made, self._begun = 0, 0  # frames in all, and when the shot began

    def step(self, step: Step) -> None:
        """The base stands there."""
        if step.stage != "denoising":
            self._on_step(step)
            return
        if step.shot != self._base.shot:
            self._begun = self._made
        self._base = step
        self.tell()

    def made(self, frames: int) -> None:
        """So many more are ready."""
        self._made += frames
        self.tell()

    def tell(self) -> None:
        """Where the film stands; a moment at which it may be stopped."""
        base = self._base
        ready = min(1.0, (self._made - self._begun) / self._lengths[base.shot])
        self._on_step(
            replace(
                base,
                index=base.index + self._made,
                total=base.total + self._frames,
                shot_done=(base.shot_done + ready) / 2,
            )
        )


class Reports:
    """Turns every clip's steps into those of the whole film, and notes where each run stands."""

    def __init__(
        self,
        on_step: OnStep,
        task: Task,
        plan: Sequence[Segment],
        before: int,
        memory: FilmMemory,
    ) -> None:
        """plan has the film's segments; `before` are steps that come ahead of the first one's."""
        self._memory = memory
        self._on_step = on_step
        steps = task.num_inference_steps
        self._total = before + len(plan) * steps
        clips = Counter(segment.shot for segment in plan)
        self._shot_steps = {shot: count * steps for shot, count in clips.items()}
        self._shot_steps[0] += before
        self._shots = max(1, len(task.shots))
        self._done, self._shot, self._ends = 0, 0, False
        self._clip = -1
        self._known = min(memory.steps, self._total)  # of earlier attempts, told as done at once
        self._shot_begun = 0  # steps of the whole film that were done when the shot began

    def begin(self, shot: int, ends: bool) -> None:
        """The next clip is of this shot; `ends` if it is the film's last."""
        if shot != self._shot:
            self._shot_begun = self._done
        self._shot, self._ends = shot, ends
        self._clip += 1

    def run(self, stage: str) -> tuple[OnState, SamplerState | None]:
        """The callback of this clip's run in a stage, and where an earlier attempt's stood."""
        address, begun = f"{stage}/{self._clip}", self._done
        known = self._memory.find(address)
        if begun == 0 or known is not None:
            self._done += 0 if known is None else known.step
            self._denoising()

        def on_state(state: SamplerState) -> None:
            self._memory.note(address, state)
            self._done = begun + state.step
            self._denoising()

        return on_state, known

    def decoded(self, index: int, total: int) -> None:
        """So many pieces of a clip's frames are made.

        Only the last clip's decoding is a stage of its own: after it, a film of several clips would
        fall back to denoising. For the others this is a moment at which the film may be stopped.
        """
        if self._ends:
            self._tell("decoding", index, total)
        else:
            self._denoising()

    def _denoising(self) -> None:
        self._tell("denoising", max(self._done, self._known), self._total)

    def _tell(self, stage: GenerationStage, index: int, total: int) -> None:
        share = (self._done - self._shot_begun) / self._shot_steps[self._shot]
        self._on_step(Step(stage, index, total, self._shot, self._shots, share))
