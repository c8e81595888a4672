"""Batches of latents, conditions and captions for the denoiser.

Captions come from a bank that is encoded once per run: a row is a script, its sentence and the
sentence's vectors. A batch draws rows, renders clips of their scripts and encodes the frames.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.training.captions import caption, nameless, paraphrase
from models.training.concepts import TRAINED
from models.training.conditions import (
    DRAWN,
    REFERENCES,
    WORDS,
    Mixture,
    draw_conditions,
    draw_references,
    sketch,
    strange,
    targets,
)
from models.training.loop import Draws
from models.training.world import CLIP_SECONDS, ClipState, Script, World
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.conditioning import Conditions, text_only
from models.videoldm.text import TextEncoder

EXACT_SHARE = 0.6  # of captions in the plain form
NAMELESS_SHARE, MISNAMED_SHARE = 0.5, 0.3  # of captions of strangers
MAX_TOKENS = 20


@dataclass(frozen=True)
class ClipBatch:
    """One batch: clean latents, what the network is told, and where errors count for more."""

    latents: Tensor  # (b, c, t, h, w)
    conditions: Conditions
    weight: Tensor  # broadcastable to the latents


@dataclass(frozen=True)
class CaptionBank:
    """Scripts with their sentences' vectors (n, l, d) float16 and masks (n, l)."""

    scripts: tuple[Script, ...]
    vectors: Tensor
    masks: Tensor


def named_bank(world: World, encoder: TextEncoder, rows: int, folder: Path) -> CaptionBank:
    """Scripts of this world and what is true of them in words."""
    draw = random.Random("captions")
    scripts = tuple(world.script(draw) for _ in range(rows))
    return _bank(scripts, [_sentence(script, draw) for script in scripts], encoder, folder)


def stranger_bank(world: World, encoder: TextEncoder, rows: int, folder: Path) -> CaptionBank:
    """Scripts of any trained subject, where words tell motion and scene but seldom who it is.

    Half of the sentences name nobody and a third somebody else: the look is a picture's to give.
    """
    draw = random.Random("strangers")
    scripts = tuple(replace(world.script(draw), concept=draw.choice(TRAINED)) for _ in range(rows))
    return _bank(scripts, [hearsay(script, draw) for script in scripts], encoder, folder)


def _bank(
    scripts: tuple[Script, ...], sentences: list[str], encoder: TextEncoder, folder: Path
) -> CaptionBank:
    """The bank of these scripts, its vectors cached in a file of the folder."""
    digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
    cache = folder / f"captions-{digest[:16]}.safetensors"
    if not cache.exists():
        vectors, masks = [], []
        for start in range(0, len(sentences), 256):
            encoded, mask = encoder(sentences[start : start + 256])
            padding = MAX_TOKENS - mask.shape[1]
            vectors.append(torch.nn.functional.pad(encoded, (0, 0, 0, padding)).half())
            masks.append(torch.nn.functional.pad(mask, (0, padding)))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": torch.cat(vectors), "masks": torch.cat(masks)}, cache)
    stored = load_file(cache)
    return CaptionBank(scripts, stored["vectors"], stored["masks"])


def _sentence(script: Script, draw: random.Random) -> str:
    words = (script.concept, script.motion, script.fast, script.scene)
    return caption(*words) if draw.random() < EXACT_SHARE else paraphrase(*words, draw)


def hearsay(script: Script, draw: random.Random) -> str:
    """What is said of a stranger: motion and scene as they are, the name seldom."""
    chance = draw.random()
    if chance < NAMELESS_SHARE:
        return nameless(script.motion, script.fast, script.scene, draw)
    wrong = chance < NAMELESS_SHARE + MISNAMED_SHARE
    return _sentence(replace(script, concept=draw.choice(TRAINED)) if wrong else script, draw)


