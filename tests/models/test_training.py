"""Laws of the training loop, the captions and the world."""

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models.training import concepts
from models.training.batches import hearsay
from models.training.captions import DIRECTIONS, MANNERS, caption, paraphrase
from models.training.loop import Ahead, Draws, Run, RunConfig, averaged, draws, rate
from models.training.scenes import SCENES
from models.training.sprites import Source, SpriteSheet, pack
from models.training.world import (
    CLIP_SECONDS,
    SLOW,
    Actor,
    ClipState,
    Script,
    World,
    WorldConfig,
)

torch.set_num_threads(1)


class Fit:
    """A small regression whose data come from the step's draws."""

    def __init__(self, folder: Path, steps: int, threaded: bool = False) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.run = Run(folder, self.net, RunConfig(steps, 16, 1e-2, warmup=2, save_every_s=1e9))
        self.ahead = Ahead(
            lambda draws: torch.randn(16, 3, generator=draws.torch), threaded=threaded
        )

    def loss(self, step: int, draws: Draws) -> dict[str, Tensor]:
        x = self.ahead.take(step) + 0.1 * torch.randn(16, 3, generator=draws.torch)
        return {"loss": (self.net(x) - x.sum(1, keepdim=True)).square().mean()}

    def train(self) -> None:
        self.run.train(self.loss)


def interrupt(fit: Fit, after: int) -> None:
    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        if step == after:
            fit.run.save()
            raise KeyboardInterrupt
        return fit.loss(step, draws)

    with pytest.raises(KeyboardInterrupt):
        fit.run.train(loss)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Fit(tmp_path / "whole", 30, threaded=True)
    whole.train()
    interrupt(Fit(tmp_path / "parts", 30), after=13)
    resumed = Fit(tmp_path / "parts", 30)
    assert resumed.run.step == 13
    resumed.train()
    one, two = averaged(tmp_path / "whole"), averaged(tmp_path / "parts")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.net.parameters(), resumed.net.parameters(), strict=True)
    )


