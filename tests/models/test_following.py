"""Ranks that follow one leader: they make what it makes, stop with it, and wait for none."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
import pytest

from models import ranks
from models.catalog import MODELS_DIR, ModelCard, read_card
from models.parcel import unwrap, wrap_up
from models.protocol import Frames, Keyframe, Memory, OnStep, Reference, Shot, Step, Task
from models.ranks import Leader, RanksApart, follow

STEPS = 3


def ignore(step: Step) -> None:
    """What is told to nobody."""


def order(**fields: Any) -> Task:
    """A small film of words."""
    given: dict[str, Any] = {
        "task_type": "text",
        "prompt": "a red fox",
        "negative_prompt": "",
        "width": 32,
        "height": 32,
        "num_frames": 9,
        "fps": 16,
        "seed": 7,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "sampler": "native",
    }
    return Task(**given | fields)


def test_a_task_comes_out_of_its_parcel_as_it_went_in() -> None:
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    shot = Shot("one", 9, 3, references=(Reference(pixels[::-1], name="rex", strength=0.5),))
    task = order(
        seed=2**63 - 1,
        first_frame=pixels.transpose(1, 0, 2),
        video=np.stack([pixels, pixels + 1]),
        video_fps=16.0,
        keyframes=(Keyframe(pixels, 3),),
        shots=(shot,),
    )
    same(unwrap(wrap_up(task)), task)


def same(one: Any, other: Any) -> None:
    """Equal in all parts."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            same(*pair)
    elif hasattr(one, "__dataclass_fields__"):
        same(tuple(vars(one)), tuple(vars(other)))
        same(tuple(vars(one).values()), tuple(vars(other).values()))
    else:
        assert one == other


@dataclass(frozen=True)
class Done:
    """The memory of one film: so many steps of it."""

    steps: int
    film: str

    def write(self) -> bytes:
        return f"{self.steps} {self.film}".encode()


class Counter:
    """A model that makes one frame a step, and may fail or wait after one of them."""

    weights_sha256 = "0"

    def __init__(self, card: ModelCard, after: Callable[[int], None] = lambda step: None) -> None:
        self.card = card
        self.after = after
        self.steps: list[int] = []

    def generate(self, task: Task, on_step: OnStep) -> Frames:
        return np.concatenate(list(self.stream(task, on_step)))

    def remember(self, identity: str, written: bytes | None = None) -> Memory:
        steps, _, film = (written or f"0 {identity}".encode()).decode().partition(" ")
        if film != identity:
            raise ValueError(f"a memory of {film!r}, not of {identity!r}")
        return Done(int(steps), film)

    def stream(self, task: Task, on_step: OnStep, memory: Memory | None = None) -> Iterator[Frames]:
        done = 0 if memory is None else memory.steps
        for step in range(done, task.num_inference_steps):
            on_step(Step("denoising", step, task.num_inference_steps))
            self.steps.append(step)
            self.after(step)
            yield np.zeros((1, 1, 1, 3), np.uint8)


@dataclass
class Following:
    """A follower on a thread, and how it ended."""

    thread: threading.Thread
    raised: list[BaseException]


def lead_one(
    leader: Counter, follower: Counter, way: str = "ulysses"
) -> tuple[Leader, Following, Connection]:
    """Two models as two ranks."""
    ours, theirs = Pipe()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            follow(follower, theirs)
        except BaseException as error:
            raised.append(error)
            theirs.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return Leader(leader, [ours], way), Following(thread, raised), ours


@pytest.fixture
def card() -> ModelCard:
    return read_card(MODELS_DIR / "pocket" / "card.json")


def fail(at: int) -> Callable[[int], None]:
    def after(step: int) -> None:
        if step == at:
            raise ArithmeticError("no numbers")

    return after


def test_a_failure_of_all_ranks_is_a_films_own(card: ModelCard) -> None:
    mine, other = Counter(card, fail(2)), Counter(card, fail(2))
    leader, following, line = lead_one(mine, other)
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            leader.generate(order(), ignore)
    mine.after = other.after = fail(99)
    assert len(leader.generate(order(), ignore)) == STEPS
    line.close()
    following.thread.join(5)
    assert following.raised == []
    assert mine.steps == other.steps == [0, 1, 2] * 3


def test_a_film_that_is_not_read_to_its_end_leaves_the_ranks_together(card: ModelCard) -> None:
    mine, other = Counter(card), Counter(card)
    leader, _, _ = lead_one(mine, other)
    film = leader.stream(order(), ignore)
    next(film)
    film.close()  # as a generator is when its reader fails
    assert mine.steps == other.steps == [0]
    assert len(leader.generate(order(), ignore)) == STEPS
    assert mine.steps == other.steps == [0, 0, 1, 2]


def test_a_rank_that_fails_alone_ends(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "PATIENCE_S", 0.2)
    leader, following, _ = lead_one(Counter(card), Counter(card, fail(1)))
    with pytest.raises(RanksApart, match="gone"):
        leader.generate(order(num_inference_steps=50), lambda step: threading.Event().wait(0.05))
    following.thread.join(5)
    assert isinstance(following.raised[0], ArithmeticError)


def test_a_rank_that_is_left_waiting_is_not_waited_for(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "PATIENCE_S", 0.2)
    left = threading.Event()
    leader, _, _ = lead_one(
        Counter(card, fail(1)), Counter(card, lambda step: left.wait(5) and None)
    )
    for match in ("rank 1 does not end its film", "not ended by all"):
        with pytest.raises(RanksApart, match=match):
            leader.generate(order(), ignore)
    left.set()


def test_all_ranks_go_on_from_the_steps_that_the_leader_remembers(card: ModelCard) -> None:
    mine, other = Counter(card), Counter(card)
    leader, _, _ = lead_one(mine, other)
    begun = leader.remember("film").write().replace(b"0", b"2", 1)
    film = leader.stream(order(), ignore, leader.remember("film", begun))
    making = threading.Thread(target=list, args=(film,), daemon=True)
    making.start()
    making.join(5)
    assert mine.steps == other.steps == [2]
    assert not making.is_alive()


def test_a_film_is_gone_on_with_by_as_many_ranks_of_one_way_only(card: ModelCard) -> None:
    leaders = [lead_one(Counter(card), Counter(card), way)[0] for way in ("ulysses", "ring")]
    leaders.append(Leader(Counter(card), [], "ulysses"))
    written = leaders[0].remember("film").write()
    leaders[0].remember("film", written)
    for other in leaders[1:]:
        with pytest.raises(ValueError, match="not of"):
            other.remember("film", written)
