"""Attention over space, over time and to text, in the three patterns of a factorised U-Net.

Ho et al. 2022 (arXiv:2204.03458), section 3; Blattmann et al. 2023 (arXiv:2304.08818), section 3.1.
All of it is `scaled_dot_product_attention` behind einops patterns.
"""

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.layers import zeroed

_WINDOW = 8  # frames to either side, once a clip is longer than those trained on


class Attention(nn.Module):
    """Multi-head attention of x to a context of its own width (or `context_width`)."""

    def __init__(self, width: int, head_width: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = width // head_width
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width or width, 2 * width, bias=False)
        self.outlet = zeroed(nn.Linear(width, width))

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        phases: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend.

        x        (n, q, width) queries
        context  (n, s, context_width)
        mask     broadcastable to (n, heads, q, s), True where attention is allowed
        phases   cosine and sine for rotary positions of q and s alike, (n, 1, q, head_width / 2)
        returns  (n, q, width)
        """
        query = rearrange(self.query(x), "n q (k d) -> n k q d", k=self.heads)
        key, value = rearrange(
            self.key_value(context), "n s (two k d) -> two n k s d", two=2, k=self.heads
        )
        if phases is not None:
            query, key = rotated(query, *phases), rotated(key, *phases)
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.outlet(rearrange(read, "n k q d -> n q (k d)"))


class FeedForward(nn.Module):
    """Gated feed-forward layer, silent at initialisation (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, factor: int = 2) -> None:
        super().__init__()
        self.inlet = nn.Linear(width, 2 * factor * width)
        self.outlet = zeroed(nn.Linear(factor * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        value, gate = self.inlet(x).chunk(2, -1)
        return self.outlet(value * functional.gelu(gate))


class SpatialTransformer(nn.Module):
    """Self-attention within a frame and to reference frames, text, feed-forward."""

    def __init__(self, width: int, head_width: int, text_width: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, head_width)
        self.norm_text = nn.LayerNorm(width)
        self.attend_text = Attention(width, head_width, text_width)
        self.norm_out = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self, x: Tensor, text: Tensor, text_mask: Tensor, references: int, ref_mask: Tensor | None
    ) -> Tensor:
        """Frames, the last `references` of which are reference pictures.

        x          (b, t + r, c, h, w)
        text       (b, l, d), text_mask (b, l) True for real tokens
        ref_mask   (b, r) True for references in use; None when there are none
        returns    as x; a reference frame sees only itself and the text
        """
        _b, frames, _, h, w = x.shape
        tokens = rearrange(x, "b f c h w -> b f (h w) c")
        tokens = tokens + self._within(self.norm_self(tokens), references, ref_mask)
        flat = rearrange(tokens, "b f s c -> b (f s) c")
        mask = rearrange(text_mask, "b l -> b 1 1 l")
        flat = flat + self.attend_text(self.norm_text(flat), text, mask)
        flat = flat + self.feed_forward(self.norm_out(flat))
        return rearrange(flat, "b (f h w) c -> b f c h w", f=frames, h=h, w=w)

    def _within(self, tokens: Tensor, references: int, ref_mask: Tensor | None) -> Tensor:
        b, frames, s, _ = tokens.shape
        own = rearrange(tokens, "b f s c -> (b f) s c")
        if not references or ref_mask is None:
            return rearrange(self.attend_self(own, own), "(b f) s c -> b f s c", b=b)
        t = frames - references
        targets = rearrange(tokens[:, :t], "b t s c -> (b t) s c")
        pictures = rearrange(tokens[:, t:], "b r s c -> (b r) s c")
        shared = repeat(tokens[:, t:], "b r s c -> (b t) (r s) c", t=t)
        seen = repeat(ref_mask, "b r -> (b t) 1 1 (r s)", t=t, s=s)
        always = torch.ones(*seen.shape[:-1], s, dtype=torch.bool, device=seen.device)
        read = self.attend_self(
            targets, torch.cat([targets, shared], 1), torch.cat([always, seen], -1)
        )
        alone = self.attend_self(pictures, pictures)
        return torch.cat(
            [
                rearrange(read, "(b t) s c -> b t s c", b=b),
                rearrange(alone, "(b r) s c -> b r s c", b=b),
            ],
            1,
        )


class TemporalTransformer(nn.Module):
    """Self-attention over time at each location, text, feed-forward; silent at initialisation."""

    def __init__(self, width: int, head_width: int, text_width: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, head_width)
        self.norm_text = nn.LayerNorm(width)
        self.attend_text = Attention(width, head_width, text_width)
        self.norm_out = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        text_mask: Tensor,
        phases: tuple[Tensor, Tensor],
        window: Tensor | None,
    ) -> Tensor:
        """The branch to add.

        x        (b, c, t, s), s locations
        text     (b, l, d), text_mask (b, l)
        phases   cosine and sine of the frame times, (b, t, head_width / 2) each
        window   (t, t) True where attention is allowed, or None
        returns  (b, c, t, s)
        """
        b, _, _t, s = x.shape
        begun = rearrange(x, "b c t s -> (b s) t c")
        spread = tuple(repeat(part, "b t d -> (b s) 1 t d", s=s) for part in phases)
        tokens = self.norm_self(begun)
        tokens = begun + self.attend_self(tokens, tokens, window, (spread[0], spread[1]))
        flat = rearrange(tokens, "(b s) t c -> b (s t) c", b=b)
        mask = rearrange(text_mask, "b l -> b 1 1 l")
        flat = flat + self.attend_text(self.norm_text(flat), text, mask)
        flat = flat + self.feed_forward(self.norm_out(flat))
        return rearrange(flat, "b (s t) c -> b c t s", s=s) - x


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34) of pairs (i, i + d/2)."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def time_phases(
    times: Tensor, head_width: int, min_gap_s: float, max_clip_s: float
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every frame's phases; only differences of times matter.

    Periods are log-spaced from two smallest gaps to four longest clips, so the set of phases never
    repeats within a clip.

    times    (b, t) seconds
    returns  two tensors (b, t, head_width / 2)
    """
    pairs = head_width // 2
    ladder = torch.linspace(0, 1, pairs, dtype=torch.float64, device=times.device)
    shortest, longest = 2 * min_gap_s, 4 * max_clip_s
    periods = shortest * (longest / shortest) ** ladder
    angle = (2 * math.pi * times.double()[..., None] / periods) % (2 * math.pi)
    return angle.cos().float(), angle.sin().float()


def frame_window(frames: int, trained_frames: int, device: torch.device) -> Tensor | None:
    """Which frames may attend to which, (t, t); None up to the trained length.

    Beyond it attention is limited to eight frames either side, as positions farther apart than a
    trained clip were never seen.
    """
    if frames <= trained_frames:
        return None
    index = torch.arange(frames, device=device)
    return (index[:, None] - index[None]).abs() <= _WINDOW
