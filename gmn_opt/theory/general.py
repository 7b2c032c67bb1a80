"""The general graph metanetwork of the paper, for theory: every function is given from outside.

:class:`~gmn_opt.metanet.GraphMetanet` fixes what its functions look like, for speed and for widths
never seen. What graph metanetworks can express in principle is shown on the general form (Lim et
al. 2023, arXiv 2312.04501, sections 2 and 3; the graph network of Battaglia et al. 2018): with
weights put in by hand, it runs the forward pass of its input network on a computation graph,
computes the features of StatNN, and equals an NP-NFN layer on parameter graphs. The proofs take
multilayer perceptrons that approximate products; :class:`SquareMLP` has them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gmn_opt.extras import needs

with needs("graph"):
    from torch_geometric.utils import scatter


class GeneralLayer(nn.Module):
    """One round of message passing over any directed multigraph.

    With node states v, edge states e (of the edge from s to d) and a graph state u:

        e   <- edge([v_s, v_d, e, u])
        v_d <- node([v_d, Σ message([v_s, v_d, e, u]) over incoming edges,
                     Σ reverse([v_s, v_d, e, u]) over outgoing edges, u])
        u   <- whole([u, Σ from_node([v, u]) over nodes, Σ from_edge([e, u]) over edges])

    Brackets are concatenation; a function that is None leaves its state as it is, or its sum out.
    The paper's has one message function per node; the reverse one is what its undirected variant
    amounts to. ``aggregation="mean"`` puts means in place of all sums.
    """

    def __init__(
        self,
        edge: nn.Module | None = None,
        message: nn.Module | None = None,
        reverse: nn.Module | None = None,
        node: nn.Module | None = None,
        from_node: nn.Module | None = None,
        from_edge: nn.Module | None = None,
        whole: nn.Module | None = None,
        aggregation: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        self.edge, self.node, self.whole = edge, node, whole
        self.message, self.reverse = message, reverse
        self.from_node, self.from_edge = from_node, from_edge
        self.aggregation = aggregation

    def forward(
        self, edge_index: Tensor, nodes: Tensor, edges: Tensor, graph: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New states; [2, E], ``[..., N, a]``, ``[..., E, b]`` and ``[..., c]``.

        Raises ValueError when the edges are not those of ``edge_index``.
        """
        if edges.shape[-2] != edge_index.shape[1]:
            raise ValueError(
                f"Expected one edge state for each of {edge_index.shape[1]} edges, received "
                f"{list(edges.shape)}."
            )
        lead = torch.broadcast_shapes(nodes.shape[:-2], edges.shape[:-2], graph.shape[:-1])
        nodes, edges = (x.expand(*lead, -1, -1) for x in (nodes, edges))
        graph = graph.expand(*lead, -1)
        src, dst = edge_index
        ends = [nodes[..., src, :], nodes[..., dst, :]]
        if self.edge is not None:
            edges = self.edge(self._with(graph, *ends, edges))
        if self.node is not None:
            parts = [nodes]
            for function, at in ((self.message, dst), (self.reverse, src)):
                if function is not None:
                    sent = function(self._with(graph, *ends, edges))
                    parts.append(scatter(sent, at, -2, nodes.shape[-2], self.aggregation))
            nodes = self.node(self._with(graph, *parts))
        if self.whole is not None:
            parts = [graph]
            for function, states in ((self.from_node, nodes), (self.from_edge, edges)):
                if function is not None:
                    read = function(self._with(graph, states))
                    parts.append(read.sum(-2) if self.aggregation == "sum" else read.mean(-2))
            graph = self.whole(torch.cat(parts, -1))
        return nodes, edges, graph

    @staticmethod
    def _with(graph: Tensor, *parts: Tensor) -> Tensor:
        spread = graph.unsqueeze(-2).expand(*parts[0].shape[:-1], -1)
        return torch.cat([*parts, spread], -1)


#: Coefficients by monomial: () for the constant, (i,) for an input, (i, j) for a product.
Polynomial = Mapping[tuple[int, ...], float]


class SquareMLP(nn.Module):
    """Linear, square, linear: the perceptron with one hidden layer that has exact products.

    ab = ((a + b)² - (a - b)²) / 4, and a = ((a + 1)² - (a - 1)²) / 4, so any polynomial of degree
    two is two hidden units per monomial.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, dtype=torch.float64)
        self.second = nn.Linear(hidden, outputs, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        out: Tensor = self.second(self.first(x).square())
        return out

    @classmethod
    def of(cls, inputs: int, outputs: Sequence[Polynomial]) -> SquareMLP:
        """The one, in float64, that computes these polynomials of its inputs.

        Raises ValueError for a monomial of more than two factors or of inputs that are not there.
        """
        monomials = sorted({m for terms in outputs for m in terms if m})
        if any(len(m) > 2 or not all(0 <= i < inputs for i in m) for m in monomials):
            raise ValueError(
                f"Expected products of at most two of {inputs} inputs, received {monomials[:8]}."
            )
        made = cls(inputs, max(1, 2 * len(monomials)), len(outputs))
        with torch.no_grad():
            for p in made.parameters():
                p.zero_()
            for number, monomial in enumerate(monomials):
                plus, minus = 2 * number, 2 * number + 1
                made.first.weight[plus, monomial[0]] += 1
                made.first.weight[minus, monomial[0]] += 1
                if len(monomial) == 2:
                    made.first.weight[plus, monomial[1]] += 1
                    made.first.weight[minus, monomial[1]] -= 1
                else:
                    made.first.bias[plus] += 1
                    made.first.bias[minus] -= 1
            places = {m: 2 * number for number, m in enumerate(monomials)}
            for row, terms in enumerate(outputs):
                for monomial, coefficient in terms.items():
                    if not monomial:
                        made.second.bias[row] += coefficient
                        continue
                    made.second.weight[row, places[monomial]] += coefficient / 4
                    made.second.weight[row, places[monomial] + 1] -= coefficient / 4
        return made


__all__ = ["GeneralLayer", "Polynomial", "SquareMLP"]
