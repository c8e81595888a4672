"""Every number of the Video LDM family's architecture, as frozen dataclasses.

A preset's `config.json` holds one `VideoLDMConfig`. Deployment settings and request limits live
elsewhere (worker settings, `models.catalog`).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


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
    max_tokens: int = 64  # of a prompt; more are cut off and reported


@dataclass(frozen=True)
class VideoLDMConfig:
    """One preset of the family."""

    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextConfig = field(default_factory=TextConfig)
    schedule: str = "cosine"  # or "zero_snr"
    tasks: tuple[str, ...] = ("text",)  # abilities the weights were trained for


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
        )
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a Video LDM config: {error}") from error


def write_config(config: VideoLDMConfig, path: Path) -> None:
    """Write a preset as JSON that `read_config` reads back equal."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