@dataclass(frozen=True)
class ClipMaker:
    """Makes batches; shared by every stage of the denoiser."""

    world: World
    autoencoder: Autoencoder
    bank: CaptionBank
    mixture: Mixture = WORDS
    references: Mixture = REFERENCES  # of batches that show the subject elsewhere too
    reference_batches: float = 0.0  # how many are such
    strangers: CaptionBank | None = None  # the scripts of those; None takes the bank's
    drawn: Mixture = DRAWN  # of batches that have drawings of last frames
    sketch_batches: float = 0.0  # of the others: how many are such
    subject_weight: float = 1.0  # of the loss where the subject is

    def images(self, count: int, draws: Draws) -> ClipBatch:
        """Single frames at random times: t = 1."""
        times = torch.tensor([[draws.python.uniform(0, CLIP_SECONDS)] for _ in range(count)])
        return self._batch(times, torch.full((count,), 8.0), draws)

    def weighed(self, states: Sequence[ClipState], times: Tensor, side: int) -> Tensor:
        """1 on the background, `subject_weight` on the subject: (b, 1, t, side, side)."""
        if self.subject_weight == 1:
            return torch.ones(1)
        cover = self.world.masks(states, times, side)
        return rearrange(1 + (self.subject_weight - 1) * cover, "b t h w -> b 1 t h w")

    def clips(self, count: int, frames: int, fps: float, draws: Draws) -> ClipBatch:
        """Evenly spaced frames; a clip shorter or longer than two seconds lies within or around."""
        spare = CLIP_SECONDS - frames / fps
        first, last = (0.0, spare) if spare > 0 else (spare / 2, spare / 2)
        starts = torch.tensor([[draws.python.uniform(first, last)] for _ in range(count)])
        times = starts + torch.arange(frames)[None] / fps
        return self._batch(times, torch.full((count,), float(fps)), draws)

    def _batch(self, times: Tensor, fps: Tensor, draws: Draws) -> ClipBatch:
        draw = draws.python
        shown = draw.choice((1, 1, 2)) if draw.random() < self.reference_batches else 0
        # References take the network's time as frames do, so there are fewer clips beside them.
        count = max(1, len(times) * times.shape[1] // (times.shape[1] + shown))
        bank = self.strangers if shown and self.strangers else self.bank
        rows = [draw.randrange(len(bank.scripts)) for _ in range(count)]
        states = [self.world.sample(draw, bank.scripts[row]) for row in rows]
        if bank is self.strangers:
            states = [strange(state, draw) for state in states]
        times, fps = times[:count], fps[:count]
        with torch.no_grad():
            frames = self.world.render(states, times)
            latents = self.autoencoder.encode(frames)
            told = _told(bank, rows, times, float(fps[0]), latents)
            mixture, pictures, drawings = self.mixture, None, None
            if shown:
                elsewhere = draw_references(self.world, states, shown, draws)
                mixture, pictures = self.references, self.autoencoder.encode(elsewhere)
            else:
                drawings = self._drawings(frames, draws)
                mixture = self.mixture if drawings is None else self.drawn
        conditions = draw_conditions(told, latents, draws, mixture, pictures, drawings)
        weight = self.weighed(states, times, latents.shape[-1]) * targets(conditions)
        return ClipBatch(latents, conditions, weight)

    def _drawings(self, frames: Tensor, draws: Draws) -> Tensor | None:
        if frames.shape[2] == 1 or draws.python.random() >= self.sketch_batches:
            return None
        drawn = sketch(frames[:, :, -1])
        return self.autoencoder.encode(rearrange(drawn, "b c h w -> b c 1 h w"))[:, :, 0]


def _told(
    bank: CaptionBank, rows: Sequence[int], times: Tensor, fps: float, latents: Tensor
) -> Conditions:
    mask = bank.masks[rows]
    length = int(mask.sum(1).max())
    vectors = bank.vectors[rows, :length].float()
    c, h, w = latents.shape[1], latents.shape[3], latents.shape[4]
    return text_only(vectors, mask[:, :length], times.float(), fps, (c, h, w))
