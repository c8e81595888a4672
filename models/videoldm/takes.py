"""A film of several clips through the stages after the base: its takes, and the keys under them.

A take is a stretch of film without a cut. The base draws its key frames, clip after clip, and the
stages fill in and enlarge what lies between them, across the seams of clips too; nothing is filled
in across a cut. Plain arithmetic; no tensor is made here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.protocol import Frames, Task
from models.videoldm.conditioning import MAX_CONTEXT
from models.videoldm.segments import begins_take, plan_film


@dataclass(frozen=True)
class Take:
    """One take, counted from its first key."""

    clips: int | None  # of the base, that its keys come in; None: all there are
    times: tuple[float, ...]  # of its frames, seconds, rising
    seed: int
    lead: int = 0  # frames at its beginning that are a clip's own, and only looked at
    trail: int = 0  # likewise at its end


@dataclass(frozen=True)
class Keys:
    """What the base is asked for, and what its keys become."""

    task: Task
    takes: tuple[Take, ...]


def key_story(
    task: Task, key_fps: int, size: tuple[int, int], capacity: int, dense: bool = True
) -> Keys:
    """The keys of a story, so many of each shot as fall into its time.

    key_fps   rate of the keys
    size      width and height of the keys
    capacity  frames of the longest clip of the base
    dense     frames are filled in between the keys, so these are the same at every rate
    """
    groups: list[list[int]] = []
    for index in range(len(task.shots)):
        if begins_take(task, index):
            groups.append([])
        groups[-1].append(index)
    counts: list[int] = []
    for group in groups:
        lengths = [task.shots[index].num_frames for index in group]
        ends = not dense or task.shots[group[-1]].last_frame is not None
        counts += shot_keys(lengths, task.fps, key_fps, ends)
    shots = tuple(
        replace(shot, num_frames=count) for shot, count in zip(task.shots, counts, strict=True)
    )
    keys = _keyed(replace(task, shots=shots), key_fps, size, sum(counts))
    plan = plan_film(keys, capacity)
    takes = []
    for group in groups:
        segments = [segment for segment in plan if segment.shot in group]
        frames = sum(task.shots[index].num_frames for index in group)
        times = tuple(index / task.fps for index in range(frames))
        takes.append(Take(len(segments), times, segments[0].seed))
    return Keys(keys, tuple(takes))


def key_extension(task: Task, source: Frames, key_fps: int, size: tuple[int, int]) -> Keys:
    """The keys that go on from a clip, or lead up to it. They are one take with the clip's last
    frame, or its first.

    source  the clip at the film's rate
    """
    added = task.num_frames - len(source)
    new = -(-added * key_fps // task.fps)
    seen = key_frames(len(source), task.fps, key_fps, task.extend_before)
    keys = _keyed(task, key_fps, size, len(seen) + new)
    keys = replace(keys, video=source[seen], video_fps=None)
    if not task.extend_before:
        times = tuple(index / task.fps for index in range(added + 1))
        return Keys(keys, (Take(None, times, task.seed, lead=1),))
    ends = new / key_fps
    times = tuple(ends - index / task.fps for index in range(added, -1, -1))
    return Keys(keys, (Take(None, times, task.seed, trail=1),))


def shot_keys(lengths: Sequence[int], fps: int, key_fps: int, ends: bool = False) -> list[int]:
    """Key frames of each shot of a take: those within its time; the last shot's reach its end.

    lengths  frames of the shots, each longer than the time between two keys
    ends     the take is to end with its last key, or just before: with a last frame
    """
    counts, frames, before = [], 0, 0
    for length in lengths:
        frames += length
        within = -(-frames * key_fps // fps)
        counts.append(within - before)
        before = within
    last = -(-(frames - ends) * key_fps // fps)
    counts[-1] += last + 1 - before
    return counts


def key_frames(count: int, fps: int, key_fps: int, begin: bool) -> list[int]:
    """Which frames of a clip its neighbours see as keys: its last ones, or its first."""
    away = [round(index * fps / key_fps) for index in range(MAX_CONTEXT)]
    there = [frames for frames in away if frames < count]
    return there if begin else [count - 1 - frames for frames in reversed(there)]


def ends_of(video: Frames) -> Frames:
    """A clip's first and last frame: all that an edit looks at."""
    return np.stack([video[0], video[-1]])


def _keyed(task: Task, key_fps: int, size: tuple[int, int], frames: int) -> Task:
    width, height = size
    return replace(task, width=width, height=height, fps=key_fps, num_frames=frames, quality=None)
