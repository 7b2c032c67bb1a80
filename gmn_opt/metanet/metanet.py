"""GraphMetanet: a graph neural network over the parameter graph of another network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gmn_opt.metanet.checks import (
    check_edges,
    check_inputs,
    check_kind,
    check_options,
    check_tensors,
)
from gmn_opt.metanet.edge_messages import mix
from gmn_opt.metanet.features import (
    BLOCK_FEATURES,
    KERNEL_FEATURES,
    NODE_FEATURES,
    block_features,
    kernel_features,
    node_features,
)
from gmn_opt.metanet.layout import BlockedGraph, blocked
from gmn_opt.metanet.message_passing import MessageLayer, States
from gmn_opt.metanet.once import made_once
from gmn_opt.metanet.scale import NodeScales, Scale, ScaleEncoder, ScaleLayer

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


Structural = tuple[Tensor, Tensor, Tensor | None]


@made_once
def _keep_structural(
    graph: ParameterGraph,
    cache: dict[tuple[torch.dtype, torch.device], Structural],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    with torch.inference_mode(False):
        kernels = kernel_features(blocked(graph))
        cache[dtype, device] = (
            torch.cat(node_features(graph)).to(device, dtype),
            block_features(graph).to(device, dtype),
            None if kernels is None else kernels.to(device, dtype),
        )


class GraphMetanet(nn.Module):
    """Equivariant network from per-parameter features to per-parameter outputs.

    Deviations from Lim et al. 2023 (arXiv 2312.04501): edge states are narrow beside wide node
    states, messages run along both directions of an edge, aggregation is a mean within and over
    blocks, and every block (parameter tensor) has a state of its own between edges and graph.

    Args:
        in_features: channels of the input of every parameter element.
        out_features: channels of the output of every parameter element; 0 for no edge readout.
        hidden: width of node, block and graph states.
        edge_hidden: width of edge states; memory and time grow with it.
        layers: rounds of message passing.
        block_inputs: extra features per block, given to :meth:`states`.
        node_inputs: extra features per node, given to :meth:`states` (see ``probes.Probes``).
        attention: heads that weigh the messages of a block; 0 for plain means. Slower: scores are
            made for every edge.
        checkpoint: whether a round is computed again in the backward pass instead of kept.
        backend: ``"blocked"``, or ``"sparse"`` for the same function over an edge list, on
            torch_geometric: slower, and the reference that the other is tested against.
        scale: also be equivariant to rescaled neurons: ``"sign"`` for sine and tanh,
            ``"positive"`` for ReLU, ``"auto"`` for both, by each group's activation; see
            :mod:`gmn_opt.metanet.scale`. Edge features must then transform like the parameters:
            weights, not squares of them.

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
        attention: int = 0,
        checkpoint: bool = False,
        scale: Scale | None = None,
    ) -> None:
        super().__init__()
        check_options(
            backend, scale, attention, checkpoint, edge_hidden=edge_hidden, node_inputs=node_inputs
        )
        self.checkpoint = checkpoint
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
        sizes = (hidden, edge_hidden, KERNEL_FEATURES)
        self.layers = nn.ModuleList(
            MessageLayer(*sizes, attention) if scale is None else ScaleLayer(*sizes)
            for _ in range(layers)
        )
        self.scale = scale
        if scale is not None:
            self.scale_encoder = ScaleEncoder(NODE_FEATURES, hidden)
        self.readout = nn.Linear(edge_hidden, out_features, bias=False) if out_features else None
        if self.readout is not None:
            nn.init.zeros_(self.readout.weight)

    def structural(self, graph: ParameterGraph, like: Tensor) -> Structural:
        """Structural features of ``graph`` in the dtype and device of ``like``, cached on it.

        Of nodes ``[N, NODE_FEATURES]``, blocks ``[blocks, BLOCK_FEATURES]`` and kernel positions
        ``[KERNEL_FEATURES, sum of E]`` (None where no block has any).
        """
        cache = graph.__dict__.get("_structural_features")
        if cache is None:
            cache = {}
            object.__setattr__(graph, "_structural_features", cache)
        key = (like.dtype, like.device)
        if key not in cache:
            _keep_structural(graph, cache, *key)
        return cache[key]

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
        return self.checked_states(graph, edges, block_inputs, edge_scale, node_inputs, keep_edges)

    def checked_states(
        self,
        graph: ParameterGraph,
        edges: Tensor,
        block_inputs: Tensor | None = None,
        edge_scale: Tensor | None = None,
        node_inputs: Tensor | None = None,
        keep_edges: bool = True,
    ) -> States:
        """:meth:`states` of what has been checked."""
        states, layout, kernels = self.first_states(
            graph, edges, block_inputs, edge_scale, node_inputs
        )
        if self.backend == "sparse":
            return self._run_sparse(layout, states, keep_edges)
        if self.scale is not None:
            return self._run_scaled(layout, states, kernels, keep_edges)
        for number, layer in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            given = (layout, states, kernels, keep_edges or not last)
            if self.checkpoint and torch.is_grad_enabled():
                states = checkpoint(layer, *given, use_reentrant=False)
            else:
                states = layer(*given)
        return states

    def first_states(
        self,
        graph: ParameterGraph,
        edges: Tensor,
        block_inputs: Tensor | None = None,
        edge_scale: Tensor | None = None,
        node_inputs: Tensor | None = None,
    ) -> tuple[States, BlockedGraph, Tensor | None]:
        """States before the first round, the layout and kernel features.

        Arguments are those of :meth:`states`, and have been checked.
        """
        layout = blocked(graph)
        lead = edges.shape[:-2]
        node_known, block_known, kernels = self.structural(graph, edges)
        if node_inputs is not None:
            node_known = _beside(node_known, node_inputs)
        if block_inputs is not None:
            block_known = _beside(block_known, block_inputs)
        blocks = self.block_encoder(block_known)
        encoder = self.edge_encoder.weight
        if edge_scale is not None:
            encoder = encoder * edge_scale.unsqueeze(-2)
        states = States(
            self.node_encoder(node_known).expand(*lead, -1, -1),
            edges,
            blocks.expand(*lead, -1, -1),
            self.graph_state.expand(*lead, -1),
            encoder,
        )
        return states, layout, kernels

    def _run_sparse(self, layout: BlockedGraph, states: States, keep_edges: bool) -> States:
        states = replace(states, graph=states.graph.unsqueeze(-2))
        states = self.run_edge_list([layout.graph], states, keep_edges)
        return replace(states, graph=states.graph.squeeze(-2))

    def run_edge_list(
        self, graphs: Sequence[ParameterGraph], states: States, keep_edges: bool
    ) -> States:
        """All rounds on the edge list of graphs side by side; see :mod:`gmn_opt.metanet.sparse`.

        ``states`` are before the first round, with nodes, edges and blocks of one graph after those
        of the other and ``graph`` [..., graphs, c]. So are those returned.
        """
        from gmn_opt.metanet.sparse import Topology, run, topology_of
        from gmn_opt.metanet.sparse_scale import run_scaled

        like = states.edges
        parts = [topology_of(blocked(g)) for g in graphs]
        topology = (parts[0] if len(parts) == 1 else Topology.union(parts)).to(like.device)
        positions = torch.cat([self.edge_positions(g, like) for g in graphs])
        if self.scale is None:
            rounds = [layer for layer in self.layers if isinstance(layer, MessageLayer)]
            return run(rounds, topology, states, positions, keep_edges)
        scales = NodeScales.union([NodeScales.of(g, self.scale, like) for g in graphs])
        known = torch.cat([self.structural(g, like)[0] for g in graphs])
        before = self.scale_encoder(states, known, scales)
        scaled = [layer for layer in self.layers if isinstance(layer, ScaleLayer)]
        return run_scaled(scaled, topology, scales, before, positions, keep_edges)

    def _run_scaled(
        self,
        layout: BlockedGraph,
        states: States,
        kernels: Tensor | None,
        keep_edges: bool,
    ) -> States:
        assert self.scale is not None
        scales = NodeScales.of(layout.graph, self.scale, states.edges)
        known = self.structural(layout.graph, states.edges)[0]
        scaled = self.scale_encoder(states, known, scales)
        for number, layer in enumerate(self.layers):
            last = number + 1 == len(self.layers)
            scaled = layer(layout, scales, scaled, kernels, keep_edges or not last)
        found: States = scaled.states
        return found

    def edge_positions(self, graph: ParameterGraph, like: Tensor) -> Tensor:
        """Kernel features edge by edge, ``[P, KERNEL_FEATURES]``."""
        from gmn_opt.metanet.sparse import edge_kernels

        kernels = self.structural(graph, like)[2]
        return edge_kernels(blocked(graph), kernels, like, KERNEL_FEATURES)

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
        return self.checked_states(
            graph, edges, block_inputs, node_inputs=node_inputs, keep_edges=keep_edges
        )

    def named_outputs(self, graph: ParameterGraph, states: States) -> dict[str, Tensor]:
        """The edge readout of final states, ``{name: [..., *shape, out_features]}``."""
        self._check_readout()
        assert self.readout is not None
        flat = mix(self.readout.weight, states.edges).movedim(-2, 0)
        return {name: t.movedim(0, -1) for name, t in blocked(graph).unflatten(flat).items()}

    def _check_readout(self) -> None:
        if self.readout is None:
            raise ValueError(
                "This metanet has no edge readout: it was made with out_features=0. Call states(), "
                "or make it a part of a GraphReadout."
            )

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
        self._check_readout()
        states = self.states_from(graph, tensors, node_inputs, block_inputs)
        return self.named_outputs(graph, states)

    def many(
        self,
        networks: Sequence[tuple[ParameterGraph, Mapping[str, Tensor]]],
        node_inputs: Sequence[Tensor] | None = None,
        block_inputs: Sequence[Tensor] | None = None,
    ) -> list[dict[str, Tensor]]:
        """:meth:`forward` of networks of any architectures, in the order given.

        ``node_inputs`` and ``block_inputs`` are one tensor per network. Networks with equal graphs
        are run together; with the sparse backend, all of them are.
        """
        from gmn_opt.metanet.batching import states_of_many

        self._check_readout()
        states = states_of_many(self, networks, node_inputs, block_inputs)
        pairs = zip(networks, states, strict=True)
        return [self.named_outputs(graph, s) for (graph, _), s in pairs]


def _beside(known: Tensor, given: Tensor) -> Tensor:
    """Structural features [n, a] and inputs [..., n, b] as ``[..., n, a + b]``."""
    return torch.cat([known.expand(*given.shape[:-1], -1), given], -1)
