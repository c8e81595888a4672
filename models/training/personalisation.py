"""Teaches a preset's base one subject from a few pictures, as an adapter file.

`python -m models.training.personalisation mine-1.png mine-2.png mine-3.png --word sks --kind dog
--out sks.safetensors` trains low-rank changes (arXiv:2106.09685) of the spatial layers on 3 to 8
pictures of the subject under "a sks dog", as DreamBooth does (arXiv:2208.12242): beside them stand
as many pictures of any dog that the base itself has drawn, so that the kind is not forgotten.
Temporal layers stay as they are (Video LDM, arXiv:2304.08818, section 4.3).

Differs: the sentence encoder stays frozen; a rare word already has vectors of its own.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.func import functional_call

from models.protocol import Picture
from models.training.loop import Draws, Run, RunConfig, averaged
from models.training.stages import write_scores
from models.videoldm.adapters import Adapter, adaptable, adapted, fingerprint, write_adapter
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.conditioning import Conditions, frame_times, text_only
from models.videoldm.diffusion import (
    addressed_noise,
    cosine_lambda,
    denoiser,
    lambda_of,
    noised,
    sigma_of,
    uniform_u_grid,
    v_of,
)
from models.videoldm.guidance import Branch, guide
from models.videoldm.pictures import read_reference
from models.videoldm.samplers import sample_ddim
from models.videoldm.text import TextEncoder
from models.videoldm.unet import UNet
from models.videoldm.weights import load_preset

PICTURES = (3, 8)
RANK = 4
PRIOR_PICTURES = 24
PRIOR_STEPS = 12
PRIOR_SCALE = 3.0
PRIOR_WEIGHT = 1.0
FPS = 8.0  # told of single frames, as in the base's own training
PLACES = ("", " in the snow", " over the sea", " in a forest", " on a green background")


@dataclass(frozen=True)
class Lesson:
    """Everything that a subject is learned from."""

    unet: UNet  # frozen
    text: TextEncoder
    own: Tensor  # (n, c, 1, h, w) latents of the subject
    prior: Tensor  # (m, c, 1, h, w) latents of others of its kind
    word: str
    kind: str

    def told(self, prompts: Sequence[str]) -> Conditions:
        """Conditions of single pictures."""
        return pictures_told(self.text, prompts, self.own)


class LowRank(nn.Module):
    """Changes of the spatial layers: up @ down for each, silent at the start."""

    def __init__(self, unet: UNet, rank: int) -> None:
        super().__init__()
        self.names = tuple(adaptable(unet))
        self.downs, self.ups = nn.ParameterList(), nn.ParameterList()
        for weight in adaptable(unet).values():
            rows, columns = weight.flatten(1).shape
            self.downs.append(nn.Parameter(torch.randn(rank, columns) * columns**-0.5))
            self.ups.append(nn.Parameter(torch.zeros(rows, rank)))

    def merged(self, unet: UNet) -> dict[str, Tensor]:
        """The changed weights, by name."""
        weights = adaptable(unet)
        return {
            name: weights[name] + (up @ down).view(weights[name].shape)
            for name, down, up in zip(self.names, self.downs, self.ups, strict=True)
        }

    def layers(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """What an adapter holds."""
        pairs = zip(self.names, self.downs, self.ups, strict=True)
        return {name: (down.detach(), up.detach()) for name, down, up in pairs}


def pictures_told(text: TextEncoder, prompts: Sequence[str], like: Tensor) -> Conditions:
    """Conditions of one picture for each prompt; like (n, c, 1, h, w) gives their shape."""
    vectors, mask = text(list(prompts))
    shape = (like.shape[1], like.shape[3], like.shape[4])
    times = frame_times(1, FPS).expand(len(prompts), -1)
    return text_only(vectors, mask, times, FPS, shape)


def read_pictures(paths: Sequence[Path]) -> list[Picture]:
    """Pictures from files, upright; with alpha where they have it.

    raises ValueError for fewer than 3 or more than 8, or a file that is no picture
    """
    least, most = PICTURES
    if not least <= len(paths) <= most:
        raise ValueError(f"{len(paths)} pictures: between {least} and {most} are needed")
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                mode = "RGBA" if upright.has_transparency_data else "RGB"
                pictures.append(np.array(upright.convert(mode)))
        except OSError as error:
            raise ValueError(f"{path}: no picture: {error}") from error
    return pictures


@torch.no_grad()
def encoded(autoencoder: Autoencoder, pictures: Sequence[Picture], side: int) -> Tensor:
    """Latents (n, c, 1, h, w) of pictures and of their mirror images."""
    frames = torch.stack([read_reference(picture, side, side) for picture in pictures])
    both = torch.cat([frames, frames.flip(-1)])
    return autoencoder.encode(both[:, :, None])


@torch.no_grad()
def drawn_prior(
    unet: UNet, text: TextEncoder, kind: str, like: Tensor, count: int, steps: int
) -> Tensor:
    """Latents (count, c, 1, h, w) of pictures of the kind, as the base draws them."""
    draw = random.Random(kind)
    prompts = [f"a {kind}{draw.choice(PLACES)}" for _ in range(count)]
    told = pictures_told(text, prompts, like)
    null = told.without_text()
    noise = [addressed_noise(tuple(like.shape[1:]), row, stage="prior") for row in range(count)]

    def predict_v(x: Tensor, sigma: float, branch: Branch) -> Tensor:
        level = lambda_of(sigma).float().expand(len(x))
        return unet(x, level, told if branch.text else null, moving=False)

    velocity = guide(predict_v, PRIOR_SCALE)
    return sample_ddim(denoiser(velocity), torch.stack(noise), uniform_u_grid(steps))


def subject_loss(lesson: Lesson, change: LowRank, batch: int, draws: Draws) -> dict[str, Tensor]:
    """v-loss on the subject's pictures plus that on its kind's."""
    own = lesson.own[[draws.python.randrange(len(lesson.own)) for _ in range(batch)]]
    prior = lesson.prior[[draws.python.randrange(len(lesson.prior)) for _ in range(batch)]]
    called = [f"a {lesson.word} {lesson.kind}"] * batch + [f"a {lesson.kind}"] * batch
    latents = torch.cat([own, prior])
    u = (torch.arange(2 * batch) % batch + torch.rand(2 * batch, generator=draws.torch)) / batch
    log_snr = cosine_lambda(u.double())
    sigma = sigma_of(log_snr)
    eps = torch.randn(latents.shape, generator=draws.torch)
    inputs = (noised(latents, eps, sigma).float(), log_snr.float(), lesson.told(called))
    predicted = functional_call(lesson.unet, change.merged(lesson.unet), inputs, {"moving": False})
    error = (predicted.float() - v_of(latents, eps, sigma).float()).square().flatten(1).mean(1)
    subject, kind = error[:batch].mean(), error[batch:].mean()
    return {"loss": subject + PRIOR_WEIGHT * kind, "subject": subject, "kind": kind}


def train(lesson: Lesson, folder: Path, optimisation: RunConfig, rank: int = RANK) -> Adapter:
    """Train, or continue, an adapter in its folder."""
    torch.manual_seed(0)
    change = LowRank(lesson.unet, rank)

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        return subject_loss(lesson, change, optimisation.batch, draws)

    Run(folder, change, optimisation).train(loss)
    change.load_state_dict(averaged(folder))
    return Adapter(lesson.word, lesson.kind, fingerprint(lesson.unet), change.layers())


@torch.no_grad()
def measured(lesson: Lesson, adapter: Adapter) -> dict[str, float]:
    """Mean squared error of v with the adapter over that without, at eight levels.

    subject_error_ratio  on the subject's pictures; below 1 it was learned
    kind_error_ratio     on others of its kind; near 1 they were kept
    """
    ratios = {}
    for name, latents, prompt in (
        ("subject", lesson.own, f"a {lesson.word} {lesson.kind}"),
        ("kind", lesson.prior, f"a {lesson.kind}"),
    ):
        told = lesson.told([prompt] * len(latents))
        with adapted(lesson.unet, adapter):
            changed = _error(lesson.unet, latents, told)
        ratios[f"{name}_error_ratio"] = changed / _error(lesson.unet, latents, told)
    return ratios


def _error(unet: UNet, latents: Tensor, told: Conditions) -> float:
    generator, total = torch.Generator().manual_seed(11), 0.0
    for part in range(1, 9):
        log_snr = cosine_lambda(torch.full((len(latents),), part / 9, dtype=torch.float64))
        sigma = sigma_of(log_snr)
        eps = torch.randn(latents.shape, generator=generator)
        v = unet(noised(latents, eps, sigma).float(), log_snr.float(), told, moving=False)
        total += float((v - v_of(latents, eps, sigma)).square().mean())
    return total


def main(
    pictures: Annotated[list[Path], typer.Argument(help="3 to 8 pictures of the subject.")],
    word: Annotated[str, typer.Option(help="The rare word that shall call it.")] = "sks",
    kind: Annotated[str, typer.Option(help="What it is, in a word of the model's.")] = "dog",
    out: Annotated[Path, typer.Option(help="Adapter file.")] = Path("adapter.safetensors"),
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 400,
    folder: Annotated[Path | None, typer.Option(help="Where the run lives.")] = None,
    preset: Annotated[Path, typer.Option(help="Preset to teach.")] = Path("models/pocket"),
    batch: int = 4,
    learning_rate: float = 2e-3,
) -> None:
    """Teach, or go on teaching, the preset's base a subject."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing
    try:
        given = read_pictures(pictures)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    model = load_preset(preset)
    own = encoded(model.autoencoder, given, 64)
    prior = drawn_prior(model.unet, model.text, kind, own, PRIOR_PICTURES, PRIOR_STEPS)
    lesson = Lesson(model.unet, model.text, own, prior, word, kind)
    where = folder or Path("runs") / f"personal-{word}"
    optimisation = RunConfig(steps, batch, learning_rate, warmup=20, ema_decay=0.98)
    adapter = train(lesson, where, optimisation)
    write_scores(where, measured(lesson, adapter))
    write_adapter(adapter, out)


if __name__ == "__main__":
    typer.run(main)
