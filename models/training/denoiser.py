"""Trains the base network: first on images, then on clips.

`python -m models.training.denoiser images --steps N`, then `… clips --steps N`, as Video LDM does
(arXiv:2304.08818, section 3.1): the image model is made a video model by its temporal layers.
Both stages resume when called again and end by writing the averaged weights into the preset.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.training.batches import ClipBatch, ClipMaker, named_bank, stranger_bank
from models.training.concepts import ADDED, EDITION
from models.training.conditions import GIVEN
from models.training.loop import Ahead, Draws, Run, RunConfig, averaged, channels_last
from models.training.sprites import open_sheet
from models.training.world import World, WorldConfig
from models.videoldm.autoencoder import Autoencoder
from models.videoldm.conditioning import Conditions, frame_times, text_only
from models.videoldm.config import VideoLDMConfig, read_config, write_config
from models.videoldm.diffusion import (
    addressed_noise,
    cosine_lambda,
    denoiser,
    dpmpp_grid,
    lambda_of,
    noised,
    sigma_of,
    v_of,
)
from models.videoldm.guidance import Branch, guide
from models.videoldm.packing import unpacked
from models.videoldm.samplers import sample_dpmpp_2m
from models.videoldm.text import SentenceEncoder, TextEncoder, open_tokenizer
from models.videoldm.unet import UNet

BANK_ROWS, STRANGER_ROWS = 16_000, 6_000
STEP_FRAMES = 64  # frames in a step of the clip stage, over all its clips
STEP_IMAGES = 96  # in a step of single frames
# (frames, frames per second) and how often a step is of that layout; one frame is an image batch
LAYOUTS = (
    ((1, 8.0), 0.55),
    ((4, 2.0), 0.18),
    ((8, 4.0), 0.06),
    ((13, 6.0), 0.1),  # key frames of the stages after the base
    ((16, 8.0), 0.09),
    ((8, 2.0), 0.02),
)
SUBJECT_WEIGHT = 5.0  # of the loss where the subject is: it is small, and what prompts are about
REFERENCE_BATCHES = 0.4
SKETCH_BATCHES = 0.25  # of clips; a single frame has no last one
# One look a subject: shown in two styles, mirrored or not and in many sizes, a small network spends
# its time on which of them a word means.
SHOWN = WorldConfig(animated_share=1.0, mirrored_share=0.0, sizes=(0.5, 0.62))
PREVIEW = (
    "a unicorn moving left over a sunset",
    "a penguin moving right in the snow",
    "a tiger moving up on a green background",
    "a bus moving fast right in a city",
    "a shark moving down over the sea",
    "a butterfly moving up and left over a meadow",
    "a rocket moving up in the night",
    "a panda standing still in a forest",
)

app = typer.Typer(add_completion=False)


@app.callback()
def begin_process() -> None:
    """Train the base network of a preset."""
    torch.set_flush_denormal(True)  # for the whole process: denormals are slow and worth nothing


def velocity_loss(unet: UNet, batch: ClipBatch, draws: Draws) -> Tensor:
    """Mean of ||v_hat - v||^2, with the noise level's u stratified over the batch.

    Frames of a clip repeat each other, so t of them show through noise as one would at t times the
    signal: log-SNR is lowered by log t, as Hoogeboom et al. 2023 (arXiv:2301.11093, eq. 4) lower
    it for larger pictures.
    """
    count, frames = len(batch.latents), batch.latents.shape[2]
    u = (torch.arange(count) + torch.rand(count, generator=draws.torch)) / count
    log_snr = cosine_lambda(u.double()) - math.log(frames)
    sigma = sigma_of(log_snr)
    eps = torch.randn(batch.latents.shape, generator=draws.torch)
    noisy = noised(batch.latents, eps, sigma).float()
    predicted = unet(noisy, log_snr.float(), batch.conditions, moving=frames > 1)
    error = (predicted.float() - v_of(batch.latents, eps, sigma).float()).square()
    return (error * batch.weight).mean() / batch.weight.mean()


class Workshop:
    """What both stages share: preset, frozen autoencoder, captions, world."""

    def __init__(
        self,
        preset: Path,
        folder: Path,
        concepts: tuple[str, ...],
        references: float = REFERENCE_BATCHES,
    ) -> None:
        self.preset = preset
        self.config: VideoLDMConfig = read_config(preset / "config.json")
        self.autoencoder = Autoencoder(self.config.autoencoder).eval().requires_grad_(False)
        self.autoencoder.load_state_dict(load_file(preset / "autoencoder.safetensors"))
        encoder = SentenceEncoder(self.config.text).eval().requires_grad_(False)
        encoder.load_state_dict(unpacked(load_file(preset / "text.safetensors")))
        tokenizer = open_tokenizer(preset / "tokenizer.json")
        self.text = TextEncoder(tokenizer, encoder, self.config.text.max_tokens)
        self.world = World(open_sheet(), replace(SHOWN, concepts=concepts))
        banks = folder.parent
        self.maker = ClipMaker(
            self.world,
            self.autoencoder,
            named_bank(self.world, self.text, BANK_ROWS, banks),
            mixture=GIVEN,
            strangers=stranger_bank(self.world, self.text, STRANGER_ROWS, banks),
            reference_batches=references,
            sketch_batches=SKETCH_BATCHES,
            subject_weight=SUBJECT_WEIGHT,
        )

    def unet(self) -> UNet:
        """A fresh network of the preset's shape."""
        torch.manual_seed(0)
        return channels_last(UNet(self.config.unet))

    def preview(self, unet: UNet, frames: int) -> Callable[[Path], None]:
        """Draws samples of fixed prompts: a row a prompt, every second frame of a clip."""

        def draw(path: Path) -> None:
            vectors, mask = self.text(PREVIEW)
            times = frame_times(frames, 8.0).expand(len(PREVIEW), -1)
            side = 64 // self.config.autoencoder.factor
            shape = (self.config.autoencoder.latent_channels, side, side)
            conditions = text_only(vectors, mask, times, 8.0, shape)
            clip = self._sampled(unet, conditions, shape, frames)
            shown = clip[:, :, ::2]
            pixels = rearrange((shown + 1) * 127.5, "b c t h w -> (b h) (t w) c")
            picture = Image.fromarray(pixels.round().byte().numpy())
            picture.resize((picture.width * 2, picture.height * 2)).save(path)

        return draw

    def _sampled(
        self, unet: UNet, conditions: Conditions, shape: tuple[int, int, int], frames: int
    ) -> Tensor:
        count = len(PREVIEW)
        c, h, w = shape
        noise = torch.stack(
            [addressed_noise((c, frames, h, w), seed=index) for index in range(count)]
        )
        null = conditions.without_text()

        def predict_v(x: Tensor, sigma: float, branch: Branch) -> Tensor:
            log_snr = lambda_of(sigma).float().expand(count)
            return unet(x, log_snr, conditions if branch.text else null, frames > 1)

        denoise = denoiser(guide(predict_v, 3.0))
        return self.autoencoder.decode(sample_dpmpp_2m(denoise, noise, dpmpp_grid(16)))


