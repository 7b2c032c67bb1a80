"""What a metanet knows of a graph's structure."""

import torch
from torch import nn

from gmn_opt import trace
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet.features import (
    BLOCK_FEATURES,
    NODE_FEATURES,
    block_features,
    node_features,
)


def _conv(stride: int = 1, dilation: int = 1) -> ParameterGraph:
    first = nn.Conv2d(4, 8, 3, stride, padding=2, dilation=dilation)
    net = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    return trace(net, torch.zeros(1, 4, 12, 12))


def test_options_of_convolutions_are_told_apart() -> None:
    plain = block_features(_conv())
    assert plain.shape[1] == BLOCK_FEATURES
    for graph in (_conv(stride=2), _conv(dilation=2)):
        other = block_features(graph)
        changed = (plain != other).any(0).nonzero().flatten().tolist()
        assert len(changed) == 1
        # the first convolution alone
        assert (plain != other).any(1).sum() == 1


def test_transposed_convolutions_say_so() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = trace(net, torch.zeros(1, 4, 8, 8))
    flags = block_features(graph)[:, -1]
    transposed = [b.tensor == "0.weight" for b in graph.blocks]
    assert flags.tolist() == [float(t) for t in transposed]


class _Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.out = nn.Linear(12, 12)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            m(x).unflatten(-1, (self.heads, 12 // self.heads)).transpose(-2, -3) for m in self.qkv
        )
        weights = (q @ k.mT).softmax(-1)
        return self.out((weights @ v).transpose(-2, -3).flatten(-2))


def test_heads_are_told() -> None:
    def of(heads: int) -> torch.Tensor:
        found = node_features(trace(_Attention(heads), torch.randn(2, 5, 12)))
        assert all(f.shape[1] == NODE_FEATURES for f in found)
        return torch.cat(found)[:, -3].unique()

    assert len(of(2)) == 2  # neurons in heads, and others
    assert not torch.equal(of(2), of(4))


def test_a_residual_stream_is_told_by_what_is_written_into_it() -> None:
    class Residual(nn.Module):
        def __init__(self, branches: int) -> None:
            super().__init__()
            self.first = nn.Linear(3, 8)
            self.branches = nn.ModuleList(nn.Linear(8, 8) for _ in range(branches))
            self.last = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for branch in self.branches:
                x = x + branch(x.relu())
            return self.last(x)

    def most(branches: int) -> float:
        graph = trace(Residual(branches), torch.randn(4, 3)).contract()
        return float(torch.cat(node_features(graph))[:, -2].max())

    assert most(1) < most(4)
