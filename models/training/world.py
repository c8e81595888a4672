"""The world pocket learns from: animated cut-outs that move over named scenes, with known truth.

A clip is sampled as a `ClipState` and rendered at any real-valued times, so the same state yields
any frame rate. Rendering composites a whole batch with affine grids; nothing is stored.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from models.training.captions import DIRECTIONS, MANNERS
from models.training.concepts import TRAINED
from models.training.scenes import SCENES, VARIANTS, paint_bank
from models.training.sprites import FPS, SpriteSheet

CLIP_SECONDS = 2.0
CROP = 64  # texture pixels that a frame shows along a side
SLOW, FAST = 0.16, 0.32  # frame widths a second
# Other colours of a subject: its channels in another order, some of them turned into their opposite
TINTS = tuple(product(permutations(range(3)), product((False, True), repeat=3)))


@dataclass(frozen=True)
class WorldConfig:
    """How often each kind of clip occurs."""

    concepts: tuple[str, ...] = TRAINED
    direction_share: float = 0.72  # of clips move in one of eight directions
    still_share: float = 0.13  # the rest grow, shrink, turn, bounce or drop
    fast_share: float = 0.5  # of the moving
    two_subjects_share: float = 0.0
    pan_share: float = 0.0
    animated_share: float = 0.7  # of clips of concepts that have an animation
    mirrored_share: float = 0.5
    sizes: tuple[float, float] = (0.42, 0.62)  # of the cut-out's box, in frame sides


@dataclass(frozen=True)
class Script:
    """What a clip shows, as captions say it."""

    concept: str
    motion: str  # a key of DIRECTIONS or MANNERS
    fast: bool
    scene: str


@dataclass(frozen=True)
class Actor:
    """One subject and what it does. Places and sizes are shares of the frame's side."""

    concept: str
    sprite: int  # index into the sheet's sprites
    motion: str  # a key of DIRECTIONS or MANNERS
    speed: float  # frame sides a second
    centre: tuple[float, float]  # (x, y) in the middle of the clip
    size: float  # side of the cut-out's box
    phase: float  # seconds into its animation at time 0
    mirrored: bool
    tint: int = 0  # index into TINTS; 0 leaves the colours alone


@dataclass(frozen=True)
class ClipState:
    """Everything that determines a clip at any time."""

    actors: tuple[Actor, ...]  # drawn in this order; captions name the last
    scene: str
    variant: int
    corner: tuple[float, float]  # of the crop within the texture, 0..1 each
    pan: tuple[float, float]  # crop widths a second

    @property
    def subject(self) -> Actor:
        """The actor that captions speak of."""
        return self.actors[-1]


