"""A small checkpoint of Wan's kind, taught for about a minute: a pupil.

What it is for: how much of a network may be left out at a step depends on how its answers change
from step to step, and those of random weights say nothing about that. Network and loss are Wan's
(Wan Team 2025, arXiv:2503.20314): rectified flow, layers begun as its authors do. An autoencoder
does not learn in so short a time: latents are a linear code of blocks of pixels, of the shape that
Wan's have; `pictures` shows them, and the checkpoint's own autoencoder has random weights.

What it learns is how latents look one by one, hardly how they hang together: its films are patches
of colour. How much its answers change from step to step depends on how it is taught. Where what
reads times learned at the full rate, to no better a loss, they changed so much that no block could
be left out. So what is measured on it shows that a cache works, not what a released network gains.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from tests.models.wilds import Shape, denoiser_of, save, wan

COLOURS = {"red": (1.0, -0.8, -0.8), "blue": (-0.8, -0.8, 1.0), "green": (-0.6, 0.8, -0.6)}
WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SHIFT = 3.0  # of noise levels, as the checkpoint's scheduler has it
NO_WORDS = 0.1  # share of clips whose prompt is empty: guidance needs both
TOKENS = 32  # of a prompt, the padding included
BLOCK = 8  # pixels a side
WAVES = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0))  # down and right, in a block
CHANNELS = 16
NEWEST = 0.04  # share of a step's weights in their moving average
SLOW, SLOWLY = ("time_embedder", "time_proj"), 0.1  # what reads times, and at which rate it learns


@dataclass(frozen=True)
class Lessons(Shape):
    """How large the pupil is, and how long it is taught."""

    side: int  # of its films, pixels
    frames: int
    clips: int
    steps: int
    batch: int


LONG = Lessons(12, 4, 32, 512, 96, 9, 16, 300, 4)
SHORT = Lessons(2, 2, 12, 32, 32, 5, 4, 2, 2)


def taught(lessons: Lessons, cache: Path, say: Callable[[str], None]) -> Path:
    """The folder of a pupil; taught now if it was not before, by these libraries."""
    libraries = [version(name) for name in ("torch", "diffusers")]
    text = f"{lessons} {libraries} {Path(__file__).read_text(encoding='utf-8')}"
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not folder.is_dir():
        draft = folder.with_suffix(f".{os.getpid()}")
        teach(lessons, draft, say)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    return folder


def teach(lessons: Lessons, folder: Path, say: Callable[[str], None]) -> None:
    """Teach a denoiser; save the checkpoint, and beside its index what it scored."""
    import diffusers

    torch.manual_seed(0)
    parts = wan()
    parts["vae"].register_to_config(latents_mean=[0.0] * CHANNELS, latents_std=[1.0] * CHANNELS)
    clips, prompts = draw_clips(lessons)
    latents = coded(clips)
    spread = float(latents[:, :3].std())  # of colours; finer waves stay as small as they are
    latents = latents / spread
    words = read(parts["tokenizer"], parts["text_encoder"], [*prompts, ""])
    network, losses = taught_denoiser(lessons, latents, words, say)
    save(diffusers.WanPipeline(**parts | {"transformer": network}), folder)
    scores = {"loss": losses, "spread": spread}
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")


def draw_clips(lessons: Lessons) -> tuple[Tensor, list[str]]:
    """Clips (n, 3, T, H, W) of -1..1, of squares that move over slopes, and their prompts."""
    draw = np.random.default_rng(0)
    kinds = list(itertools.product(COLOURS, WAYS))
    side, frames = lessons.side, lessons.frames
    down, right = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")
    clips = np.empty((lessons.clips, 3, frames, side, side), np.float32)
    prompts = []
    for clip in clips:
        colour, way = kinds[draw.integers(len(kinds))]
        slope = draw.uniform(-0.4, 0.4, (3, 2))
        clip[:] = (slope @ np.stack([down, right]).reshape(2, -1)).reshape(3, 1, side, side)
        size, step = int(side * draw.uniform(0.2, 0.4)), side * draw.uniform(0.02, 0.05)
        place = draw.uniform(0.15, 0.85, 2) * (side - size)
        for frame in range(frames):
            moved = place + (frame - frames // 2) * step * np.array(WAYS[way])
            top, left = np.clip(moved, 0, side - size).astype(int)
            square = clip[:, frame, top : top + size, left : left + size]
            square[:] = np.array(COLOURS[colour]).reshape(3, 1, 1)
        prompts.append(f"a {colour} square moves to the {way}")
    return torch.from_numpy(clips), prompts


def waves() -> Tensor:
    """What each channel stands for in a block, (16, 3 * 8 * 8): the slowest waves of a cosine
    transform in every colour, and one more in green; orthonormal."""
    at = (np.arange(BLOCK) + 0.5) * np.pi / BLOCK
    lines = np.stack([np.cos(at * k) * math.sqrt((2 if k else 1) / BLOCK) for k in range(3)])
    found = np.zeros((len(WAVES), 3, 3, BLOCK, BLOCK), np.float32)
    for wave, (down, right) in enumerate(WAVES):
        for colour in range(3):
            found[wave, colour, colour] = np.outer(lines[down], lines[right])
    rows = found.reshape(len(WAVES) * 3, -1)
    return torch.from_numpy(rows[[*range(CHANNELS - 1), CHANNELS]])


def coded(clips: Tensor) -> Tensor:
    """Latents (n, 16, t, h, w) of clips: the first frame by itself, then the mean of every four."""
    later = clips[:, :, 1:].unflatten(2, (-1, 4)).mean(3)
    frames = torch.cat([clips[:, :, :1], later], 2)
    blocks = rearrange(frames, "n c t (h p) (w q) -> n t h w (c p q)", p=BLOCK, q=BLOCK)
    return rearrange(blocks @ waves().T, "n t h w d -> n d t h w")


def pictures(latents: Tensor, spread: float) -> np.ndarray:
    """One clip's latents (1, 16, t, h, w), as the denoiser makes them, as frames (t, H, W, 3)."""
    scaled = rearrange(latents[0], "d t h w -> t h w d") * spread
    pixels = rearrange(scaled @ waves(), "t h w (c p q) -> t (h p) (w q) c", c=3, p=BLOCK, q=BLOCK)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().numpy()