def publish(unet: UNet, preset: Path) -> None:
    """Write the network, as float16, and its config into the preset."""
    halves = {name: value.half().contiguous() for name, value in unet.state_dict().items()}
    save_file(halves, preset / "unet.safetensors")
    path = preset / "config.json"
    write_config(replace(read_config(path), unet=unet.config), path)


@app.command()
def images(
    steps: int = 4000,
    folder: Path = Path("runs/images"),
    preset: Path = Path("models/pocket"),
    batch: int = 96,
    learning_rate: float = 2e-3,
) -> None:
    """Train the image model on single frames."""
    shop = Workshop(preset, folder, EDITION)
    unet = shop.unet()
    for parameter in unet.temporal_parameters():
        parameter.requires_grad_(False)
    run = Run(folder, unet, RunConfig(steps, batch, learning_rate, warmup=50, ema_decay=0.995))
    ahead = Ahead(lambda draws: shop.maker.images(batch, draws))

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        return {"loss": velocity_loss(unet, ahead.take(step), draws)}

    run.train(loss, shop.preview(unet, 1))


@app.command()
def clips(
    steps: int = 3000,
    folder: Path = Path("runs/clips"),
    begin: Path = Path("runs/images"),
    preset: Path = Path("models/pocket"),
    learning_rate: float = 1.5e-3,
    cooldown: Annotated[float, typer.Option(help="Share of steps with a falling rate.")] = 0.25,
    frozen: Annotated[bool, typer.Option(help="Keep the image model as it is.")] = False,
    references: Annotated[
        float, typer.Option(help="Share of steps that show the subject elsewhere too.")
    ] = REFERENCE_BATCHES,
    seed: Annotated[int, typer.Option(help="Of all that is drawn: another one, other clips.")] = 0,
) -> None:
    """Train the temporal layers, and unless frozen the rest with them, on clips and images."""
    shop = Workshop(preset, folder, (*EDITION, *ADDED), references)
    unet = shop.unet()
    unet.load_state_dict(averaged(begin))
    temporal = {id(parameter) for parameter in unet.temporal_parameters()}
    for parameter in unet.parameters():
        parameter.requires_grad_(not frozen or id(parameter) in temporal)
    config = RunConfig(
        steps,
        STEP_FRAMES,
        learning_rate,
        warmup=50,
        cooldown=cooldown,
        ema_decay=0.995,
        seed=seed,
    )
    run = Run(folder, unet, config)
    ahead = Ahead(lambda draws: mixed(shop.maker, draws), seed)

    def loss(step: int, draws: Draws) -> dict[str, Tensor]:
        return {"loss": velocity_loss(unet, ahead.take(step), draws)}

    run.train(loss, shop.preview(unet, 16))
    unet.load_state_dict(averaged(folder))
    publish(unet, preset)


@app.command()
def blend(
    share: float,
    folder: Path = Path("runs/clips"),
    begin: Path = Path("runs/begin"),
    preset: Path = Path("models/pocket"),
) -> None:
    """Put a mean of two runs' weights into the preset: a share of a run's own, the rest of those it
    began with. Better than either where they lie in one basin (Wortsman et al. 2022,
    arXiv:2203.05482)."""
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"a share from 0 to 1, not {share:g}")
    before, after = averaged(begin), averaged(folder)
    unet = UNet(read_config(preset / "config.json").unet)
    unet.load_state_dict({name: value.lerp(after[name], share) for name, value in before.items()})
    publish(unet, preset)


def mixed(maker: ClipMaker, draws: Draws) -> ClipBatch:
    """A batch of images, or of clips of one length over the same two seconds.

    Sparse clips teach where things go at a fraction of the cost; the network is told the rate.
    """
    layouts = [layout for layout, _ in LAYOUTS]
    frames, fps = draws.python.choices(layouts, [share for _, share in LAYOUTS])[0]
    if frames == 1:
        return maker.images(STEP_IMAGES, draws)
    return maker.clips(STEP_FRAMES // frames, frames, fps, draws)


if __name__ == "__main__":
    app()
