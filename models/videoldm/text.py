"""Frozen sentence encoder: a prompt to one vector a token.

MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957), a six-layer BERT (Devlin et al. 2018,
arXiv:1810.04805); pretrained weights, never trained here. English only.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.config import TextConfig

_EPSILON = 1e-12


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by normalisation (post-norm)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.norm_attended = nn.LayerNorm(config.width, eps=_EPSILON)
        self.inlet = nn.Linear(config.width, config.hidden)
        self.outlet = nn.Linear(config.hidden, config.width)
        self.norm_out = nn.LayerNorm(config.width, eps=_EPSILON)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (b, l, d), allowed (b, 1, 1, l) -> (b, l, d)"""
        query, key, value = rearrange(
            self.query_key_value(x), "b l (three k d) -> three b k l d", three=3, k=self.heads
        )
        read = functional.scaled_dot_product_attention(query, key, value, allowed)
        x = self.norm_attended(x + self.attended(rearrange(read, "b k l d -> b l (k d)")))
        return self.norm_out(x + self.outlet(functional.gelu(self.inlet(x))))


class SentenceEncoder(nn.Module):
    """Token ids to the last layer's vectors."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.segment = nn.Parameter(torch.zeros(config.width))
        self.norm = nn.LayerNorm(config.width, eps=_EPSILON)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (b, l) int64, mask (b, l) bool -> (b, l, d)"""
        places = self.positions(torch.arange(ids.shape[1], device=ids.device))
        x = self.norm(self.words(ids) + places + self.segment)
        allowed = rearrange(mask, "b l -> b 1 1 l")
        for layer in self.layers:
            x = layer(x, allowed)
        return x


class TextEncoder:
    """Tokeniser and encoder together: prompts in, vectors and mask out."""

    def __init__(self, tokenizer: Tokenizer, encoder: SentenceEncoder, max_tokens: int) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder
        self.max_tokens = max_tokens
        tokenizer.no_padding()
        tokenizer.no_truncation()

    def count(self, prompt: str) -> int:
        """Tokens of a prompt."""
        return len(self.tokenizer.encode(prompt).ids)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode prompts of at most `max_tokens`; an empty one becomes the null prompt.

        returns  (b, l, d) float32, zero where the mask is not; (b, l) bool, all False where empty
        """
        rows = [self.tokenizer.encode(prompt).ids if prompt.strip() else [] for prompt in prompts]
        length = max(1, *(len(row) for row in rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        counts = torch.tensor([len(row) for row in rows])
        mask = torch.arange(length)[None] < counts[:, None]
        device = self.encoder.segment.device
        ids, mask = ids.to(device), mask.to(device)
        seen = mask.clone()
        seen[:, 0] = True  # a row of padding alone still needs one token to attend to
        return self.encoder(ids, seen).float() * mask[..., None], mask


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokeniser in a `tokenizer.json`."""
    return Tokenizer.from_file(str(path))
