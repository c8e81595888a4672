"""Laws of the known flow: it follows every motion of the world, and errors that do not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.training.captions import DIRECTIONS, MANNERS
from models.training.flow import Flow, known_flow
from models.training.scenes import SCENES
from models.training.sprites import Sprite
from models.training.world import FAST, Actor, ClipState, World, WorldConfig

torch.set_num_threads(1)
TIMES = torch.arange(8, dtype=torch.float64) / 24 + 0.6


class Waves:
    """A sheet of one disc that is wavy all over."""

    def __init__(self) -> None:
        y, x = np.mgrid[0:48, 0:48]
        alpha = (((y - 23.5) ** 2 + (x - 23.5) ** 2) < 22**2)[..., None] * 1.0
        colours = np.stack([np.sin(x / 5 + k) * np.cos(y / 4 + k) / 2 + 0.5 for k in range(3)], -1)
        cutout = np.concatenate([colours * alpha, alpha], -1)
        self.halves = (cutout[None] * 255).astype(np.uint8)
        self.sprites = (Sprite("disc", "3d", 0, 1),)
        self.by_concept = {"disc": [0]}


@pytest.fixture(scope="module")
def world() -> World:
    made = World.__new__(World)
    made.sheet = Waves()  # type: ignore[assignment]
    made.config = WorldConfig(concepts=("disc",))
    bars = (128 + 60 * torch.sin(torch.arange(160) / 3)).to(torch.uint8)
    made.bank = bars.expand(len(SCENES), 24, 3, 96, 160).clone()
    return made


def state(*motions: str, pan: float = 0.0) -> ClipState:
    actors = [
        Actor("disc", 0, motion, FAST, (0.4 + 0.25 * place, 0.5), 0.5, 0.0, False)
        for place, motion in enumerate(motions)
    ]
    return ClipState(tuple(actors), "sky", 0, (0.5, 0.5), (pan, 0.0))


def filmed(world: World, one: ClipState) -> tuple[Tensor, Flow]:
    return world.render([one], TIMES[None].float())[0], known_flow(world, one, TIMES)


@pytest.mark.parametrize("motion", [*DIRECTIONS, *MANNERS])
def test_along_the_flow_a_true_film_does_not_change(world: World, motion: str) -> None:
    clip, flow = filmed(world, state(motion))
    assert flow.known.float().mean() > 0.8
    assert flow.warp_error(clip) < 1e-3
    if motion != "still":
        assert clip.diff(dim=1).square().mean() > 5 * flow.warp_error(clip)


def test_a_moving_camera_is_motion_too(world: World) -> None:
    clip, flow = filmed(world, state("still", pan=0.3))
    assert flow.warp_error(clip) < 0.1 * clip.diff(dim=1).square().mean()


def test_where_one_subject_hides_another_nothing_is_known(world: World) -> None:
    clip, flow = filmed(world, state("right", "left"))
    assert flow.warp_error(clip) < 1e-3
    assert 0.6 < flow.known.float().mean() < 1


def test_an_error_that_moves_along_is_no_flicker_and_one_that_stands_is(world: World) -> None:
    one = state("right")
    clip, flow = filmed(world, one)
    cover = world.coverage(one.subject, TIMES.float())
    carried = 0.3 * clip * (cover > 0.5)
    standing = torch.zeros_like(clip)
    standing[:, :, 16:48, 12:44] = carried[:, :1, 16:48, 12:44]
    assert flow.warp_error(carried) < 0.1 * flow.warp_error(standing)


def test_noise_counts_with_both_of_its_frames(world: World) -> None:
    _, flow = filmed(world, state("still"))
    noise = 0.1 * torch.randn(3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    assert flow.warp_error(noise) == pytest.approx(2 * 0.1**2, rel=0.05)
