"""Several ranks make the film that one makes, stop together, and wait for none that has left."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from models.openweights import tiers
from models.openweights.__main__ import add
from models.openweights.families import Wishes
from models.openweights.pipeline import OpenModel
from models.protocol import Cancelled, Frames, OnStep, Step, Task
from models.ranks import Leader, SharedMemory
from models.registry import check_spread, load_model, spread
from tests.models.follower import LOOSE, meet
from tests.models.test_following import STEPS, ignore, order
from tests.models.wilds import build

# Of diffusers' own making: a scheduler hands a tensor to numpy, a collective is called by an older
# name, and two LoRAs are on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*all_gather_tensor:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]

TOLERANCE = 1e-5  # of latents, in float32
PAIRS = (
    ("wan-2.1", "ulysses"),
    ("wan-2.1", "ring"),
    ("wan-vace", "ulysses"),
    ("ltx", "ulysses"),
)


def stopping(at: int) -> OnStep:
    """Stops a film when so many steps are done."""

    def on_step(step: Step) -> None:
        if step.stage == "denoising" and step.index == at:
            raise Cancelled

    return on_step


@dataclass
class Two:
    """One checkpoint twice: alone, and as the leader of two ranks."""

    alone: OpenModel
    leader: Leader

    def task(self, **fields: Any) -> Task:
        """A film of words that its card allows."""
        card = self.alone.card
        width, height = map(int, card.sizes[0].split("x"))
        given = {"width": width, "height": height, "fps": card.fps[0]}
        return order(**given | {"num_frames": card.default_frames} | fields)


@dataclass
class Made:
    """A film, and the latents that it was decoded from."""

    frames: Frames
    latents: torch.Tensor

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Made)
        same = np.array_equal(self.frames, other.frames)
        return same and torch.equal(self.latents, other.latents)

    def distance(self, other: "Made") -> float:
        """Of latents, at most."""
        return float((self.latents - other.latents).abs().max())


def made(model: Any, task: Task, memory: Any = None) -> Made:
    """A film, made by a model and remembered."""
    memory = memory or model.remember("film")
    frames = np.concatenate(list(model.stream(task, ignore, memory)))
    own = memory.own if isinstance(memory, SharedMemory) else memory
    return Made(frames, own.latest.made[-1][0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints, registered."""
    place = tmp_path_factory.mktemp("ranks")
    found = {}
    for name in dict(PAIRS):
        weights = build(name, place / f"{name}-wild" / "weights")
        sizes, frames = (("64x64", "96x96"), 17) if name == "ltx" else (("32x32", "48x48"), 9)
        lora = ("rex", "", weights.parent / "rex.safetensors")
        add(name, weights, place, Wishes(sizes, frames, STEPS, 3.0, None), None, [lora])
        found[name] = place / name
    return found


@dataclass
class Follower:
    """A second process that follows through all pairs in their order."""

    lines: list[Connection]  # to it, one for each pair
    votes: list[list[bool]]  # of both


@pytest.fixture(scope="module")
def follower(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    meeting = tmp_path_factory.mktemp("meeting") / "ranks"
    sockets = [socket.socketpair() for _ in PAIRS]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.models.follower",
            str(meeting),
            *(
                f"{theirs.fileno()}={name}={folders[name]}={way}"
                for (name, way), (_, theirs) in zip(PAIRS, sockets, strict=True)
            ),
        ],
        pass_fds=[theirs.fileno() for _, theirs in sockets],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for _, theirs in sockets:
        theirs.close()
    try:
        votes = meet(meeting, 0)
        lines = [Connection(ours.detach()) for ours, _ in sockets]
        yield Follower(lines, votes)
        if all(line.closed for line in lines):  # else only some of the tests were asked for
            assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        dist.destroy_process_group()


