"""What layers read and write, and the perceptron that they share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import linear, silu


@dataclass(frozen=True)
class States:
    """What a metanet knows: per node, per edge, per block and per graph.

    nodes: ``[..., N, c]``, the groups one after the other; edges: ``[..., f, P]``, the blocks one
    after the other; blocks: ``[..., blocks, c]``; graph: ``[..., c]``.

    ``encoder`` [f, g] or [..., blocks, f, g] stands before the first round: edges ``[..., g, P]``
    times it are the states. To write that product down would cost a pass over all edges.
    """

    nodes: Tensor
    edges: Tensor
    blocks: Tensor
    graph: Tensor
    encoder: Tensor | None = None


class TwoLayer(nn.Module):
    """Linear, silu, linear: ``[..., inputs]`` to ``[..., outputs]``."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """Apply both layers to ``x`` and then ``beside``, concatenated.

        ``beside`` [..., 1, b] is the same along the last axis but one, and not repeated for it.
        Between the two there may be inputs that are missing, and count as zeros.
        """
        if beside is None:
            return self.second(silu(self.first(x)))
        weight = self.first.weight
        z = linear(beside, weight[:, -beside.shape[-1] :], self.first.bias)
        return self.second(silu(z + linear(x, weight[:, : x.shape[-1]])))
