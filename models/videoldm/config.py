"""Every number of the Video LDM family's architecture, as frozen dataclasses.

A preset's `config.json` holds one `VideoLDMConfig`. Deployment settings and request limits live
elsewhere (worker settings, `models.catalog`).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True)
class AutoencoderConfig:
    """Per-frame KL autoencoder with factor f = patch * 2."""

    patch: int = 2  # pixels folded into channels before the first layer; 1..4
    latent_channels: int = 4  # c; 4..16
    encoder_widths: tuple[int, int] = (32, 64)  # at H/patch and at H/f
    decoder_widths: tuple[int, int] = (48, 96)  # at H/patch and at H/f
    encoder_blocks: tuple[int, int] = (1, 1)  # residual blocks at each of the two sizes; 1..4
    decoder_blocks: tuple[int, int] = (1, 2)
    latent_mean: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # per channel, measured after training
    latent_std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        return self.patch * 2


@dataclass(frozen=True)
class UNetConfig:
    """Space-time U-Net: one level per entry of `widths`, each half the size of the one before."""

    latent_channels: int = 4  # c
    patch: int = 2  # latent cells folded into channels before the first level; 1 or 2
    widths: tuple[int, ...] = (96, 192)  # per level, multiples of head_width
    blocks: tuple[int, ...] = (1, 1)  # residual blocks per level on the way down; one more up
    spatial_attention: tuple[bool, ...] = (True, True)  # per level
    temporal_attention: tuple[bool, ...] = (True, True)  # per level
    head_width: int = 32  # channels per attention head
    embed_width: int = 256  # width of the conditioning vector
    text_width: int = 384  # d, of the frozen text encoder
    text_slots: int = 4  # learned queries that read the prompt into the conditioning vector
    norm_groups: int = 16
    trained_frames: int = 16  # attention in time is limited to +-8 frames beyond this
    min_gap_s: float = 1 / 24  # smallest distance of two frames
    max_clip_s: float = 4.0  # longest clip


@dataclass(frozen=True)
class TextConfig:
    """Frozen sentence encoder: MiniLM-L6, a BERT with post-layer normalisation."""

    vocabulary: int = 30522
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    positions: int = 512
    max_tokens: int = 64  # of a prompt; a longer one is refused


@dataclass(frozen=True)
class VideoLDMConfig:
    """One preset of the family."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    schedule: str = "cosine"  # or "zero_snr"
    tasks: tuple[str, ...] = ("text",)  # kinds the weights were trained for
    abilities: tuple[str, ...] = ()  # trained besides kinds of task: "sketch"


@dataclass(frozen=True)
class InterpolatorConfig:
    """Temporal interpolation: frames between two neighbouring keys, in the base's latents.

    It is told no words, since the keys show what moves; one null token fills their place.
    """

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            widths=(64, 128),
            embed_width=128,
            text_width=32,
            text_slots=1,
            trained_frames=5,
            min_gap_s=1 / 96,
            max_clip_s=1.0,
        )
    )
    infill: int = 3  # frames made in a gap at once; 1..7
    residual_gain: float = 4.0  # of what frames have over a blend of their keys


@dataclass(frozen=True)
class TemporalDecoderConfig:
    """What the temporal decoder adds to the image decoder."""

    norm_groups: int = 8  # dividing both of the decoder's widths
    chunk: int = 48  # frames decoded at once, besides the overlap


@dataclass(frozen=True)
class UpsamplerConfig:
    """Spatial upsampling: a latent model at the target size, with an autoencoder of its own.

    That one codes what a bicubic enlargement lacks, eight pixels to a latent cell, so that
    decoding a large frame is cheap and the low-resolution frame sets a floor under the result.
    """

    autoencoder: AutoencoderConfig = field(
        default_factory=lambda: AutoencoderConfig(
            patch=4,
            latent_channels=8,
            decoder_widths=(32, 64),
            latent_mean=(0.0,) * 8,
            latent_std=(1.0,) * 8,
        )
    )
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            latent_channels=8,
            widths=(64, 96),
            spatial_attention=(False, False),  # patches are smaller than frames
            temporal_attention=(False, True),
            embed_width=128,
            text_width=32,
            text_slots=1,
            trained_frames=8,
        )
    )
    factor: int = 4  # output sides over input sides; a divisor of the autoencoder's factor
    chunk: int = 8  # frames made at once
    overlap: int = 2  # of them given, the last of the chunk before
    low_sigma: float = 0.05  # noise on the low-resolution clip when sampling; 0..0.3
    # Detail is magnified before it is coded: its deviation is a thirtieth of a picture's, and lost
    # in what a step of the optimiser moves the decoder's last layer by.
    detail_gain: float = 8.0
    enlarger_width: int = 48  # channels of the regression that denoising begins with
    enlarger_blocks: int = 3
    start: float = 0.2  # schedule coordinate u, in (0, 1], to which the estimate is noised

    @property
    def fold(self) -> int:
        """Side of the low-resolution pixels that fall on one latent cell."""
        return self.autoencoder.factor // self.factor


@dataclass(frozen=True)
class StudentConfig:
    """A distilled base: the base's U-Net, told the guidance scale and how many steps it has."""

    steps: tuple[int, ...] = (8, 4)  # the only step counts it can sample with
    guidance: tuple[float, float] = (1.0, 6.0)  # scales it was trained for


StageConfig = InterpolatorConfig | TemporalDecoderConfig | UpsamplerConfig | StudentConfig
Stage = TypeVar("Stage", InterpolatorConfig, TemporalDecoderConfig, UpsamplerConfig, StudentConfig)


def read_config(path: Path) -> VideoLDMConfig:
    """The preset in a `config.json`.

    raises ValueError if a field is missing, unknown, or no JSON
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return VideoLDMConfig(
            autoencoder=AutoencoderConfig(**_tuples(fields["autoencoder"])),
            unet=UNetConfig(**_tuples(fields["unet"])),
            text=TextConfig(**_tuples(fields["text"])),
            schedule=fields["schedule"],
            tasks=tuple(fields["tasks"]),
            abilities=tuple(fields.get("abilities", ())),
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a Video LDM config: {error}") from error


def write_config(config: VideoLDMConfig, path: Path) -> None:
    """Write a preset as JSON that `read_config` reads back equal."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def read_stage(path: Path, stage: type[Stage]) -> Stage:
    """The config of one optional stage of a preset.

    raises ValueError if a field is missing, unknown, or no JSON
    """
    try:
        fields = _tuples(json.loads(path.read_text(encoding="utf-8")))
        for part, kind in (("unet", UNetConfig), ("autoencoder", AutoencoderConfig)):
            if part in fields:
                fields[part] = kind(**_tuples(fields[part]))
        return stage(**fields)
    except (AttributeError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a {stage.__name__}: {error}") from error


def write_stage(config: StageConfig, path: Path) -> None:
    """Write a stage's config as JSON that `read_stage` reads back equal."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
