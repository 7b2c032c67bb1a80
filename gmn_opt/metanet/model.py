"""GraphMetanet: a graph neural network over the parameter graph of another network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gmn_opt.metanet.backends.plain import mix
from gmn_opt.metanet.checks import (
    check_edges,
    check_inputs,
    check_kind,
    check_options,
    check_tensors,
)
from gmn_opt.metanet.features import BLOCK_FEATURES, KERNEL_FEATURES, NODE_FEATURES, structural
from gmn_opt.metanet.incidence import incidence_of
from gmn_opt.metanet.layers.message import MessageLayer
from gmn_opt.metanet.layers.scale import ScaledStates, ScaleEncoder, ScaleLayer
from gmn_opt.metanet.layers.states import States
from gmn_opt.metanet.layout import blocked
from gmn_opt.metanet.scale import NodeScales, Scale

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


class GraphMetanet(nn.Module):
    """Equivariant network from per-parameter features to per-parameter outputs.

    Deviations from Lim et al. 2023 (arXiv 2312.04501): edge states are narrow, node states
    wide, messages run along both directions of an edge, aggregation is a mean within and over
    blocks, and every block (parameter tensor) has a state of its own between edges and graph.

    Args:
        in_features: channels of the input of every parameter element.
        out_features: channels of the output of every parameter element; 0 for no edge readout.
        hidden: width of node, block and graph states.
        edge_hidden: width of edge states; memory and time grow with it.
        layers: rounds of message passing.
        block_inputs: extra features per block, given to :meth:`states`.
        node_inputs: extra features per node, given to :meth:`states` (see ``probes.Probes``).
        checkpoint: whether a round is computed again in the backward pass instead of kept.
        backend: ``"blocked"``, or ``"sparse"`` for the same function over an edge list, on
            torch_geometric: slower, and the reference that the other is tested against.
        scale: also be equivariant to rescaled neurons: ``"sign"`` for sine and tanh,
            ``"positive"`` for ReLU, ``"auto"`` for both, by each group's activation; see
            :mod:`gmn_opt.metanet.scale`. Edge features must then transform like the parameters:
            weights, not squares of them.
        sizes: Whether the metanet knows how many neurons there are. Without, states are the same
            when every neuron is there twice and edge features stay as they are: all aggregation is
            by means. What was learned on narrow networks then applies to wide ones.

    The edge readout is zero at initialization.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: int = 32,
        edge_hidden: int = 8,
        layers: int = 2,
        block_inputs: int = 0,
        backend: Literal["blocked", "sparse"] = "blocked",
        node_inputs: int = 0,
        checkpoint: bool = False,
        scale: Scale | None = None,
        sizes: bool = True,
    ) -> None:
        super().__init__()
        check_options(backend, scale, checkpoint, node_inputs)
        self.checkpoint, self.sizes = checkpoint, sizes
        self.backend = backend
        least = min(out_features, block_inputs, node_inputs)
        if min(in_features, hidden, edge_hidden, layers) < 1 or least < 0:
            raise ValueError(
                "GraphMetanet needs at least one input feature, hidden channel, edge channel and "
                f"layer, received in_features={in_features}, out_features={out_features}, "
                f"hidden={hidden}, edge_hidden={edge_hidden}, layers={layers}."
            )
        self.in_features, self.out_features, self.block_inputs = (
            in_features,
            out_features,
            block_inputs,
        )
        self.node_inputs = node_inputs
        self.edge_encoder = nn.Linear(in_features, edge_hidden, bias=False)
        self.node_encoder = nn.Linear(NODE_FEATURES + node_inputs, hidden)
        self.block_encoder = nn.Linear(BLOCK_FEATURES + block_inputs, hidden)
        self.graph_state = nn.Parameter(torch.zeros(hidden))
        of_layer = (hidden, edge_hidden, KERNEL_FEATURES)
        self.layers = nn.ModuleList(
            MessageLayer(*of_layer) if scale is None else ScaleLayer(*of_layer)
            for _ in range(layers)
        )
        self.scale = scale
        if scale is not None:
            self.scale_encoder = ScaleEncoder(NODE_FEATURES, hidden)
        self.readout = nn.Linear(edge_hidden, out_features, bias=False) if out_features else None
        if self.readout is not None:
            nn.init.zeros_(self.readout.weight)

    def states(
        self,
        graph: ParameterGraph,
        edges: Tensor,
        block_inputs: Tensor | None = None,
        edge_scale: Tensor | None = None,
        node_inputs: Tensor | None = None,
        keep_edges: bool = True,
    ) -> States:
        """Final states from edge features ``[..., in_features, P]`` in the order of the blocks.

        ``block_inputs`` is ``[..., blocks, block_inputs]``, required when the metanet was made
        with ``block_inputs`` > 0. ``edge_scale`` [..., blocks, in_features] multiplies the edge
        features of every block, at no cost per edge. ``node_inputs`` [..., N, node_inputs] is
        required when the metanet was made with it. Without ``keep_edges`` the last round makes no
        edge states; those returned are of the round before, and no result.

        Raises ValueError for other shapes, and for a dtype or device that is not the metanet's.
        """
        layout = blocked(graph)
        check_edges(self, layout, edges)
        check_inputs(self, layout, edges.shape[:-2], block_inputs, node_inputs)
        check_kind(self, {"edge_scale": edge_scale})
        first = self.first_states(graph, edges, block_inputs, edge_scale, node_inputs)
        return self.all_rounds(graph, first, keep_edges)

    def all_rounds(self, graph: ParameterGraph, states: States, keep_edges: bool = True) -> States:
        """Final states from those of :meth:`first_states`."""
        if self.backend == "sparse":
            joint = replace(states, graph=states.graph.unsqueeze(-2))
            joint = self.run_edge_list([graph], joint, keep_edges)
            return replace(joint, graph=joint.graph.squeeze(-2))
        kernels = structural(graph, states.edges)[2]
        incidence = incidence_of(graph, states.edges)
        current = self._with_scales([graph], states)
        for number, layer in enumerate(self.layers):
            given = (incidence, current, kernels, keep_edges or number + 1 < len(self.layers))
            if self.checkpoint and torch.is_grad_enabled():
                current = checkpoint(layer, *given, use_reentrant=False)
            else:
                current = layer(*given)
        return current.states if isinstance(current, ScaledStates) else current

    def first_states(
        self,
        graph: ParameterGraph,
        edges: Tensor,
        block_inputs: Tensor | None = None,
        edge_scale: Tensor | None = None,
        node_inputs: Tensor | None = None,
    ) -> States:
        """States before the first round.

        Arguments are those of :meth:`states`, and have been checked.
        """
        lead = edges.shape[:-2]
        node_known, block_known, _ = structural(graph, edges, self.sizes)
        if node_inputs is not None:
            node_known = _beside(node_known, node_inputs)
        if block_inputs is not None:
            block_known = _beside(block_known, block_inputs)
        blocks = self.block_encoder(block_known)
        encoder = self.edge_encoder.weight
        if edge_scale is not None:
            encoder = encoder * edge_scale.unsqueeze(-2)
        return States(
            self.node_encoder(node_known).expand(*lead, -1, -1),
            edges,
            blocks.expand(*lead, -1, -1),
            self.graph_state.expand(*lead, -1),
            encoder,
        )

    def _with_scales(
        self, graphs: Sequence[ParameterGraph], states: States
    ) -> States | ScaledStates:
        """What the layers of this metanet begin with, for graphs side by side."""
        if self.scale is None:
            return states
        like = states.edges
        scales = NodeScales.union([NodeScales.of(g, self.scale, like) for g in graphs])
        known = torch.cat([structural(g, like, self.sizes)[0] for g in graphs])
        made: ScaledStates = self.scale_encoder(states, known, scales)
        return made

    def run_edge_list(
        self, graphs: Sequence[ParameterGraph], states: States, keep_edges: bool
    ) -> States:
        """All rounds on the edge list of graphs side by side; see :mod:`gmn_opt.metanet.reference`.

        ``states`` are before the first round, with nodes, edges and blocks of one graph after those
        of the other and ``graph`` [..., graphs, c]. So are those returned.
        """
        from gmn_opt.metanet.reference import edge_list

        like = states.edges
        listed = edge_list.EdgeList.of([incidence_of(g, like) for g in graphs])
        kernels = [
            like.new_zeros(KERNEL_FEATURES, incidence_of(g, like).counts[3]) if k is None else k
            for g in graphs
            for k in (structural(g, like)[2],)
        ]
        positions = torch.cat(kernels, -1).T[listed.source]
        return edge_list.run(
            self.layers, listed, self._with_scales(graphs, states), positions, keep_edges
        )

    def edge_features(self, graph: ParameterGraph, tensors: Mapping[str, Tensor]) -> Tensor:
        """``{name: [..., *shape, in_features]}`` as :meth:`states` takes them, checked."""
        check_tensors(self, graph, tensors, self.in_features)
        layout = blocked(graph)
        flat = layout.flatten({name: t.movedim(-1, 0) for name, t in tensors.items()})
        return flat.movedim(0, -2)

    def states_from(
        self,
        graph: ParameterGraph,
        tensors: Mapping[str, Tensor],
        node_inputs: Tensor | None = None,
        block_inputs: Tensor | None = None,
        keep_edges: bool = True,
    ) -> States:
        """:meth:`states` from named tensors ``{name: [..., *shape, in_features]}``."""
        edges = self.edge_features(graph, tensors)
        check_inputs(self, blocked(graph), edges.shape[:-2], block_inputs, node_inputs)
        first = self.first_states(graph, edges, block_inputs, node_inputs=node_inputs)
        return self.all_rounds(graph, first, keep_edges)

    def named_outputs(self, graph: ParameterGraph, states: States) -> dict[str, Tensor]:
        """The edge readout of final states, ``{name: [..., *shape, out_features]}``.

        Raises ValueError for a metanet without one.
        """
        if self.readout is None:
            raise ValueError(
                "This metanet has no edge readout: it was made with out_features=0. Call states(), "
                "or make it a part of a GraphReadout."
            )
        flat = mix(self.readout.weight, states.edges).movedim(-2, 0)
        return {name: t.movedim(0, -1) for name, t in blocked(graph).unflatten(flat).items()}

    def forward(
        self,
        graph: ParameterGraph,
        tensors: Mapping[str, Tensor],
        node_inputs: Tensor | None = None,
        block_inputs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``{name: [..., *shape, in_features]}`` to ``{name: [..., *shape, out_features]}``.

        Leading dimensions batch networks that share ``graph``; the batch of every tensor must be
        the same. ``node_inputs`` [..., N, node_inputs] and ``block_inputs``
        [..., blocks, block_inputs] are for a metanet that was made with them. Raises ValueError
        when names or shapes do not match the graph, or dtype or device not the metanet.
        """
        states = self.states_from(graph, tensors, node_inputs, block_inputs)
        return self.named_outputs(graph, states)


def _beside(known: Tensor, given: Tensor) -> Tensor:
    """Structural features [n, a] and inputs [..., n, b] as ``[..., n, a + b]``."""
    return torch.cat([known.expand(*given.shape[:-1], -1), given], -1)