class World:
    """Samples clip states and renders them. `sheet` gives cut-outs; scenes are painted once."""

    def __init__(self, sheet: SpriteSheet, config: WorldConfig | None = None) -> None:
        self.sheet = sheet
        self.config = config or WorldConfig()
        self.bank = paint_bank()

    def script(self, draw: random.Random) -> Script:
        """What a random clip shows."""
        config = self.config
        return Script(
            concept=draw.choice(config.concepts),
            motion=self._motion(draw),
            fast=draw.random() < config.fast_share,
            scene=draw.choice(SCENES).name,
        )

    def sample(self, draw: random.Random, script: Script | None = None) -> ClipState:
        """A random clip state, of the script if one is given."""
        config = self.config
        script = script or self.script(draw)
        actors = [self._actor(draw, script)]
        if draw.random() < config.two_subjects_share:
            actors.insert(0, self._actor(draw, self.script(draw)))
        panning = draw.random() < config.pan_share
        pan = (draw.choice((-1, 1)) * draw.uniform(0.15, 0.3), 0.0) if panning else (0.0, 0.0)
        return ClipState(
            actors=tuple(actors),
            scene=script.scene,
            variant=draw.randrange(VARIANTS),
            corner=(draw.random(), draw.random()),
            pan=pan,
        )

    def _actor(self, draw: random.Random, script: Script) -> Actor:
        directed = script.motion in DIRECTIONS
        speed = (FAST if script.fast else SLOW) * draw.uniform(0.9, 1.1) if directed else 0.0
        size = draw.uniform(*self.config.sizes)
        spread = 0.1 if directed else 0.16
        return Actor(
            concept=script.concept,
            sprite=self._pick_sprite(draw, script.concept),
            motion=script.motion,
            speed=speed,
            centre=(0.5 + draw.uniform(-spread, spread), 0.5 + draw.uniform(-spread, spread)),
            size=size,
            phase=draw.uniform(0, 3),
            mirrored=draw.random() < self.config.mirrored_share,
        )

    def _motion(self, draw: random.Random) -> str:
        roll = draw.random()
        if roll < self.config.direction_share:
            return draw.choice(tuple(DIRECTIONS))
        if roll < self.config.direction_share + self.config.still_share:
            return "still"
        return draw.choice(tuple(name for name in MANNERS if name != "still"))

    def _pick_sprite(self, draw: random.Random, concept: str) -> int:
        indices = self.sheet.by_concept[concept]
        animated = [i for i in indices if self.sheet.sprites[i].style == "animated"]
        stills = [i for i in indices if self.sheet.sprites[i].style != "animated"]
        prefer = draw.random() < self.config.animated_share
        return draw.choice((animated if prefer else stills) or indices)

    def render(self, states: Sequence[ClipState], times: Tensor, side: int = 64) -> Tensor:
        """Frames of each state at its times.

        times    (b, t) seconds, any real values
        returns  (b, 3, t, side, side) float32 in -1..1
        """
        frames = self._scenes(states, times, side)
        most = max(len(state.actors) for state in states)
        for layer in range(most):
            rows = [b for b, state in enumerate(states) if layer < len(state.actors)]
            actors = [states[b].actors[layer] for b in rows]
            picture = self._draw(actors, times[rows], side)
            frames[rows] = frames[rows] * (1 - picture[:, 3:]) + picture[:, :3]
        return frames * 2 - 1

    def masks(self, states: Sequence[ClipState], times: Tensor, side: int = 64) -> Tensor:
        """Coverage of each state's subject: (b, t, side, side) float32 in 0..1."""
        return self._draw([state.subject for state in states], times, side)[:, 3]

    def coverage(self, actor: Actor, times: Tensor, side: int = 64) -> Tensor:
        """How much of each pixel an actor takes, were it alone: times (t,) -> (t, side, side)."""
        return self._draw([actor], times[None], side)[0, 3]

    def _scenes(self, states: Sequence[ClipState], times: Tensor, side: int) -> Tensor:
        frames = torch.stack([self._backdrop(state, times.shape[1]) for state in states])
        for row, state in enumerate(states):
            if state.pan[0]:
                frames[row] = self._panned(state, times[row])
        if side != CROP:
            frames = functional.interpolate(
                frames, (times.shape[1], side, side), mode="trilinear", align_corners=False
            )
        return frames

    def _texture(self, state: ClipState) -> Tensor:
        return self.bank[_SCENE_INDEX[state.scene], state.variant]

    def _backdrop(self, state: ClipState, t: int) -> Tensor:
        """A standing camera's view: (3, t, 64, 64), every frame the same."""
        texture = self._texture(state)
        left, top = _corner(state, texture)
        view = texture[:, top : top + CROP, left : left + CROP].float() / 255
        return repeat(view, "c h w -> c t h w", t=t)

    def _panned(self, state: ClipState, clock: Tensor) -> Tensor:
        """A moving camera's view: (3, t, 64, 64)."""
        texture = self._texture(state)
        high, wide = texture.shape[-2:]
        left, top = _corner(state, texture)
        x = (left + CROP / 2 + state.pan[0] * CROP * (clock - CLIP_SECONDS / 2)).clamp(
            CROP / 2, wide - CROP / 2
        )
        y = torch.full_like(x, top + CROP / 2)
        theta = _affine(CROP / wide, CROP / high, x / wide * 2 - 1, y / high * 2 - 1)
        grid = functional.affine_grid(theta, [len(x), 3, CROP, CROP], align_corners=False)
        source = repeat(texture.float() / 255, "c h w -> t c h w", t=len(x))
        drawn = functional.grid_sample(source, grid, padding_mode="border", align_corners=False)
        return rearrange(drawn, "t c h w -> c t h w")

    def _draw(self, actors: Sequence[Actor], times: Tensor, side: int) -> Tensor:
        t = times.shape[1]
        thetas, sources = [], []
        for actor, clock in zip(actors, times, strict=True):
            sources.append(self._cutout(actor, clock))
            thetas.append(placement(actor, clock))
        theta, source = torch.cat(thetas), torch.cat(sources)
        grid = functional.affine_grid(theta, [len(theta), 4, side, side], align_corners=False)
        drawn = functional.grid_sample(source, grid, padding_mode="zeros", align_corners=False)
        return rearrange(drawn, "(b t) c h w -> b c t h w", t=t)

    def _cutout(self, actor: Actor, clock: Tensor) -> Tensor:
        """The animation's frames at the given times: (t, 4, 48, 48), premultiplied, 0..1."""
        sprite = self.sheet.sprites[actor.sprite]
        index = ((clock + actor.phase) * FPS).round().long() % sprite.count + sprite.start
        frames = torch.from_numpy(self.sheet.halves[index.numpy()])
        cutout = rearrange(frames, "t h w c -> t c h w").float() / 255
        return _tinted(cutout, actor.tint) if actor.tint else cutout


