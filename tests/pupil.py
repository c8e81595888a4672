"""A small checkpoint of Wan's kind, taught for about a minute: a pupil.

What it is for: how much of a network may be left out at a step depends on how its answers change
from step to step, and those of random weights say nothing about that. Networks and loss are Wan's
(Wan Team 2025, arXiv:2503.20314): rectified flow on the latents of a causal autoencoder, layers
begun as its authors do. Its films show squares that move, not well: how far a released
network's answers change may be less, or more. It is no model to be served.
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
from torch import Tensor, nn

from tests.models.wilds import WIDE, save, wan

COLOURS = {"red": (1.0, -0.8, -0.8), "blue": (-0.8, -0.8, 1.0), "green": (-0.6, 0.8, -0.6)}
WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SHIFT = 3.0  # of noise levels, as the checkpoint's scheduler has it
NO_WORDS = 0.1  # share of clips whose prompt is empty: guidance needs both
TOKENS = 32  # of a prompt, the padding included
CHUNK = 8  # clips encoded at once
NEWEST = 0.04  # share of a step's weights in their moving average


@dataclass(frozen=True)
class Lessons:
    """How large the pupil is, and how long it is taught."""

    layers: int
    heads: int
    head_width: int
    ffn: int
    side: int  # of its films, pixels
    frames: int
    clips: int
    pictures: int  # steps of the autoencoder on single frames, and …
    films: int  # … on clips
    steps: int  # of the denoiser
    batch: int
    base: int  # channels of the autoencoder


LONG = Lessons(20, 4, 32, 512, 96, 9, 48, 150, 20, 200, 4, 8)
SHORT = Lessons(2, 2, 12, 32, 32, 5, 4, 1, 1, 2, 2, 3)


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
    """Teach autoencoder and denoiser; save the checkpoint, and beside its index what it scored."""
    import diffusers

    torch.manual_seed(0)
    parts = wan()
    clips, prompts = draw_clips(lessons)
    vae, error = taught_autoencoder(lessons, clips, say)
    latents = encoded(vae, clips)
    mean, spread = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=spread.tolist())
    latents = (latents - mean.view(1, -1, 1, 1, 1)) / spread.view(1, -1, 1, 1, 1)
    words = read(parts["tokenizer"], parts["text_encoder"], [*prompts, ""])
    network, losses = taught_denoiser(lessons, latents, words, say)
    save(diffusers.WanPipeline(**parts | {"vae": vae, "transformer": network}), folder)
    scores = {"autoencoder_mean_error": error, "denoiser_loss": losses}
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


def taught_autoencoder(
    lessons: Lessons, clips: Tensor, say: Callable[[str], None]
) -> tuple[Any, float]:
    """Wan's autoencoder, smaller, and its mean error on the last clips that it saw."""
    import diffusers

    vae = diffusers.AutoencoderKLWan(
        base_dim=lessons.base,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        z_dim=16,
    )
    inflate(vae)
    draw = torch.Generator().manual_seed(0)
    errors: list[float] = []

    def loss(frames: int) -> Tensor:
        some = torch.randint(len(clips), (4 * lessons.batch // frames + 1,), generator=draw)
        top, left = torch.randint(lessons.side - 31, (2,), generator=draw).tolist()
        first = int(torch.randint(lessons.frames - frames + 1, (1,), generator=draw))
        seen = clips[some, :, first : first + frames, top : top + 32, left : left + 32]
        latents = vae.encode(seen).latent_dist.mode()  # Differs: it is given no noise
        error = nn.functional.l1_loss(vae.decode(latents).sample, seen)
        errors.append(error.item())
        return error

    def tell() -> None:
        say(f"autoencoder {np.mean(errors[-10:]):.3f}")

    learn(vae, lambda: loss(1), lessons.pictures, 2e-3, tell)
    learn(vae, lambda: loss(5), lessons.films, 1e-3, tell)
    return vae.eval(), round(float(np.mean(errors[-10:])), 4)


@torch.no_grad()
def inflate(vae: nn.Module) -> None:
    """Begin as an autoencoder of pictures: it sees each frame alone, and repeats the frames that it
    keeps."""
    for name, part in vae.named_modules():
        if isinstance(part, nn.Conv3d) and part.kernel_size[0] == 3:
            part.weight[:, :, :-1] = 0  # the last place in time is now
            if name.endswith("time_conv"):
                same = torch.eye(part.in_channels)
                part.weight[:, :, -1, 0, 0] = same.repeat(part.out_channels // part.in_channels, 1)
                nn.init.zeros_(part.bias)


@torch.no_grad()
def encoded(vae: Any, clips: Tensor) -> Tensor:
    """Latents (n, 16, t, h, w) as the autoencoder has them."""
    return torch.cat([vae.encode(some).latent_dist.mode() for some in clips.split(CHUNK)])


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

    latents  (n, 16, t, h, w) of mean 0 and spread 1
    words    (n + 1, l, d)    the last of no words
    """
    import diffusers

    network = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=lessons.heads,
        attention_head_dim=lessons.head_width,
        in_channels=16,
        out_channels=16,
        text_dim=WIDE,
        freq_dim=256,
        ffn_dim=lessons.ffn,
        num_layers=lessons.layers,
    )
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
    is a moving average of the weights."""
    weights = list(network.parameters())
    averages = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99))
    network.train()
    for step in range(steps):
        rise = min(1.0, (step + 1) / max(1.0, steps / 10))
        optimiser.param_groups[0]["lr"] = rate * rise * (1 + math.cos(math.pi * step / steps)) / 2
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
