"""What the denoiser is given in training: frames, context and references, drawn for every clip.

One network serves every kind of task, so each clip of a batch is drawn as one of them. First, last
and context frames are noised to a level that the network is told; the last frame is one of the last
three and often missing (PixelDance, arXiv:2311.10982, section 3.3); zero, one or two context frames
(Video LDM, arXiv:2304.08818, section 3.2); references show the subject elsewhere, never the clip.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from models.training.loop import Draws
from models.training.scenes import SCENES
from models.training.world import CLIP_SECONDS, TINTS, ClipState, Script, World
from models.videoldm.conditioning import Conditions, Kind
from models.videoldm.diffusion import noised

# Noise on given frames is drawn up to this level.
MOST_SIGMA = {Kind.FIRST: 0.1, Kind.LAST: 0.4, Kind.SKETCH: 0.4, Kind.CONTEXT: 0.1}
REFERENCE_MOTIONS = ("still", "turn", "grow", "shrink")


@dataclass(frozen=True)
class Mixture:
    """How often a clip is of which kind, in shares of their sum, and how often what is dropped."""

    text: float = 0.20  # nothing is given: at least a tenth, for the first frame's null
    first: float = 0.25
    first_last: float = 0.25
    context_one: float = 0.05
    context_two: float = 0.15
    reference: float = 0.10
    text_dropout: float = 0.1  # of all clips, whatever else they are given
    last_dropout: float = 0.25  # of `first_last`
    reference_dropout: float = 0.15  # of clips with references: zeros in their place
    backwards: float = 1 / 3  # of context is at the clip's end
    far_end: float = 0.2  # of clips with context have a given frame at the other end
    context_reference: float = 0.2  # of clips with context have references too
    rough_first: float = 0.15  # of first frames are noised to any level, for their strength
    sketch: float = 0.0  # of last frames are drawings, where the batch has any
    sketch_text_dropout: float = 0.0  # of clips towards a drawing: words that say all make it idle
    single_first: float = 0.0  # of single frames are given themselves: what copying is, cheaply

    @property
    def shares(self) -> dict[str, float]:
        """The kinds of clip by name."""
        kinds = ("text", "first", "first_last", "context_one", "context_two", "reference")
        return {kind: getattr(self, kind) for kind in kinds}


WORDS = Mixture(text=1, first=0, first_last=0, context_one=0, context_two=0, reference=0)
# A third of the clips are words alone: what words mean is the hardest to learn.
GIVEN = Mixture(
    text=0.32,
    first=0.25,
    first_last=0.28,
    context_one=0.04,
    context_two=0.11,
    reference=0,
    single_first=0.2,
)
# Of batches that have drawings of last frames.
DRAWN = replace(
    GIVEN,
    text=0.05,
    first=0.1,
    first_last=0.85,
    context_one=0,
    context_two=0,
    last_dropout=0.1,
    sketch=0.9,
    sketch_text_dropout=0.6,
)
REFERENCES = replace(WORDS, text=0.05, context_two=0.1, reference=0.85, text_dropout=0.2)
TINTED = 0.75  # of the strangers that references show


def draw_conditions(
    told: Conditions,
    latents: Tensor,
    draws: Draws,
    mixture: Mixture | None = None,
    references: Tensor | None = None,
    sketches: Tensor | None = None,
) -> Conditions:
    """Give every clip of a batch what a task of some kind would give it.

    told        words, times and rate, nothing given yet; no text dropped yet
    latents     (b, c, t, h, w) of the true clips; a single frame is given references
                or, now and then, itself
    references  (b, c, r, h, w) latents of other pictures of each subject, see `draw_references`;
                without them no clip is of kind "reference"
    sketches    (b, c, h, w) latents of drawings of the last frames
    """
    mixture = mixture or Mixture()
    desk = _Desk(told, latents, draws, mixture, sketches)
    kinds = draw_kinds(mixture, len(latents), latents.shape[2], references is not None, draws)
    for row, kind in enumerate(kinds):
        desk.give(row, kind)
    given = desk.conditions()
    if references is not None:
        given = _with_references(given, kinds, references, draws, mixture)
    return _without_some_text(given, draws, mixture)


def draw_kinds(
    mixture: Mixture, count: int, frames: int, with_references: bool, draws: Draws
) -> list[str]:
    """A kind for every clip, of those that so many frames and the batch allow."""
    shares = dict(mixture.shares)
    if not with_references:
        del shares["reference"]
    if frames == 1:
        shares = {kind: share for kind, share in shares.items() if kind in ("text", "reference")}
        shares["first"] = mixture.single_first * sum(shares.values()) / (1 - mixture.single_first)
    return draws.python.choices(list(shares), list(shares.values()), k=count)


def targets(conditions: Conditions) -> Tensor:
    """Where the loss counts how much, 0 at frames that are given as they are: (b, 1, t, 1, 1).

    A given first frame counts twice: the network draws it again, a sampler keeps what it draws, and
    all that follows looks like it.
    """
    given = conditions.gives((Kind.CONTEXT, Kind.KEY))
    first = conditions.gives((Kind.FIRST,))
    return rearrange((~given).float() + first.float(), "b t -> b 1 t 1 1")


class _Desk:
    """The given frames of a batch while they are being chosen."""

    def __init__(
        self,
        told: Conditions,
        latents: Tensor,
        draws: Draws,
        mixture: Mixture,
        sketches: Tensor | None,
    ) -> None:
        self.told, self.latents, self.draws = told, latents, draws
        self.mixture, self.sketches = mixture, sketches
        self.frames, self.mask = told.frames.clone(), told.mask.clone()
        self.kind, self.sigma = told.kind.clone(), told.frame_sigma.clone()

    def conditions(self) -> Conditions:
        """What has been given."""
        return replace(
            self.told,
            frames=self.frames,
            mask=self.mask,
            kind=self.kind,
            frame_sigma=self.sigma,
        )

    def give(self, row: int, kind: str) -> None:
        """Give a clip the frames of its kind."""
        chance = self.draws.python.random
        if kind in ("first", "first_last"):
            self._first(row)
        if kind == "first_last" and chance() >= self.mixture.last_dropout:
            self._last(row)
        if kind in ("context_one", "context_two"):
            self._context(row, 1 if kind == "context_one" else 2)

    def _first(self, row: int) -> None:
        rough = self.draws.python.random() < self.mixture.rough_first
        # Differs: now and then any level, which is what `first_frame_strength` then asks for.
        most = 1.0 if rough else MOST_SIGMA[Kind.FIRST]
        self._place(row, 0, self.latents[row, :, 0], Kind.FIRST, self._level(most))

    def _last(self, row: int) -> None:
        """One of the last three frames of sixteen, or of as long a stretch; in the last slot."""
        t = self.latents.shape[2]
        near = max(1, min(3, round(3 * t / 16)))
        back = self.draws.python.randint(1, near)
        kind, latent = Kind.LAST, self.latents[row, :, t - back]
        if self.sketches is not None and self.draws.python.random() < self.mixture.sketch:
            kind, latent = Kind.SKETCH, self.sketches[row]
        self._place(row, t - 1, latent, kind, self._level(MOST_SIGMA[kind]))

    def _context(self, row: int, count: int) -> None:
        t = self.latents.shape[2]
        count = min(count, t - 1)
        backwards = self.draws.python.random() < self.mixture.backwards
        sigma = self._level(MOST_SIGMA[Kind.CONTEXT])
        for slot in range(t - count, t) if backwards else range(count):
            self._place(row, slot, self.latents[row, :, slot], Kind.CONTEXT, sigma)
        if count < t - 1 and self.draws.python.random() < self.mixture.far_end:
            if backwards:
                self._first(row)
            else:
                self._last(row)

    def _place(self, row: int, slot: int, latent: Tensor, kind: Kind, sigma: float) -> None:
        eps = torch.randn(latent.shape, generator=self.draws.torch).to(latent)
        self.frames[row, :, slot] = noised(latent, eps, sigma)
        self.mask[row, :, slot] = 1
        self.kind[row, slot] = int(kind)
        self.sigma[row, slot] = sigma

    def _level(self, most: float) -> float:
        return self.draws.python.uniform(0, most)


def _with_references(
    given: Conditions, kinds: Sequence[str], latents: Tensor, draws: Draws, mixture: Mixture
) -> Conditions:
    """Some of its pictures for every clip that sees any; a null is zeros that are still in use."""
    python, most = draws.python, latents.shape[2]
    used = torch.zeros(len(kinds), most, dtype=torch.bool, device=latents.device)
    pictures = torch.zeros_like(latents)
    for row, kind in enumerate(kinds):
        beside = kind.startswith("context") and python.random() < mixture.context_reference
        if kind != "reference" and not beside:
            continue
        count = python.randint(1, most)
        used[row, :count] = True
        if python.random() >= mixture.reference_dropout:
            pictures[row, :, :count] = latents[row, :, :count]
    width = int(used.sum(1).max())
    if width == 0:
        return given
    return given.with_references(pictures[:, :, :width], used[:, :width])


def _without_some_text(given: Conditions, draws: Draws, mixture: Mixture) -> Conditions:
    chance = torch.rand(len(given.text_mask), generator=draws.torch).to(given.text_mask.device)
    drawn = given.gives((Kind.SKETCH,)).any(1)
    most = torch.where(
        drawn, max(mixture.text_dropout, mixture.sketch_text_dropout), mixture.text_dropout
    )
    told = rearrange(chance >= most, "b -> b 1")
    return replace(given, text_mask=given.text_mask & told)


# ---------------------------------------------------------------------------- pictures


def draw_references(
    world: World, states: Sequence[ClipState], count: int, draws: Draws, side: int = 64
) -> Tensor:
    """Other pictures of each clip's subject: (b, 3, count, side, side) in -1..1.

    The same subject in another pose, size, place and scene, half of them on white as a cut-out is,
    so that nothing but the subject can be learned from them.
    """
    pictures = []
    for _ in range(count):
        others = [_elsewhere(world, state, draws.python) for state in states]
        times = torch.tensor([[draws.python.uniform(0, CLIP_SECONDS)] for _ in states])
        pictures.append(world.render(others, times, side))
    return torch.cat(pictures, 2)


def strange(state: ClipState, draw: random.Random) -> ClipState:
    """The clip of a subject as nobody has seen it: mostly in other colours, or mirrored.

    A network that knows every subject by heart has no use for a picture of one.
    """
    tint = draw.randrange(1, len(TINTS)) if draw.random() < TINTED else 0
    actor = replace(state.subject, tint=tint, mirrored=draw.random() < 0.5)
    return replace(state, actors=(*state.actors[:-1], actor))


def _elsewhere(world: World, state: ClipState, draw: random.Random) -> ClipState:
    scene = "white" if draw.random() < 0.5 else draw.choice(SCENES).name
    script = Script(state.subject.concept, draw.choice(REFERENCE_MOTIONS), False, scene)
    other = world.sample(draw, script)
    own = state.subject
    actor = replace(
        other.subject,
        sprite=own.sprite,
        tint=own.tint,
        mirrored=own.mirrored,
        size=draw.uniform(0.5, 0.9),
    )
    return replace(other, actors=(actor,), pan=(0.0, 0.0))


def sketch(frames: Tensor) -> Tensor:
    """Dark lines on white where a picture's brightness changes, as a pencil would draw it.

    frames   (b, 3, H, W) in -1..1
    returns  the same shape, grey, in -1..1
    """
    grey = functional.pad(frames.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = frames.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernels = rearrange(torch.stack([across, across.T]), "n h w -> n 1 h w")
    slope = functional.conv2d(grey, kernels).square().sum(1, keepdim=True).sqrt()
    return (1 - 4 * slope).clamp(-1, 1).expand(-1, 3, -1, -1)