@torch.no_grad()
def read(tokenizer: Any, encoder: Any, prompts: list[str]) -> Tensor:
    """Embeddings (n, tokens, width) as Wan's pipeline has them, zeros after the last word."""
    told = tokenizer(
        prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    states = encoder(told.input_ids, told.attention_mask).last_hidden_state
    known: Tensor = states * told.attention_mask[..., None]
    return known


def taught_denoiser(
    lessons: Lessons, latents: Tensor, words: Tensor, say: Callable[[str], None]
) -> tuple[Any, list[float]]:
    """A network of Wan's kind; its losses, the mean of each tenth of the steps.

    latents  (n, 16, t, h, w) of spread 1 or less
    words    (n + 1, l, d)    the last of no words
    """
    network = denoiser_of(lessons)
    begin(network)
    draw = torch.Generator().manual_seed(0)
    losses: list[float] = []

    def loss() -> Tensor:
        some = torch.randint(len(latents), (lessons.batch,), generator=draw)
        x0, eps = latents[some], torch.randn(latents[some].shape, generator=draw)
        u = torch.rand(lessons.batch, generator=draw)
        sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
        silent = torch.rand(lessons.batch, generator=draw) < NO_WORDS
        told = words[some.masked_fill(silent, len(words) - 1)]
        s = sigma.view(-1, 1, 1, 1, 1)
        flow = network((1 - s) * x0 + s * eps, sigma * 1000, told).sample
        error = nn.functional.mse_loss(flow, eps - x0)
        losses.append(error.item())
        return error

    learn(network, loss, lessons.steps, 1e-3, lambda: say(f"denoiser {np.mean(losses[-10:]):.3f}"))
    tenths = np.array_split(losses, min(10, len(losses)))
    return network.eval(), [round(float(tenth.mean()), 4) for tenth in tenths]


def begin(network: nn.Module) -> None:
    """Begin as Wan's authors do: matrices after Glorot, small where times and words are read, and
    nothing in the last layer."""
    for name, part in network.named_modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
            if "time_embedder" in name or "text_embedder" in name:
                nn.init.normal_(part.weight, std=0.02)
            if name == "proj_out":
                nn.init.zeros_(part.weight)


def learn(
    network: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    rate: float,
    tell: Callable[[], None],
) -> None:
    """Steps of AdamW whose rate rises for a tenth of them and then falls as a cosine; what is left
    is a moving average of the weights. What reads times learns slowly: so few steps would leave
    noise in it, for each step sees few of them."""
    weights = list(network.parameters())
    averages = [weight.detach().clone() for weight in weights]
    slow = [w for name, w in network.named_parameters() if any(part in name for part in SLOW)]
    fast = [w for w in weights if all(w is not one for one in slow)]
    groups: list[dict[str, Any]] = [{"params": fast}, {"params": slow}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99))
    network.train()
    for step in range(steps):
        rise = min(1.0, (step + 1) / max(1.0, steps / 10))
        falling = rate * rise * (1 + math.cos(math.pi * step / steps)) / 2
        for group, share in zip(optimiser.param_groups, (1.0, SLOWLY), strict=True):
            group["lr"] = falling * share
        optimiser.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        with torch.no_grad():
            for average, weight in zip(averages, weights, strict=True):
                average.lerp_(weight, NEWEST)
        if (step + 1) % 20 == 0:
            tell()
    with torch.no_grad():
        for average, weight in zip(averages, weights, strict=True):
            weight.copy_(average)
