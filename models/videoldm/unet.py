"""The factorised space-time U-Net that predicts v.

Per block: spatial residual, temporal residual, spatial transformer, temporal transformer; down- and
up-sampling touch space only. Ho et al. 2022 (arXiv:2204.03458), section 3, with the mixed temporal
layers of Blattmann et al. 2023 (arXiv:2304.08818), section 3.1. It knows nothing of samplers.

Differs: temporal layers start as exact identities (Video LDM relies on the mixing scalar alone),
and learned queries read the prompt into the conditioning vector besides cross-attention.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.attention import (
    SpatialTransformer,
    TemporalTransformer,
    frame_window,
    time_phases,
)
from models.videoldm.conditioning import Conditions, Kind, Rate
from models.videoldm.config import UNetConfig
from models.videoldm.layers import (
    Downsample,
    Mixer,
    SpatialResidual,
    TemporalResidual,
    Upsample,
    sinusoid,
    zeroed,
)

LAMBDA_RANGE = 20.0  # log-SNR told to the network is clamped to +-20

Branch = Callable[[Tensor, "Context"], Tensor]


@dataclass(frozen=True)
class Context:
    """What every block reads: embeddings and text, prepared once a forward pass."""

    spatial: Tensor  # (b, t + r, e) per frame, with text_s
    temporal: Tensor  # (b, t, e) per frame, with text_t
    text_s: Tensor  # (b, l, d)
    text_t: Tensor  # (b, l, d)
    text_mask: Tensor  # (b, l) with at least one True a row
    phases: tuple[Tensor, Tensor]  # (b, t, head_width / 2) each
    window: Tensor | None  # (t, t)
    references: int  # r
    reference_mask: Tensor | None  # (b, r)
    moving: bool  # whether temporal layers run


class SpaceTimeBlock(nn.Module):
    """One residual block in space and time, then attention in space and time."""

    def __init__(self, width_in: int, width: int, level: int, config: UNetConfig) -> None:
        super().__init__()
        groups, embed = config.norm_groups, config.embed_width
        self.residual = SpatialResidual(width_in, width, groups, embed)
        self.temporal_residual = TemporalResidual(width, groups, embed)
        self.residual_mix = Mixer()
        heads = (width, config.head_width, config.text_width)
        self.transformer = SpatialTransformer(*heads) if config.spatial_attention[level] else None
        self.temporal_transformer = (
            TemporalTransformer(*heads) if config.temporal_attention[level] else None
        )
        self.attention_mix = Mixer()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (b, f, c, h, w), the last `references` frames of which are reference pictures."""
        b, _f, _, _h, _w = x.shape
        embedding = rearrange(context.spatial, "b f e -> (b f) e")
        flat = self.residual(rearrange(x, "b f c h w -> (b f) c h w"), embedding)
        x = rearrange(flat, "(b f) c h w -> b f c h w", b=b)
        if context.moving:
            x = self._in_time(x, context, self.residual_mix, self._residual_branch)
        if self.transformer is not None:
            x = self.transformer(
                x, context.text_s, context.text_mask, context.references, context.reference_mask
            )
        if context.moving and self.temporal_transformer is not None:
            x = self._in_time(x, context, self.attention_mix, self._attention_branch)
        return x

    def _in_time(self, x: Tensor, context: Context, mix: Mixer, branch: Branch) -> Tensor:
        """Apply a temporal branch to the target frames; references pass by."""
        t = x.shape[1] - context.references
        target = rearrange(x[:, :t], "b t c h w -> b c t (h w)")
        mixed = mix(target, branch(target, context))
        frames = rearrange(mixed, "b c t (h w) -> b t c h w", h=x.shape[-2])
        return torch.cat([frames, x[:, t:]], 1) if context.references else frames

    def _residual_branch(self, x: Tensor, context: Context) -> Tensor:
        return self.temporal_residual(x, context.temporal)

    def _attention_branch(self, x: Tensor, context: Context) -> Tensor:
        assert self.temporal_transformer is not None
        return self.temporal_transformer(
            x, context.text_t, context.text_mask, context.phases, context.window
        )


class TextSlots(nn.Module):
    """Learned queries that read the prompt's tokens into the conditioning vector."""

    def __init__(self, slots: int, text_width: int, embed: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(slots, text_width) * text_width**-0.5)
        self.key = nn.Linear(text_width, text_width, bias=False)
        self.outlet = nn.Linear(slots * text_width, embed)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """text (b, l, d), mask (b, l) -> (b, embed)"""
        queries = repeat(self.queries, "s d -> b s d", b=len(text))
        allowed = rearrange(mask, "b l -> b 1 l")
        read = functional.scaled_dot_product_attention(queries, self.key(text), text, allowed)
        return self.outlet(rearrange(read, "b s d -> b (s d)"))


