"""Distils the guided base into few steps: `python -m models.training.distillation --steps N`.

Salimans & Ho 2022 (arXiv:2202.00512): one step of the student learns to land where two of its
teacher's end. The first teacher is the guided base at twice the steps of the first level, the scale
drawn at random and told; every later one is the student of the level before. Ends by measuring how
near the student comes to the base in many steps, against the base in as few.

Differs: one network passes through all levels and is told which it runs, so at each level some of
its batches rehearse the levels before; guidance is distilled together with the first halving.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file
from torch import Tensor

from models.training.batches import ClipBatch, ClipMaker
from models.training.concepts import EDITION
from models.training.conditions import WORDS
from models.training.denoiser import PREVIEW, Workshop
from models.training.loop import Draws, Run, RunConfig, averaged
from models.training.stages import publish, write_rows, write_scores
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.conditioning import Conditions, frame_times, text_only
from models.videoldm.config import StudentConfig
from models.videoldm.diffusion import (
    addressed_noise,
    cosine_lambda,
    denoiser,
    distillation_target,
    eps_from_v,
    lambda_of,
    noised,
    sigma_of,
    uniform_u_grid,
    v_from_x0,
    x0_from_v,
)
from models.videoldm.guidance import Branch, guide
from models.videoldm.samplers import sample_ddim
from models.videoldm.student import Student, StudentUNet, instructed
from models.videoldm.unet import UNet

LEVELS = (16, 8, 4)  # steps of the student, level by level
LAYOUTS = ((13, 6.0), (16, 8.0), (8, 4.0))  # frames, and frames a second
REHEARSAL_SHARE = 0.25  # of batches, where there is a level to rehearse
REFERENCE_STEPS = 64  # of the guided base that everything is compared with

# (x, sigma (b,), conditions, scale (b,)) -> v
Teacher = Callable[[Tensor, Tensor, Conditions, Tensor], Tensor]


def guided(base: UNet) -> Teacher:
    """The base under classifier-free guidance against the null prompt."""

    def velocity(x: Tensor, sigma: Tensor, told: Conditions, scale: Tensor) -> Tensor:
        level = lambda_of(sigma).float()
        full, null = base(x, level, told), base(x, level, told.without_text())
        # Under autocast the network answers in half precision, and the scale stays whole.
        return torch.lerp(null.float(), full.float(), scale.view(-1, 1, 1, 1, 1))

    return velocity


def practised(student: StudentUNet, steps: int) -> Teacher:
    """A student that has been through a level."""

    def velocity(x: Tensor, sigma: Tensor, told: Conditions, scale: Tensor) -> Tensor:
        return student(x, lambda_of(sigma).float(), instructed(told, scale, steps))

    return velocity


def halving_loss(
    student: StudentUNet,
    teacher: Teacher,
    batch: ClipBatch,
    steps: int,
    config: StudentConfig,
    draws: Draws,
) -> Tensor:
    """Mean of ||v_hat - v*||^2, weighed; with v* one step lands where two of the teacher's do.

    steps  of the student; the teacher takes twice as many
    """
    count, generator = len(batch.latents), draws.torch
    place = torch.randint(1, steps + 1, (count,), generator=generator).double()
    sigma, middle, end = (_sigma((place - done) / steps) for done in (0.0, 0.5, 1.0))
    eps = torch.randn(batch.latents.shape, generator=generator)
    x = noised(batch.latents, eps, sigma).float()
    scale = _scales(count, config, generator)
    with torch.no_grad():
        half = ddim_step(x, teacher(x, sigma, batch.conditions, scale), sigma, middle)
        landed = ddim_step(half, teacher(half, middle, batch.conditions, scale), middle, end)
        target = v_from_x0(x, distillation_target(x, landed, sigma, end), sigma)
    said = instructed(batch.conditions, scale, steps)
    predicted = student(x, lambda_of(sigma).float(), said)
    error = (predicted.float() - target.float()).square()
    return (error * batch.weight).mean() / batch.weight.mean()


def rehearsal_loss(
    student: StudentUNet,
    before: StudentUNet,
    batch: ClipBatch,
    steps: int,
    config: StudentConfig,
    draws: Draws,
) -> Tensor:
    """Mean square of what the student has changed at a level it was through before."""
    count, generator = len(batch.latents), draws.torch
    sigma = _sigma(torch.randint(1, steps + 1, (count,), generator=generator).double() / steps)
    eps = torch.randn(batch.latents.shape, generator=generator)
    x = noised(batch.latents, eps, sigma).float()
    said = instructed(batch.conditions, _scales(count, config, generator), steps)
    level = lambda_of(sigma).float()
    with torch.no_grad():
        expected = before(x, level, said)
    return (student(x, level, said) - expected).float().square().mean()


def ddim_step(x: Tensor, v: Tensor, sigma: Tensor, sigma_s: Tensor) -> Tensor:
    """Every sample from its level to its next: x_s = alpha_s x0 + sigma_s eps. Levels (b,)."""
    return noised(x0_from_v(x, v, sigma), eps_from_v(x, v, sigma), sigma_s)


def train_level(
    student: StudentUNet,
    teacher: Teacher,
    make: Callable[[Draws], ClipBatch],
    steps: int,
    rehearsed: Sequence[int],
    config: StudentConfig,
    folder: Path,
    optimisation: RunConfig,
    preview: Callable[[Path], None] | None = None,
) -> None:
    """Train, or continue, one level; the student ends with its averaged weights.

    rehearsed  levels that it has been through and shall keep
    """
    before = StudentUNet(student.config).requires_grad_(False)
    before.load_state_dict(student.state_dict())

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        rehearses = bool(rehearsed) and draws.python.random() < REHEARSAL_SHARE
        known = draws.python.choice(tuple(rehearsed)) if rehearses else 0
        batch = make(draws)
        if known:
            return {"loss": rehearsal_loss(student, before, batch, known, config, draws)}
        return {"loss": halving_loss(student, teacher, batch, steps, config, draws)}

    Run(folder, student, optimisation).train(loss, preview)
    student.load_state_dict(averaged(folder))


def train(
    base: UNet,
    make: Callable[[Draws], ClipBatch],
    levels: Sequence[int],
    config: StudentConfig,
    folder: Path,
    optimisation: RunConfig,
    preview: Callable[[StudentUNet, int], Callable[[Path], None]] | None = None,
) -> Student:
    """Halve level by level, each in a folder of its own; finished levels are passed through."""
    student = StudentUNet(base.config).taught_by(base)
    teacher = guided(base)
    for index, steps in enumerate(levels):
        rehearsed = [level for level in levels[:index] if level in config.steps]
        drawn = preview(student, steps) if preview else None
        train_level(
            student,
            teacher,
            make,
            steps,
            rehearsed,
            config,
            folder / str(steps),
            optimisation,
            drawn,
        )
        frozen = StudentUNet(base.config).requires_grad_(False)
        frozen.load_state_dict(student.state_dict())
        teacher = practised(frozen, steps)
    return Student(config, student.eval())


@dataclass(frozen=True)
class Comparison:
    """Prompts that student and base draw from the same noise."""

    base: UNet
    told: Conditions
    noise: Tensor  # (b, c, t, h, w)
    scale: float = 3.0

    @torch.no_grad()
    def drawn(self, steps: int) -> Tensor:
        """Latents of the guided base."""

        def predict_v(x: Tensor, sigma: float, branch: Branch) -> Tensor:
            told = self.told if branch.text else self.told.without_text()
            return self.base(x, lambda_of(sigma).float().expand(len(x)), told)

        return sample_ddim(
            denoiser(guide(predict_v, self.scale)), self.noise, uniform_u_grid(steps)
        )

    @torch.no_grad()
    def measured(self, student: Student) -> dict[str, float]:
        """Root mean square distance from the base in 64 steps: the student's over the base's.

        distance_ratio_N  below 1, the student in N steps is nearer than the base in N steps
        """
        reference = self.drawn(REFERENCE_STEPS)
        ratios = {}
        for steps in student.config.steps:
            made = student.sample(self.told, self.noise, self.scale, steps)
            plain = self.drawn(steps)
            ratios[f"distance_ratio_{steps}"] = float(
                ((made - reference).square().mean() / (plain - reference).square().mean()).sqrt()
            )
        return ratios


def mixed(maker: ClipMaker, clips: int, draws: Draws) -> ClipBatch:
    """A batch of clips of one length; every one with its words, for guidance is in the teacher."""
    frames, fps = draws.python.choice(LAYOUTS)
    told = replace(WORDS, text_dropout=0.0)
    named = replace(maker, mixture=told, reference_batches=0.0, sketch_batches=0.0)
    return named.clips(clips, frames, fps, draws)


def halvings(text: str) -> tuple[int, ...]:
    """Levels written as "16,8,4". raises ValueError unless each is half of the one before"""
    levels = tuple(int(part) for part in text.split(","))
    if any(2 * low != high for high, low in pairwise(levels)) or levels[-1] < 1:
        raise ValueError(f"levels {text!r}: each must be half of the one before, down to 1 or more")
    return levels


def _sigma(u: Tensor) -> Tensor:
    """Levels at u, (b,) float64; exactly 0 at 0, where a sampler's grid ends."""
    level = sigma_of(cosine_lambda(u.clamp_min(1e-6)))
    return torch.where(u < 1e-6, torch.zeros_like(level), level)


