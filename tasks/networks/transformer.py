"""Small pre-norm transformers: of patches (ViT) and of symbols (GPT).

Dosovitskiy et al. 2021 (arXiv 2010.11929) and Radford et al. 2019. Attention is written out, since
fused kernels cannot be differentiated twice; queries, keys and values have matrices of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.networks.plain import ACTIVATIONS


class Attention(nn.Module):
    """Multi-head self-attention; ``causal`` hides what comes later."""

    hidden: Tensor | None

    def __init__(self, width: int, heads: int, places: int, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        mask = torch.ones(places, places).triu(1).bool() if causal else None
        self.register_buffer("hidden", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, width]`` to the same."""
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if self.hidden is not None:
            scores = scores.masked_fill(self.hidden, -1e9)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP of ``expansion`` times the width, each behind a layer norm."""

    def __init__(
        self, width: int, heads: int, places: int, activation: str, expansion: int, causal: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, places, causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.activation = ACTIVATIONS[activation]()
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, T, width]`` to the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Patches(nn.Module):
    """Squares of grey images as tokens: ``[N, 1, S, S]`` to ``[N, (S / patch)², width]``."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """One token per square, row by row."""
        return self.embed(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """A classifier of grey images; reads the class token, or the mean of all tokens."""

    def __init__(
        self,
        size: int,
        patch: int,
        width: int,
        depth: int,
        outputs: int,
        heads: int,
        activation: str,
        class_token: bool,
        expansion: int = 2,
    ) -> None:
        super().__init__()
        places = (size // patch) ** 2 + class_token
        self.patches = Patches(patch, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if class_token else None
        self.positions = nn.Parameter(0.02 * torch.randn(places, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, places, activation, expansion, False) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, size, size]`` to ``[N, outputs]``."""
        x = self.patches(x)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


class GPT(nn.Module):
    """A causal language model over ``symbols`` symbols and at most ``places`` places.

    With ``tied``, the output layer reads the table of the symbols and has no bias, and the table
    starts at the scale of GPT-2: one parameter with two uses.
    """

    def __init__(
        self,
        symbols: int,
        places: int,
        width: int,
        depth: int,
        heads: int,
        activation: str,
        expansion: int = 2,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.positions = nn.Parameter(0.02 * torch.randn(places, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, places, activation, expansion, True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=not tied)
        with torch.no_grad():
            # small, so that positions are seen next to symbols
            self.embed.weight.mul_(0.02 if tied else 0.1)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Symbols ``[N, places]`` to logits of the next ones, ``[N, places, symbols]``."""
        return self.head(self.norm(self.blocks(self.embed(x) + self.positions)))
