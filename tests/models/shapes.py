"""A world of shapes drawn here, for measures and checkers; no package is needed."""

import numpy as np
import torch

from models.training.scenes import SCENES
from models.training.sprites import Sprite
from models.training.world import World, WorldConfig

SHAPES = ("disc", "bar", "ring")


class Shapes:
    """Cut-outs drawn here: a white disc, a red bar, a dark ring."""

    def __init__(self) -> None:
        y, x = np.mgrid[0:48, 0:48] - 23.5
        far = np.hypot(x, y)
        inside = (far < 21, (abs(x) < 9) & (abs(y) < 22), (far < 22) & (far > 13))
        colours = ((255, 255, 255), (230, 30, 30), (30, 10, 60))
        self.halves = np.zeros((3, 48, 48, 4), np.uint8)
        for picture, shape, colour in zip(self.halves, inside, colours, strict=True):
            picture[shape] = (*colour, 255)
        self.sprites = tuple(Sprite(name, "3d", row, 1) for row, name in enumerate(SHAPES))
        self.by_concept = {name: [row] for row, name in enumerate(SHAPES)}


def world_of_shapes() -> World:
    """Shapes before plain and shaded textures painted here."""
    made = World.__new__(World)
    made.sheet = Shapes()  # type: ignore[assignment]
    made.config = WorldConfig(SHAPES, direction_share=0.8, still_share=0.2)
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(40, 200, (len(SCENES), 24, 3, 1, 1), generator=generator)
    slope = torch.linspace(-30, 30, 96)[:, None]
    made.bank = (colours + slope).expand(-1, -1, -1, -1, 160).clamp(0, 255).byte()
    return made
