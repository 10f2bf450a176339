"""GPT-2: the decoder-only transformer of Radford et al. (2019), section 2.3, in the shape that nanoGPT made common."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import Refused

INIT_STD = 0.02  # of all weights, as in OpenAI's code
NO_TARGET = -100  # a target that counts for nothing (torch's own ignore_index)


class BadShape(Refused, ValueError):
    """Sizes that make no network."""


class Attention(nn.Module):
    """Causal self-attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        batch, length, width = x.shape
        qkv = self.qkv(x)  # (B, T, C) -> (B, T, 3C)
        qkv = qkv.view(batch, length, 3, self.heads, width // self.heads)  # -> (B, T, 3, heads, C/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # -> 3 x (B, heads, T, C/heads)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        y = y.transpose(1, 2).reshape(batch, length, width)  # (B, heads, T, C/heads) -> (B, T, C)
        out: Tensor = self.out(y)
        return out


class Block(nn.Module):
    """Attention, then a two-layer network four times as wide; each reads a normalized copy and adds to the stream."""

    def __init__(self, width: int, heads: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, bias=bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attention(self.norm1(x)))
        hidden = F.gelu(self.up(self.norm2(x)), approximate="tanh")  # (B, T, C) -> (B, T, 4C); tanh as in OpenAI's code
        out: Tensor = x + self.drop(self.down(hidden))  # -> (B, T, C)
        return out


class GPT2(nn.Module):
    """Token and position embeddings, blocks, a last norm; the output shares the token embedding's matrix.

    12 layers, 12 heads, width 768, block 1024, vocabulary 50257 and biases make the published 124,439,808 parameters.

    Raises:
        BadShape: `heads` does not divide `width`.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        width: int,
        block_size: int,
        vocabulary: int = 256,
        dropout: float = 0.0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            fitting = ", ".join(str(count) for count in range(1, min(width, 2 * heads) + 1) if width % count == 0)
            raise BadShape(f"GPT2_HEADS={heads}: does not divide GPT2_WIDTH={width}. Use one of: {fitting}")
        self.block_size = block_size
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block_size, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, bias=bias, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.apply(_initialize)
        self._scale_residual_projections()

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocabulary) of `tokens` (B, T), T <= block; given `targets` (B, T) the mean loss () in nats.

        A target of -100 counts for nothing. The loss is computed in here so that DDP and torch.compile see all of it.
        """
        position = torch.arange(tokens.shape[1], device=tokens.device)  # (T,)
        x = self.drop(self.tokens(tokens) + self.positions(position))  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)  # (B, T, C) -> (B, T, V)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)

    def _scale_residual_projections(self) -> None:
        """Start what is added to the stream at 1/sqrt(additions), so that depth does not widen it (section 2.3)."""
        std = INIT_STD / math.sqrt(2 * len(self.blocks))
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "down.weight")):
                nn.init.normal_(weight, std=std)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
