"""GPT-2: the decoder-only transformer of Radford et al. (2019), section 2.3, in the shape that nanoGPT made common."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2.loss import NO_TARGET, cross_entropy
from lib.errors import Refused

__all__ = ["GPT2", "NO_TARGET", "BadShape"]

INIT_STD = 0.02  # of all weights, as in OpenAI's code
VOCABULARY_UNIT = 64  # the embedding has a multiple of as many rows, which matrix units like (nanoGPT, Karpathy 2023)
NEVER = -1e4  # the logit of a row that stands for no token: its chance is 0.0 exactly, in float16 too


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
        parts = self.qkv(x).split(width, dim=2)  # (B, T, C) -> 3 x (B, T, C)
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)  # -> (B, heads, T, C/heads)
            for part in parts
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        y = y.transpose(1, 2).reshape(batch, length, width)  # (B, heads, T, C/heads) -> (B, T, C)
        out: Tensor = self.out(y)
        return out


class Block(nn.Module):
    """Attention, then a two-layer network four times as wide; each reads a normalized copy and adds to the stream."""

    def __init__(self, width: int, heads: int, *, bias: bool, dropout: float, gelu_tanh: bool) -> None:
        super().__init__()
        self.approximate = "tanh" if gelu_tanh else "none"  # of GELU
        self.norm1 = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(width, heads, bias=bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(width, bias=bias)
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attention(self.norm1(x)))
        hidden = F.gelu(self.up(self.norm2(x)), approximate=self.approximate)  # (B, T, C) -> (B, T, 4C)
        out: Tensor = x + self.drop(self.down(hidden))  # -> (B, T, C)
        return out


class GPT2(nn.Module):
    """Token and position embeddings, blocks, a last norm; the output shares the token embedding's matrix.

    12 layers, 12 heads, width 768, block 1024, vocabulary 50257 and biases make the published 124,439,808 parameters,
    and 47 rows of the embedding that stand for no token: it is filled up to a multiple of 64. Their chance is always 0.
    `gelu_tanh` is GELU by tanh, as in OpenAI's code; PyTorch's CPU kernel for the exact one, nanoGPT's, is faster.
    The loss of `loss_chunk` tokens is computed at a time (0: of all), which costs no time and saves memory; see
    `gpt2.loss`.

    Raises:
        BadShape: `heads` does not divide `width`.
    """

    no_token: Tensor | None  # (rows,) added to the logits of the loss

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
        gelu_tanh: bool = False,
        loss_chunk: int = 0,
    ) -> None:
        super().__init__()
        if width % heads:
            fitting = ", ".join(str(count) for count in range(1, min(width, 2 * heads) + 1) if width % count == 0)
            raise BadShape(f"GPT2_HEADS={heads}: does not divide GPT2_WIDTH={width}. Use one of: {fitting}")
        self.heads, self.block_size, self.vocabulary, self.loss_chunk = heads, block_size, vocabulary, loss_chunk
        self.gelu_tanh = gelu_tanh
        rows = -(-vocabulary // VOCABULARY_UNIT) * VOCABULARY_UNIT
        self.tokens = nn.Embedding(rows, width)
        self.positions = nn.Embedding(block_size, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, bias=bias, dropout=dropout, gelu_tanh=gelu_tanh) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, bias=bias)
        no_token = torch.where(torch.arange(rows) < vocabulary, 0.0, NEVER) if rows > vocabulary else None
        self.register_buffer("no_token", no_token, persistent=False)
        self.apply(_initialize)
        self._scale_residual_projections()

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocabulary) of `tokens` (B, T), T <= block; given `targets` (B, T) the mean loss () in nats.

        A target of -100 counts for nothing. The loss is computed in here so that DDP and torch.compile see all of it.
        """
        x = self.hidden(tokens)  # (B, T) -> (B, T, C)
        if targets is None:
            return self.logits(x)  # -> (B, T, V)
        return cross_entropy(
            x.flatten(0, 1), self.tokens.weight, targets.flatten(), bias=self.no_token, chunk=self.loss_chunk
        )

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the output layer reads (B, T, C) of `tokens` (B, T)."""
        position = torch.arange(tokens.shape[1], device=tokens.device)  # (T,)
        x = self.drop(self.tokens(tokens) + self.positions(position))  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x)
        normalized: Tensor = self.norm(x)
        return normalized

    def logits(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, vocabulary), without the rows that stand for no token."""
        return F.linear(x, self.tokens.weight)[..., : self.vocabulary]

    def flops_per_token(self) -> int:
        """Operations of one training step for each token: 6 per weight that it meets, and attention's 12 L C T.

        Two for each multiplication and addition, forward once and backward twice (Kaplan et al. 2020, section 2.1;
        PaLM, Chowdhery et al. 2022, appendix B). Looking up a position costs none.
        """
        weights = sum(parameter.numel() for parameter in self.parameters()) - self.positions.weight.numel()
        return 6 * weights + 12 * len(self.blocks) * self.tokens.embedding_dim * self.block_size

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