_SCENE_INDEX = {scene.name: index for index, scene in enumerate(SCENES)}


def _corner(state: ClipState, texture: Tensor) -> tuple[int, int]:
    """Left and top texture pixel of the view; the horizon stays near the middle."""
    high, wide = texture.shape[-2:]
    left = round(state.corner[0] * (wide - CROP))
    return left, round((0.3 + 0.4 * state.corner[1]) * (high - CROP))


def _tinted(cutout: Tensor, tint: int) -> Tensor:
    """The cut-out in other colours: (t, 4, h, w), premultiplied, both ways."""
    order, opposite = TINTS[tint]
    colours, alpha = cutout[:, list(order)], cutout[:, 3:]
    turned = rearrange(torch.tensor(opposite), "c -> 1 c 1 1")
    return torch.cat([torch.where(turned, alpha - colours, colours), alpha], 1)


def placement(actor: Actor, clock: Tensor) -> Tensor:
    """The inverse map from frame to cut-out coordinates: (t, 2, 3), for `affine_grid`."""
    from_middle = clock - CLIP_SECONDS / 2
    x = torch.full_like(clock, actor.centre[0])
    y = torch.full_like(clock, actor.centre[1])
    size = torch.full_like(clock, actor.size)
    angle = torch.zeros_like(clock)
    if actor.motion in DIRECTIONS:
        across, down = DIRECTIONS[actor.motion]
        length = math.hypot(across, down)
        x = x + across / length * actor.speed * from_middle
        y = y + down / length * actor.speed * from_middle
    elif actor.motion == "grow":
        size = size * torch.exp(0.35 * from_middle)
    elif actor.motion == "shrink":
        size = size * torch.exp(-0.35 * from_middle)
    elif actor.motion == "turn":
        angle = from_middle * math.pi
    elif actor.motion == "bounce":
        y = y - 0.16 * torch.sin(math.pi * (clock + actor.phase)).abs() + 0.08
    elif actor.motion == "drop":
        y = y - 0.45 + 0.22 * clock**2
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    flip = -1.0 if actor.mirrored else 1.0
    cx, cy = x * 2 - 1, y * 2 - 1
    first = torch.stack([flip * cos, flip * sin, -flip * (cos * cx + sin * cy)], -1)
    second = torch.stack([-sin, cos, sin * cx - cos * cy], -1)
    return torch.stack([first, second], 1)


def _affine(scale_x: float, scale_y: float, x: Tensor, y: Tensor) -> Tensor:
    """A map without rotation: (t, 2, 3)."""
    zero = torch.zeros_like(x)
    first = torch.stack([zero + scale_x, zero, x], -1)
    second = torch.stack([zero, zero + scale_y, y], -1)
    return torch.stack([first, second], 1)
