"""Films of several clips: what each clip is given of the film before it, and what it adds.

A checkpoint makes clips of some lengths only, so a clip may be longer than what is wanted of it;
the rest is left out. Plain arithmetic on tasks; no clip is made here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from models.catalog import FrameRule
from models.protocol import Frames, OnStep, Shot, Step, Task

LONG = frozenset({"extend", "story"})  # kinds of several clips


@dataclass(frozen=True, eq=False)
class Segment:
    """One clip of a film.

    task     the clip, but for what it is given of the film before
    carried  frames of the film before that it begins with; they stand in the film already
    new      frames that it adds after those
    shot     0.., of which it is a part
    """

    task: Task
    carried: int
    new: int
    shot: int = 0

    def following(self, film: Frames) -> Task:
        """The task, given the end of the film so far: a first frame, or a clip to go on from."""
        if not self.carried:
            return self.task
        before = film[-self.carried :]
        if self.carried > 1:
            return replace(self.task, task_type="extend", video=before)
        return replace(self.task, task_type="image", first_frame=before[0])


@dataclass(frozen=True)
class Lengths:
    """Which clips a checkpoint makes.

    rule      their legal lengths
    longest   the most that a clip of a longer shot has
    contexts  how many frames a clip may begin with, the most first, the last of them 1
    """

    rule: FrameRule
    longest: int
    contexts: tuple[int, ...]

    def carried(self, before: int) -> int:
        """How many of so many frames before a clip begins with."""
        most = min(before, self.longest - 1)
        return next(count for count in self.contexts if count <= most)

    def clip(self, wanted: int) -> int:
        """The shortest clip that is long enough, or the longest."""
        fits = (wanted - self.rule.offset + self.rule.step - 1) // self.rule.step
        legal = self.rule.offset + fits * self.rule.step
        return min(max(legal, self.rule.minimum), self.longest)


def plan(task: Task, lengths: Lengths) -> list[Segment]:
    """The clips of an extension or a story, in order."""
    if task.task_type == "extend":
        assert task.video is not None  # as the check before has seen
        added = replace(task, num_frames=task.num_frames - len(task.video), video=None)
        return cut_up(added, len(task.video), lengths)
    clips: list[Segment] = []
    for index, shot in enumerate(task.shots):
        before = sum(clip.new for clip in clips)
        cut = index == 0 or shot.transition == "cut" or shot.first_frame is not None
        clips += cut_up(shot_task(task, shot), 0 if cut else before, lengths, index)
    return clips


def shot_task(task: Task, shot: Shot) -> Task:
    """A shot by itself; what it leaves open is the story's."""
    return replace(
        task,
        prompt=shot.prompt if shot.prompt.strip() else task.prompt,
        negative_prompt=shot.negative_prompt or task.negative_prompt,
        seed=shot.seed,
        num_frames=shot.num_frames,
        first_frame=shot.first_frame,
        references=shot.references or task.references,
        shots=(),
    )


def cut_up(whole: Task, before: int, lengths: Lengths, shot: int = 0) -> list[Segment]:
    """A stretch of film as clips.

    before  frames of the film before it, which it goes on from; 0 for a beginning
    """
    clips: list[Segment] = []
    wanted = whole.num_frames
    while wanted > 0:
        carried = lengths.carried(before) if before else 0
        frames = lengths.clip(wanted + carried)
        new = min(wanted, frames - carried)
        task = replace(
            whole,
            task_type=beginning(whole) if not carried else whole.task_type,
            num_frames=frames,
            seed=part_seed(whole.seed, len(clips)),
            first_frame=None if carried else whole.first_frame,
        )
        clips.append(Segment(task, carried, new, shot))
        wanted, before = wanted - new, before + new
    return clips


def beginning(task: Task) -> str:
    """The kind of clip that begins a shot with what it is given."""
    if task.first_frame is not None:
        return "image"
    return "reference" if task.references else "text"


def part_seed(seed: int, index: int) -> int:
    """Seed of a stretch's index-th clip: its own, then 63 bits of SHA-256 over both numbers."""
    if index == 0:
        return seed
    return int.from_bytes(sha256(f"{seed}/{index}".encode()).digest()[:8], "big") >> 1


class Reports:
    """Turns the steps of every clip into those of the film."""

    def __init__(self, on_step: OnStep, clips: Sequence[Segment], steps: Sequence[int]) -> None:
        """steps are those of each clip."""
        self._on_step = on_step
        self._clips = clips
        self._steps = steps

    def of(self, index: int) -> OnStep:
        """What a clip reports to: it encodes for the film if it is the first, and ends it if it is
        the last."""
        shot, before = self._clips[index].shot, sum(self._steps[:index])
        own = [at for at, clip in enumerate(self._clips) if clip.shot == shot]
        begun, share = sum(self._steps[: own[0]]), sum(self._steps[at] for at in own)
        shots, total = self._clips[-1].shot + 1, sum(self._steps)

        def tell(step: Step) -> None:
            if step.stage == "denoising" and (step.index > 0 or index == 0):
                done = before + step.index
                self._on_step(
                    Step(step.stage, done, total, shot, shots, shot_done=(done - begun) / share)
                )
            elif step.stage == "encoding" and index == 0:
                self._on_step(replace(step, shot=shot, shots=shots))
            elif step.stage == "decoding" and index == len(self._clips) - 1:
                self._on_step(replace(step, shot=shot, shots=shots, shot_done=1.0))

        return tell
