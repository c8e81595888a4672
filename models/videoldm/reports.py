"""What a film in the making says of itself: steps counted over all its clips, and the shot."""

from collections.abc import Callable

from models.protocol import GenerationStage, OnStep, Step, Task
from models.videoldm.samplers import SamplerState


class Reports:
    """Turns every clip's steps into those of the whole film."""

    def __init__(self, on_step: OnStep, task: Task, clips: int, before: int) -> None:
        """clips are the film's segments; `before` are steps that come ahead of the first one's."""
        self._on_step = on_step
        self._total = before + clips * task.num_inference_steps
        self._shots = max(1, len(task.shots))
        self._done, self._shot, self._ends = 0, 0, False

    def begin(self, shot: int, ends: bool) -> None:
        """The next clip is of this shot; `ends` if it is the film's last."""
        self._shot, self._ends = shot, ends

    def run(self) -> Callable[[SamplerState], None]:
        """The callback of a sampler's next run."""
        begun = self._done
        if begun == 0:
            self._tell("denoising", 0, self._total)

        def on_state(state: SamplerState) -> None:
            self._done = begun + state.step
            self._tell("denoising", self._done, self._total)

        return on_state

    def decoded(self, index: int, total: int) -> None:
        """So many pieces of a clip's frames are made.

        Only the last clip's decoding is a stage of its own: after it, a film of several clips would
        fall back to denoising. For the others this is a moment at which the film may be stopped.
        """
        if self._ends:
            self._tell("decoding", index, total)
        else:
            self._tell("denoising", self._done, self._total)

    def _tell(self, stage: GenerationStage, index: int, total: int) -> None:
        self._on_step(Step(stage, index, total, self._shot, self._shots))