def _scales(count: int, config: StudentConfig, generator: torch.Generator) -> Tensor:
    least, most = config.guidance
    return least + (most - least) * torch.rand(count, generator=generator)


def _preview(
    comparison: Comparison, autoencoder: Autoencoder, config: StudentConfig
) -> Callable[[StudentUNet, int], Callable[[Path], None]]:
    def of_level(student: StudentUNet, steps: int) -> Callable[[Path], None]:
        def draw(path: Path) -> None:
            level = replace(config, steps=(steps,))
            made = Student(level, student).sample(
                comparison.told, comparison.noise, comparison.scale, steps
            )
            pairs = zip(
                autoencoder.decode(made), autoencoder.decode(comparison.drawn(steps)), strict=True
            )
            write_rows(path, [row for pair in pairs for row in pair])

        return draw

    return of_level


def compared(shop: Workshop, base: UNet) -> Comparison:
    """The previews' prompts, at the rate of key frames."""
    vectors, mask = shop.text(PREVIEW)
    frames, fps = LAYOUTS[0]
    times = frame_times(frames, fps).expand(len(PREVIEW), -1)
    side = 64 // shop.config.autoencoder.factor
    c = shop.config.autoencoder.latent_channels
    told = text_only(vectors, mask, times, fps, (c, side, side))
    noise = [addressed_noise((c, frames, side, side), seed=row) for row in range(len(PREVIEW))]
    return Comparison(base, told, torch.stack(noise))