@pytest.fixture(scope="module", params=range(len(PAIRS)), ids=["-".join(pair) for pair in PAIRS])
def two(request: Any, follower: Follower, folders: dict[str, Path]) -> Iterator[Two]:
    name, way = PAIRS[request.param]
    alone, shared = (load_model(name, folders[name], "cpu") for _ in range(2))
    assert isinstance(alone, OpenModel)
    with follower.lines[request.param] as line:
        yield Two(alone, Leader(spread(shared, way), [line], way))


def test_both_ranks_leave_out_blocks_or_neither(follower: Follower) -> None:
    assert follower.votes == [[True, True, False]] * 2


def test_two_ranks_make_the_film_of_one(two: Two) -> None:
    card = two.alone.card
    odd = dict(zip(("width", "height"), map(int, card.sizes[1].split("x")), strict=True))
    for fields in ({}, odd):  # tokens for both alike, and one more for the first
        task = two.task(**fields)
        alone, shared = made(two.alone, task), made(two.leader, task)
        assert alone.latents.abs().max() > 0.1
        assert shared.distance(alone) <= TOLERANCE
    assert made(two.leader, two.task(seed=8)).distance(made(two.alone, two.task())) > 0.1


def test_what_changes_a_film_changes_it_alike_in_all_ranks(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "TOLERANCE", LOOSE)
    card, plain = two.alone.card, two.task()
    clip = two.alone.generate(plain, ignore)
    changes: list[dict[str, Any]] = [{"adapter": "rex", "adapter_scale": 2.0}]
    changes += [{"quality": tier.name} for tier in card.tiers if tier.name == "fast"]
    if "extend" in card.tasks:
        longer = len(clip) + card.frames.step
        changes.append({"task_type": "extend", "video": clip, "num_frames": longer})
    for change in changes:
        task = replace(plain, **change)
        alone, shared = (model.generate(task, ignore) for model in (two.alone, two.leader))
        assert not np.array_equal(alone, clip), change
        assert np.abs(alone.astype(int) - shared).max() <= 1, change


FIRST = pytest.mark.parametrize("two", [0], ids=["-".join(PAIRS[0])], indirect=True)


@FIRST
def test_all_ranks_stop_at_one_step_and_go_on_from_it(two: Two) -> None:
    task = two.task()
    whole = made(two.leader, task)
    for at in range(STEPS):
        memory = two.leader.remember("film")
        with pytest.raises(Cancelled):
            list(two.leader.stream(task, stopping(at), memory))
    written = two.leader.remember("film", memory.write())
    assert written.steps == at > 0
    assert made(two.leader, task, written) == whole
    assert made(two.leader, task) == whole
    with pytest.raises(ValueError, match="another film"):  # it would differ by rounding
        two.alone.remember("film", memory.write())


@FIRST
def test_a_task_that_is_refused_leaves_the_ranks_together(two: Two) -> None:
    with pytest.raises(ValueError, match="999"):
        two.leader.stream(two.task(num_frames=999), ignore)
    assert len(two.leader.generate(two.task(), ignore)) == two.task().num_frames


def test_what_ranks_cannot_share_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    wan = load_model("wan-2.1", folders["wan-2.1"], "cpu")
    check_spread(wan, 2, "ulysses")
    with pytest.raises(ValueError, match="2 heads of attention: 3 cannot share them"):
        check_spread(wan, 3, "ulysses")
    check_spread(wan, 3, "ring")  # which shares tokens alone
    with pytest.raises(ValueError, match="by 'rope'"):
        check_spread(wan, 2, "rope")
    add("cogvideox", build("cogvideox", tmp_path / "wild"), tmp_path, Wishes(), None)
    other = load_model("cogvideox", tmp_path / "cogvideox", "cpu")
    with pytest.raises(ValueError, match="CogVideoXTransformer3DModel is none of"):
        check_spread(other, 2, "ulysses")
    with pytest.raises(ValueError, match="ranks share open weights"):
        check_spread(load_model("pocket", None, "cpu"), 2, "ulysses")
