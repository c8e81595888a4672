"""How a film is cut into clips that the network can make, and what each of them is given.

A film longer than a clip is made segment by segment, each seeing the last frames of the one before:
block extension as in VDM (arXiv:2204.03458), section 3.1, prompts in sequence as in Phenaki
(arXiv:2210.02399), section 2.3. Plain arithmetic; no tensor is made here.
"""

from dataclasses import dataclass, replace
from hashlib import sha256

from models.protocol import Picture, Reference, Shot, Task


@dataclass(frozen=True, eq=False)
class Segment:
    """One clip: the frames carried over into it, and those it adds to the film."""

    shot: int
    prompt: str
    negative_prompt: str
    seed: int
    new: int  # frames it adds
    carried: int = 0  # frames of the film that it sees as context
    backwards: bool = False  # it leads up to its context instead of following it
    first_frame: Picture | None = None
    last_frame: Picture | None = None
    references: tuple[Reference, ...] = ()

    @property
    def frames(self) -> int:
        """Length of the clip, context included."""
        return self.carried + self.new


def plan_film(task: Task, capacity: int, source: int = 0) -> tuple[Segment, ...]:
    """The segments of a task, in the order in which they are made.

    capacity  frames of the longest clip that a film of several clips is made of
    source    frames of the clip that is extended, at the film's rate; 0 without one
    """
    if task.task_type == "story":
        return _story(task, capacity)
    whole = Segment(
        shot=0,
        prompt=task.prompt,
        negative_prompt=task.negative_prompt,
        seed=task.seed,
        new=task.num_frames - source,
        first_frame=task.first_frame,
        last_frame=task.last_frame,
        references=task.references,
    )
    if task.task_type != "extend":
        return (whole,)
    begun = replace(whole, carried=min(task.context_frames, source), backwards=task.extend_before)
    return _cut_up(begun, capacity, task.context_frames)


def segment_seed(seed: int, index: int) -> int:
    """Seed of the index-th part of a film: the first 63 bits of SHA-256 over both numbers."""
    digest = sha256(f"{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shares(new: int, carried: int, overlap: int, capacity: int) -> list[int]:
    """New frames of each segment, so that all clips are about equally long and none too long.

    Evenly, since a short rest would be a clip of a length that was never trained.

    new       frames in all
    carried   context of the first segment
    overlap   context of every later one
    capacity  frames of the longest clip, above `overlap`
    """
    count = max(1, -(-(new + carried - overlap) // (capacity - overlap)))
    slots = new + carried + overlap * (count - 1)
    lengths = [slots // count + (index < slots % count) for index in range(count)]
    return [length - (overlap if index else carried) for index, length in enumerate(lengths)]


def _cut_up(whole: Segment, capacity: int, overlap: int) -> tuple[Segment, ...]:
    """A stretch of film as segments; its first and last frame go to those at its ends."""
    counts = shares(whole.new, whole.carried, overlap, capacity)
    segments = []
    for index, count in enumerate(counts):
        begins, ends = index == 0, index == len(counts) - 1
        if whole.backwards:
            begins, ends = ends, begins
        segments.append(
            replace(
                whole,
                seed=segment_seed(whole.seed, index) if index else whole.seed,
                new=count,
                carried=overlap if index else whole.carried,
                first_frame=whole.first_frame if begins else None,
                last_frame=whole.last_frame if ends else None,
            )
        )
    return tuple(segments)


def begins_take(task: Task, index: int) -> bool:
    """Whether a shot of a story sees nothing of the one before it."""
    shot = task.shots[index]
    cut = index == 0 or shot.transition == "cut" or shot.first_frame is not None
    return cut or task.context_frames == 0


def _story(task: Task, capacity: int) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for index, shot in enumerate(task.shots):
        whole = _shot(task, shot, index)
        begun = replace(whole, carried=0 if begins_take(task, index) else task.context_frames)
        segments += _cut_up(begun, capacity, task.context_frames)
    return tuple(segments)


def _shot(task: Task, shot: Shot, index: int) -> Segment:
    """A whole shot; the task's own first frame begins the film, its last frame ends it."""
    begins, ends = index == 0, index == len(task.shots) - 1
    first, last = shot.first_frame, shot.last_frame
    return Segment(
        shot=index,
        prompt=shot.prompt if shot.prompt.strip() else task.prompt,
        negative_prompt=shot.negative_prompt or task.negative_prompt,
        seed=shot.seed,
        new=shot.num_frames,
        first_frame=task.first_frame if first is None and begins else first,
        last_frame=task.last_frame if last is None and ends else last,
        references=shot.references or task.references,
    )