def open_base(shop: Workshop) -> UNet:
    """The preset's base, frozen."""
    base = shop.unet()
    stored = load_file(shop.preset / "unet.safetensors")
    base.load_state_dict({name: value.float() for name, value in stored.items()})
    return base.eval().requires_grad_(False)


def main(
    steps: Annotated[int, typer.Option(help="Optimiser steps of every level.")] = 1500,
    folder: Annotated[Path, typer.Option(help="Where the runs live.")] = Path("runs/distillation"),
    preset: Annotated[Path, typer.Option(help="Preset folder to write.")] = Path("models/pocket"),
    batch: int = 4,
    learning_rate: float = 3e-4,
    levels: Annotated[
        str, typer.Option(help="Steps of the student, level by level, each half of the one before.")
    ] = ",".join(map(str, LEVELS)),
) -> None:
    """Distil, or go on distilling, the preset's base into few steps."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing
    shop = Workshop(preset, folder, EDITION)
    base = open_base(shop)
    comparison = compared(shop, base)
    chosen = halvings(levels)
    config = StudentConfig(steps=tuple(n for n in chosen if n in StudentConfig().steps))
    student = train(
        base,
        lambda draws: mixed(shop.maker, batch, draws),
        chosen,
        config,
        folder,
        RunConfig(steps, batch, learning_rate, warmup=20, cooldown=1.0, ema_decay=0.99),
        _preview(comparison, shop.autoencoder, config),
    )
    write_scores(folder, comparison.measured(student))
    # A second network of the base's size: in halves it would take the preset over its bound.
    publish(preset, "student", student.unet, config, eight_bits=True)


if __name__ == "__main__":
    typer.run(main)