def test_training_lowers_the_loss_and_writes_a_log(tmp_path: Path) -> None:
    fit = Fit(tmp_path, 200)
    fit.train()
    rows = (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("step,seconds,loss")
    first, last = (float(rows[index].split(",")[2]) for index in (1, -1))
    assert last < first / 2
    assert not list(tmp_path.glob("*.pt"))
    assert not list(tmp_path.glob("*.pkl"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    fit = Fit(tmp_path, 5)

    def broken(step: int, draws: Draws) -> dict[str, Tensor]:
        return {"loss": fit.loss(step, draws)["loss"] * float("nan")}

    with pytest.raises(FloatingPointError, match="step 0"):
        fit.run.train(broken)


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    config = RunConfig(100, 1, 1.0, warmup=10, cooldown=0.2)
    rates = [rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert set(rates[10:80]) == {1.0}
    assert rates[100] == 0
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_draws_are_addressed_by_seed_and_step() -> None:
    one, two = draws(1, 5), draws(1, 5)
    assert one.python.random() == two.python.random()
    assert torch.equal(torch.rand(3, generator=one.torch), torch.rand(3, generator=two.torch))
    assert draws(1, 6).python.random() != draws(1, 5).python.random() != draws(2, 5).python.random()


def test_held_out_concepts_are_in_no_training_list() -> None:
    assert len(concepts.HELD_OUT) >= 40
    assert len(concepts.TRAINED) >= 250
    assert not concepts.HELD_OUT & set(concepts.TRAINED)
    assert set(concepts.EDITION) <= set(concepts.TRAINED)
    assert len(set(concepts.EDITION)) >= 200
    assert set(concepts.ADDED) < set(concepts.EDITION)


def test_the_caption_says_the_state() -> None:
    assert caption("unicorn", "left", False, "sunset") == "a unicorn moving left over a sunset"
    assert caption("owl", "still", False, "snow") == "an owl standing still in the snow"
    assert caption("grapes", "up", True, "red") == "grapes moving fast up on a red background"


def test_a_paraphrase_never_says_another_direction() -> None:
    words = ("left", "right", "up", "down")
    draw = random.Random(0)
    for motion in ("left", "right", "up", "down"):
        for _ in range(100):
            said = paraphrase("turtle", motion, False, "sky", draw).split()
            assert not {word for word in words if word != motion} & set(said)


def test_strangers_are_mostly_nameless_or_misnamed() -> None:
    draw, script = random.Random(0), Script("lion", "left", False, "red")
    said = [hearsay(script, draw) for _ in range(400)]
    assert all("left" in sentence or "red" in sentence for sentence in said)
    named = sum("lion" in sentence for sentence in said)
    nobody = sum(
        re.search(r"something|a thing|\bit\b|the subject|this one", sentence) is not None
        for sentence in said
    )
    assert 0.14 < named / 400 < 0.27
    assert 0.42 < nobody / 400 < 0.58


def test_twelve_scenes_and_eight_directions_have_words() -> None:
    assert len(SCENES) >= 12
    assert len(DIRECTIONS) == 8
    assert "still" in MANNERS
    assert len({scene.phrase for scene in SCENES}) == len(SCENES)


def test_a_sheet_packed_again_leaves_its_readers_the_one_before(tmp_path: Path) -> None:
    for name, grey in (("dark", 20), ("light", 200)):
        Image.new("RGBA", (96, 96), (grey, grey, grey, 255)).save(tmp_path / f"{name}.png")
    one, other = (Source("disc", "3d", str(tmp_path / f"{n}.png")) for n in ("dark", "light"))
    pack(tmp_path / "sheet", [one])
    reader = SpriteSheet(tmp_path / "sheet")
    pack(tmp_path / "sheet", [other, one])
    assert (reader.frames[0, 48, 48] == (20, 20, 20, 255)).all()
    again = SpriteSheet(tmp_path / "sheet")
    assert (again.halves[:, 24, 24, 0] == (200, 20)).all()


class Discs:
    """Cut-outs drawn here: one white disc that does not move."""

    def __init__(self) -> None:
        y, x = np.mgrid[0:48, 0:48]
        alpha = (((y - 23.5) ** 2 + (x - 23.5) ** 2) < 20**2) * 255
        self.halves = np.repeat(alpha[None, ..., None], 4, -1).astype(np.uint8)
        from models.training.sprites import Sprite

        self.sprites = (Sprite("disc", "3d", 0, 1),)
        self.by_concept = {"disc": [0]}


@pytest.fixture(scope="module")
def world() -> World:
    made = World.__new__(World)
    made.sheet = Discs()  # type: ignore[assignment]
    made.config = WorldConfig(concepts=("disc",))
    made.bank = torch.full((len(SCENES), 24, 3, 96, 160), 40, dtype=torch.uint8)
    return made


def state(motion: str) -> ClipState:
    actor = Actor("disc", 0, motion, SLOW, (0.5, 0.5), 0.4, 0.0, False)
    return ClipState((actor,), "sky", 0, (0.5, 0.5), (0.0, 0.0))


def centroid(mask: Tensor) -> Tensor:
    weight = mask / mask.sum((-1, -2), keepdim=True)
    grid = (torch.arange(mask.shape[-1]) + 0.5) / mask.shape[-1]
    return torch.stack([(weight.sum(-2) * grid).sum(-1), (weight.sum(-1) * grid).sum(-1)], -1)


@pytest.mark.parametrize("motion", DIRECTIONS)
def test_a_subject_moves_as_its_direction_says(world: World, motion: str) -> None:
    times = torch.tensor([[0.5, 1.5]])
    path = centroid(world.masks([state(motion)], times)[0])
    across, down = DIRECTIONS[motion]
    step = torch.tensor([across, down]) / (across**2 + down**2) ** 0.5 * SLOW
    torch.testing.assert_close(path[1] - path[0], step, atol=0.01, rtol=0)


@pytest.mark.parametrize("motion", MANNERS)
def test_other_motions_render_and_still_is_still(world: World, motion: str) -> None:
    times = torch.linspace(0, CLIP_SECONDS, 5)[None]
    frames = world.render([state(motion)], times)
    assert frames.shape == (1, 3, 5, 64, 64)
    assert frames.abs().max() <= 1
    moved = (frames[:, :, 1:] - frames[:, :, :-1]).abs().max() > 0.1
    assert bool(moved) == (motion not in ("still", "turn"))  # a disc turns unseen


def test_any_frame_rate_shows_the_same_film(world: World) -> None:
    slow, fast = torch.arange(8)[None] / 4, torch.arange(16)[None] / 8
    rendered = world.render([state("left")], fast)[:, :, ::2]
    torch.testing.assert_close(world.render([state("left")], slow), rendered)


def test_a_script_fixes_what_the_clip_shows(world: World) -> None:
    script = Script("disc", "up and left", True, "desert")
    made = world.sample(random.Random(3), script)
    assert made.subject.motion == "up and left"
    assert made.scene == "desert"
    assert made.subject.speed > 1.5 * SLOW


def test_the_same_draws_make_the_same_clip(world: World) -> None:
    one, two = (world.sample(random.Random(9)) for _ in range(2))
    assert one == two != replace(one, variant=one.variant + 1)
