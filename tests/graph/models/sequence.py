"""Attention, recurrent and state-space models."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class EmbeddingMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(11, 6), nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(ids)).mean(1))


class Attention(nn.Module):
    """Free: heads, query-key dims per head, value dims per head, and the embedding's width."""

    def __init__(self, width: int, heads: int, kind: str = "hand", causal: bool = False) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(width, width), nn.Linear(width, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.kind, self.causal = heads, kind, causal

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        q, k, v = (
            f(x).view(b, n, self.heads, c // self.heads).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        if self.kind == "hand":
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
            if self.causal:
                scores = scores.masked_fill(torch.ones(n, n).tril() == 0, -torch.inf)
            y = scores.softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.head(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class MHA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


class PackedAttention(nn.Module):
    """One projection, viewed as (3 heads dims), as in many vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.o = nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class ChunkedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.o = nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        q, k, v = (z.view(b, n, 2, 4).transpose(1, 2) for z in self.qkv(x).split(c, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class GQA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.q, self.k, self.v = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(8, 6)
        self.o, self.out = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 3).transpose(1, 2)
        k, v = (f(x).view(b, n, 2, 3).transpose(1, 2) for f in (self.k, self.v))
        k, v = (z[:, :, None].expand(b, 2, 2, n, 3).reshape(b, 4, n, 3) for z in (k, v))
        y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.out(x + self.o(y.transpose(1, 2).reshape(b, n, 12)))


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 6)
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.a(x), self.b(y)
        return self.out(x + self.attention(x, y, y)[0])


class EinopsAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.o = nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = rearrange(self.qkv(x), "b n (s h d) -> s b h n d", s=3, h=2)
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
        y = torch.einsum("bhnm,bhmd->bhnd", scores, v)
        return self.out(x + self.o(rearrange(y, "b h n d -> b n (h d)")))


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding over halves of the last axis."""
    n, d = x.shape[-2], x.shape[-1]
    freq = 1 / 10 ** (torch.arange(0, d, 2) / d)
    angle = torch.arange(n)[:, None] * freq[None]
    angle = torch.cat([angle, angle], -1)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()


class RoPEAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.out(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(self.enter(x)))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(self.layer(self.enter(x), self.other(y)))


class GPTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.o = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (z.view(b, n, 2, 4).transpose(1, 2) for z in self.qkv(self.n1(x)).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).contiguous().view(b, n, c))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(7, 8)
        self.blocks = nn.ModuleList(GPTBlock() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LlamaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(8), nn.RMSNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, n, bias=False) for n in (8, 4, 4))
        self.o = nn.Linear(8, 8, bias=False)
        self.gate, self.up = nn.Linear(8, 10, bias=False), nn.Linear(8, 10, bias=False)
        self.down = nn.Linear(10, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.n1(x)
        q, k, v = (rearrange(f(y), "b n (h d) -> b h n d", d=4) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
        x = x + self.o(rearrange(y, "b h n d -> b n (h d)"))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(LlamaBlock() for _ in range(2))
        self.norm, self.head = nn.RMSNorm(8), nn.Linear(8, 11, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        self.block = GPTBlock()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.block(x))[:, -1])


class Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 6))
        self.enter = nn.Linear(4, 5)
        self.q, self.k, self.v = nn.Linear(6, 7), nn.Linear(5, 7), nn.Linear(5, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        scores = torch.einsum("ld,bnd->bln", self.q(self.latents), self.k(x)).softmax(-1)
        y = self.latents + torch.einsum("bln,bnd->bld", scores, self.v(x))
        return self.out(torch.tanh(y)).mean(1)


class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 8)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        q, k, v = (rearrange(f(x), "b n (h d) -> b h n d", h=2) for f in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bhnd,bhne->bhde", k, v)
        y = torch.einsum("bhnd,bhde->bhne", q, state) / (q * k.sum(2, keepdim=True)).sum(
            -1, keepdim=True
        )
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class InterleavedAttention(nn.Module):
    """Packed as (heads (q k v)), as in GPT-NeoX."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.o = nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 2, 12).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class StridedAttention(InterleavedAttention):
    """Packed as (heads 3 dims), as in BLOOM."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        packed = self.qkv(x).view(b, n, 2, 3, 4).transpose(1, 2)
        q, k, v = packed[..., 0, :], packed[..., 1, :], packed[..., 2, :]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class RelativePositions(Attention):
    """A table of biases per head, indexed by relative position, as in Swin and T5."""

    def __init__(self) -> None:
        super().__init__(8, 2)
        self.table = nn.Parameter(torch.randn(9, 2))
        self.register_buffer("index", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, c = x.shape
        q, k, v = (f(x).view(b, n, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        index = self.index
        assert isinstance(index, Tensor)
        bias = self.table[index.view(-1)].view(n, n, 2).permute(2, 0, 1)
        y = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        return self.head(x + self.o(y.transpose(1, 2).reshape(b, n, c)))


class MultiQuery(nn.Module):
    """Queries of all heads and one key and value in one projection, ``[(h + 2) d]``."""

    def __init__(self, heads: int = 3, groups: int = 1) -> None:
        super().__init__()
        self.heads, self.groups = heads, groups
        self.enter = nn.Linear(8, 8)
        self.qkv = nn.Linear(8, groups * (heads + 2) * 4)
        self.o, self.out = nn.Linear(groups * heads * 4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, self.groups, self.heads + 2, 4)
        q, k, v = qkv[..., :-2, :], qkv[..., [-2], :], qkv[..., [-1], :]
        q, k, v = (z.expand_as(q).flatten(2, 3).transpose(1, 2) for z in (q, k, v))
        y = (q @ k.transpose(2, 3)).softmax(-1) @ v
        return self.out(x + self.o(y.transpose(1, 2).flatten(2)))
