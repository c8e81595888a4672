"""Laws of how a film is cut into clips: pure arithmetic, no network."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.protocol import Reference, Shot, Task
from models.videoldm.segments import Segment, plan_film, segment_seed, shares

CAPACITY = 16
PICTURE = np.zeros((4, 4, 3), np.uint8)
OTHER = np.ones((4, 4, 3), np.uint8)
TASK = Task("extend", "a cat", "", 32, 32, 40, 8, 7, 4, 3.0, "ddim")


def story(*shots: Shot, **changes: object) -> Task:
    total = sum(shot.num_frames for shot in shots)
    return replace(TASK, task_type="story", shots=shots, num_frames=total, **changes)


@given(
    new=st.integers(1, 2000),
    overlap=st.integers(0, 2),
    carried=st.integers(0, 2),
    capacity=st.integers(4, 32),
)
def test_a_film_is_the_sum_of_its_clips_less_their_overlaps(
    new: int, overlap: int, carried: int, capacity: int
) -> None:
    carried = min(carried, overlap)
    counts = shares(new, carried, overlap, capacity)
    lengths = [count + (overlap if index else carried) for index, count in enumerate(counts)]
    assert sum(lengths) - overlap * (len(lengths) - 1) - carried == new
    assert min(counts) >= 1
    assert max(lengths) <= capacity
    assert max(lengths) - min(lengths) <= 1


@given(new=st.integers(1, 500), overlap=st.integers(0, 2))
def test_no_film_is_cut_into_more_clips_than_it_needs(new: int, overlap: int) -> None:
    fewer = len(shares(new, 0, overlap, CAPACITY)) - 1
    assert fewer == 0 or CAPACITY + (fewer - 1) * (CAPACITY - overlap) < new


def test_every_segment_has_a_seed_of_its_own_that_never_changes() -> None:
    seeds = {segment_seed(seed, index) for seed in range(10) for index in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert segment_seed(7, 1) == 7631765994772377903


def test_a_film_of_one_clip_keeps_its_seed() -> None:
    (only,) = plan_film(replace(TASK, task_type="text", num_frames=32), CAPACITY)
    assert (only.seed, only.new, only.carried) == (7, 32, 0)


def test_an_extension_adds_what_the_clip_lacks() -> None:
    plan = plan_film(TASK, CAPACITY, source=10)
    assert sum(segment.new for segment in plan) == 30
    assert [segment.carried for segment in plan] == [2, 2, 2]
    assert [segment.seed for segment in plan] == [7, segment_seed(7, 1), segment_seed(7, 2)]


def test_a_clip_of_one_frame_is_extended_from_that_one() -> None:
    plan = plan_film(TASK, CAPACITY, source=1)
    assert [segment.carried for segment in plan] == [1, *[2] * (len(plan) - 1)]


@pytest.mark.parametrize("before", [False, True])
def test_the_frame_at_the_far_end_goes_to_the_segment_made_last(before: bool) -> None:
    name = "first_frame" if before else "last_frame"
    plan = plan_film(replace(TASK, extend_before=before, **{name: PICTURE}), CAPACITY, source=10)
    assert [getattr(segment, name) is PICTURE for segment in plan] == [False, False, True]
    assert {segment.backwards for segment in plan} == {before}


def test_a_cut_sees_nothing_of_the_shot_before_and_continue_does() -> None:
    shots = (
        Shot("one", 20, 1),
        Shot("two", 10, 2, transition="cut"),
        Shot("three", 10, 3, transition="continue"),
    )
    plan = plan_film(story(*shots), CAPACITY)
    assert [(s.shot, s.prompt, s.carried) for s in plan] == [
        (0, "one", 0),
        (0, "one", 2),
        (1, "two", 0),
        (2, "three", 2),
    ]
    assert sum(segment.new for segment in plan) == 40


def test_a_shot_with_a_first_frame_of_its_own_begins_there() -> None:
    shots = (Shot("one", 10, 1), Shot("two", 10, 2, first_frame=PICTURE))
    plan = plan_film(story(*shots), CAPACITY)
    assert (plan[1].carried, plan[1].first_frame is PICTURE) == (0, True)


def test_the_tasks_frames_are_those_of_the_whole_story() -> None:
    shots = (Shot("one", 20, 1), Shot("two", 20, 2))
    plan = plan_film(story(*shots, first_frame=PICTURE, last_frame=OTHER), CAPACITY)
    assert [segment.first_frame is PICTURE for segment in plan] == [True, False, False, False]
    assert [segment.last_frame is OTHER for segment in plan] == [False, False, False, True]


def test_what_a_shot_leaves_open_is_the_tasks() -> None:
    mine, ours = Reference(PICTURE), Reference(OTHER)
    shots = (Shot("one", 8, 1, "mist", references=(mine,)), Shot(" ", 8, 2))
    plan = plan_film(story(*shots, negative_prompt="rain", references=(ours,)), CAPACITY)

    def told(segment: Segment) -> tuple[object, ...]:
        return segment.prompt, segment.negative_prompt, segment.references

    assert told(plan[0]) == ("one", "mist", (mine,))
    assert told(plan[1]) == ("a cat", "rain", (ours,))