class Embedder(nn.Module):
    """Noise level, rate, given frames and prompt to one vector a frame."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        embed = config.embed_width
        self.embed = embed
        self.noise = nn.Sequential(nn.Linear(embed, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.fps = nn.Sequential(
            nn.Linear(embed, embed), nn.SiLU(), zeroed(nn.Linear(embed, embed))
        )
        self.frame_sigma = nn.Sequential(
            nn.Linear(embed, embed), nn.SiLU(), zeroed(nn.Linear(embed, embed))
        )
        self.kind = zeroed(nn.Embedding(len(Kind), embed))
        self.rate = zeroed(nn.Embedding(len(Rate), embed))
        self.slots = TextSlots(config.text_slots, config.text_width, embed)

    def forward(
        self, noise_lambda: Tensor, conditions: Conditions, text: Tensor, mask: Tensor
    ) -> Tensor:
        """noise_lambda (b, f), text (b, l, d), mask (b, l) -> (b, f, embed)"""
        noise = self.noise(sinusoid(noise_lambda.clamp(-LAMBDA_RANGE, LAMBDA_RANGE), self.embed))
        fps = self.fps(sinusoid(conditions.log2_fps * 100, self.embed))
        clip = fps + self.rate(conditions.rate) + self.slots(text, mask)
        extra = noise_lambda.shape[1] - conditions.kind.shape[1]
        kind = functional.pad(conditions.kind, (0, extra), value=int(Kind.REFERENCE))
        sigma = functional.pad(conditions.frame_sigma, (0, extra))
        given = self.kind(kind) + self.frame_sigma(sinusoid(sigma * 1000, self.embed)) * (
            kind != int(Kind.NONE)
        ).unsqueeze(-1)
        return noise + given + clip[:, None]


class Clock(nn.Module):
    """Adds a frame's place in its clip to its conditioning vector, for temporal layers.

    The place is counted from the clip's middle, so shifting all times changes nothing. Where a
    subject is follows from the frame's place and the words together, so the two meet in a layer.
    """

    def __init__(self, embed: int) -> None:
        super().__init__()
        self.place = nn.Linear(embed, embed)
        self.joint = nn.Sequential(
            nn.SiLU(), nn.Linear(embed, embed), nn.SiLU(), zeroed(nn.Linear(embed, embed))
        )

    def forward(self, embedding: Tensor, times: Tensor) -> Tensor:
        """embedding (b, t, embed), times (b, t) seconds -> (b, t, embed)"""
        middle = (times.amin(1, keepdim=True) + times.amax(1, keepdim=True)) / 2
        place = self.place(sinusoid((times - middle) * 8, embedding.shape[-1]))
        return embedding + self.joint(embedding + place)


class UNet(nn.Module):
    """v of noisy latents under conditions."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.null_text = nn.Parameter(torch.randn(config.text_width) * 0.02)
        self.embedder = Embedder(config)
        self.clock = Clock(config.embed_width)
        folded = config.patch**2
        width_in = (2 * config.latent_channels + 1) * folded
        self.inlet = nn.Conv2d(width_in, config.widths[0], 3, padding=1)
        skips = self._build_down(config)
        self.middle = SpaceTimeBlock(
            config.widths[-1], config.widths[-1], len(config.widths) - 1, config
        )
        self._build_up(config, skips)
        self.norm = nn.GroupNorm(config.norm_groups, config.widths[0])
        self.outlet = zeroed(
            nn.Conv2d(config.widths[0], config.latent_channels * folded, 3, padding=1)
        )

    def _build_down(self, config: UNetConfig) -> list[int]:
        self.down_blocks = nn.ModuleList()
        self.downs = nn.ModuleList()
        width, skips = config.widths[0], [config.widths[0]]
        for level, wide in enumerate(config.widths):
            blocks = nn.ModuleList()
            for _ in range(config.blocks[level]):
                blocks.append(SpaceTimeBlock(width, wide, level, config))
                width = wide
                skips.append(width)
            self.down_blocks.append(blocks)
            if level + 1 < len(config.widths):
                self.downs.append(Downsample(width, width))
                skips.append(width)
        return skips

    def _build_up(self, config: UNetConfig, skips: list[int]) -> None:
        self.up_blocks = nn.ModuleList()
        self.ups = nn.ModuleList()
        width = config.widths[-1]
        for level in reversed(range(len(config.widths))):
            blocks = nn.ModuleList()
            for _ in range(config.blocks[level] + 1):
                wide = config.widths[level]
                blocks.append(SpaceTimeBlock(width + skips.pop(), wide, level, config))
                width = wide
            self.up_blocks.append(blocks)
            if level:
                self.ups.append(Upsample(width, width))

    def temporal_parameters(self) -> list[nn.Parameter]:
        """What video training adds to an image model: temporal layers and their mixers."""
        marks = ("temporal_", "_mix", "embedder.fps", "embedder.rate", "clock")
        return [p for name, p in self.named_parameters() if any(mark in name for mark in marks)]

    def forward(
        self, x: Tensor, noise_lambda: Tensor, conditions: Conditions, moving: bool = True
    ) -> Tensor:
        """Predict v.

        x             (b, c, t, h, w) noisy latents
        noise_lambda  (b,) log-SNR
        moving        False runs the image model: every frame by itself
        returns       (b, c, t, h, w)
        """
        frames, lambdas = self._with_references(x, noise_lambda, conditions)
        context = self._context(lambdas, conditions, moving)
        b, p = len(x), self.config.patch
        hidden = rearrange(frames, "b c f (h p) (w q) -> (b f) (c p q) h w", p=p, q=p)
        hidden = rearrange(self.inlet(hidden), "(b f) c h w -> b f c h w", b=b)
        hidden = self._through(hidden, context)[:, : x.shape[2]]
        flat = rearrange(hidden, "b t c h w -> (b t) c h w")
        v = self.outlet(functional.silu(self.norm(flat)))
        return rearrange(v, "(b t) (c p q) h w -> b c t (h p) (w q)", b=b, p=p, q=p)

    def _with_references(
        self, x: Tensor, noise_lambda: Tensor, conditions: Conditions
    ) -> tuple[Tensor, Tensor]:
        """Input channels of target and reference frames (b, 2c+1, f, h, w); log-SNR (b, f)."""
        joined = torch.cat([x, conditions.frames, conditions.mask], 1)
        lambdas = repeat(noise_lambda, "b -> b t", t=x.shape[2])
        if conditions.references is None:
            return joined, lambdas
        pictures = conditions.references
        ones = torch.ones_like(pictures[:, :1])
        extra = torch.cat([pictures, pictures, ones], 1)
        clean = torch.full_like(lambdas[:, :1], LAMBDA_RANGE).expand(-1, pictures.shape[2])
        return torch.cat([joined, extra], 2), torch.cat([lambdas, clean], 1)

    def _context(self, lambdas: Tensor, conditions: Conditions, moving: bool) -> Context:
        config, t = self.config, conditions.times.shape[1]
        text_s, mask = self._null_filled(conditions.text_s, conditions.text_mask)
        same = conditions.text_t is conditions.text_s
        text_t = text_s if same else self._null_filled(conditions.text_t, conditions.text_mask)[0]
        spatial = self.embedder(lambdas, conditions, text_s, mask)
        temporal = spatial if same else self.embedder(lambdas, conditions, text_t, mask)
        references = lambdas.shape[1] - t
        return Context(
            spatial=spatial,
            temporal=self.clock(temporal[:, :t], conditions.times) if moving else temporal[:, :t],
            text_s=text_s,
            text_t=text_t,
            text_mask=mask,
            phases=time_phases(
                conditions.times, config.head_width, config.min_gap_s, config.max_clip_s
            ),
            window=frame_window(t, config.trained_frames, lambdas.device),
            references=references,
            reference_mask=conditions.reference_mask,
            moving=moving,
        )

    def _null_filled(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Put the learned null token into rows without any real token."""
        empty = ~mask.any(1)
        first = torch.where(empty[:, None], self.null_text.to(text.dtype), text[:, 0])
        filled = torch.cat([first[:, None], text[:, 1:]], 1)
        opened = torch.cat([(mask[:, 0] | empty)[:, None], mask[:, 1:]], 1)
        return filled, opened

    def _through(self, hidden: Tensor, context: Context) -> Tensor:
        skips = [hidden]
        for level in range(len(self.config.widths)):
            for block in self._blocks(self.down_blocks, level):
                hidden = block(hidden, context)
                skips.append(hidden)
            if level < len(self.downs):
                hidden = _framewise(self.downs[level], hidden)
                skips.append(hidden)
        hidden = self.middle(hidden, context)
        for level in range(len(self.config.widths)):
            for block in self._blocks(self.up_blocks, level):
                hidden = block(torch.cat([hidden, skips.pop()], 2), context)
            if level < len(self.ups):
                hidden = _framewise(self.ups[level], hidden)
        return hidden

    @staticmethod
    def _blocks(levels: nn.ModuleList, level: int) -> nn.ModuleList:
        blocks = levels[level]
        assert isinstance(blocks, nn.ModuleList)
        return blocks


def _framewise(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply an image layer to each frame: (b, f, c, h, w)."""
    flat = layer(rearrange(x, "b f c h w -> (b f) c h w"))
    return rearrange(flat, "(b f) c h w -> b f c h w", b=x.shape[0])
