"""The learned update rule: a pure function from parameters, gradients and state to the next ones.

Everything here is out of place, differentiable, and batched: all tensors may have leading
dimensions, one network per index. ``GMNOptimizer`` is a shell around it, and so is the unroll of
meta-training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gmn_opt.metanet import GraphMetanet, blocked
from gmn_opt.metanet.backends.plain import mix
from gmn_opt.metanet.execution import at_ends
from gmn_opt.optim.directions import (
    BLOCK_SCALARS,
    CHANNELS,
    DIRECTIONS,
    direction_factors,
    read,
    update_moments,
)

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph

#: How many :func:`time_features` gives.
TIME_FEATURES = 9
#: Size of a step before width factors and what is learned, and how far its log may move.
BASE_STEP = 0.1
MAX_LOG_STEP = 4.0


@dataclass(frozen=True)
class RuleConfig:
    """Sizes of the rule's metanet; saved beside the weights."""

    hidden: int = 32
    edge_hidden: int = 4
    layers: int = 2

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RuleState:
    """Gradients seen so far, and the moments ``[..., 3, *shape]`` per parameter name."""

    step: int
    moments: dict[str, Tensor]

    @staticmethod
    def initial(params: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> RuleState:
        """The state before the first step of ``params`` [..., *shape]."""
        moments = {}
        for name, p in params.items():
            lead = p.dim() - len(shapes[name])
            moments[name] = p.new_zeros(*p.shape[:lead], 3, *shapes[name])
        return RuleState(0, moments)


def time_features(step: int, horizon: int | None, like: Tensor) -> Tensor:
    """``[TIME_FEATURES]``: where in the run step ``step`` (from 0) is.

    Without a horizon the features of the remaining time are zero and a flag says so.
    """
    known = [math.log1p(step) / 5.0 - 1.0, *(math.exp(-step / t) for t in (10.0, 100.0, 1000.0))]
    if horizon is None:
        return like.new_tensor(known + [0.0] * 5)
    done = min(step / horizon, 1.0)
    size = math.log(horizon / 300.0) / 3.0
    return like.new_tensor([*known, 1.0, done, (1.0 - done) ** 4, done**8, size])


def _bounded(x: Tensor, bound: float) -> Tensor:
    return bound * torch.tanh(x / bound)


class LearnedRule(nn.Module):
    """A graph metanetwork that turns directions into an update.

    For every block the metanet gives a log step size, signed weights of the directions (see
    ``directions.DIRECTIONS``), a log gain per neuron at either end, and per edge a factor and an
    additive correction. All are bounded. All heads are zero at first: then the rule is Adam at a
    constant step, scaled by the fan-in.
    """

    def __init__(self, config: RuleConfig | None = None) -> None:
        super().__init__()
        self.config = config or RuleConfig()
        c, f = self.config.hidden, self.config.edge_hidden
        self.metanet = GraphMetanet(
            len(CHANNELS), 0, c, f, self.config.layers, BLOCK_SCALARS + TIME_FEATURES
        )
        self.block_head = nn.Linear(c, 1 + len(DIRECTIONS))
        self.node_head = nn.Linear(c, 2)
        self.edge_head = nn.Linear(f, 2, bias=False)
        for head in (self.block_head, self.node_head, self.edge_head):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)

    def flat_update(
        self,
        graph: ParameterGraph,
        theta: Tensor,
        grad: Tensor,
        moments: Tensor,
        step: int,
        horizon: int | None = None,
        first_order: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """What to add to ``theta`` (at ``lr`` 1), ``[..., P]``, and the next moments.

        theta, grad: ``[..., P]`` in the order of ``blocked(graph)``; moments ``[..., 3, P]``;
        ``step`` gradients were seen before this one. With ``first_order`` nothing is
        differentiated through these inputs, only through the metanet's parameters: the
        meta-gradient without second-order terms.
        """
        layout = blocked(graph)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
            moments = update_moments(moments, grad)
            reading = read(layout, theta, grad, moments, step + 1)
            time = time_features(step, horizon, theta)
            time = time.expand(*reading.scalars.shape[:-1], -1)
            block_inputs = torch.cat([reading.scalars, time], -1)
            factors, adam_scales = direction_factors(layout, theta)

        states = self.metanet.states(graph, reading.channels, block_inputs, reading.inverse_rms)
        per_block = self.block_head(states.blocks)
        per_node = torch.exp(_bounded(self.node_head(states.nodes), 1.0))
        gains = [(dst.squeeze(-2), src.squeeze(-2)) for dst, src in at_ends(graph, per_node)]
        size = -BASE_STEP * torch.exp(_bounded(per_block[..., 0], MAX_LOG_STEP))
        raw = _bounded(per_block[..., 1:], 2.0)
        start = raw.new_tensor([float(d == "fast") for d in DIRECTIONS])
        weights = (start + raw) * factors * reading.inverse_rms[..., 1:]

        bent = torch.tanh(mix(self.edge_head.weight, states.edges)).split(layout.edge_counts, -1)
        channels = reading.channels[..., 1:, :].split(layout.edge_counts, -1)
        block_weights = weights.unsqueeze(-2).unbind(-3)
        sizes = size.unsqueeze(-1).unbind(-2)
        updates = []
        for i, (rows, columns) in enumerate(gains):
            mixed = (block_weights[i] @ channels[i]).squeeze(-2)
            mixed = torch.addcmul(mixed, mixed, bent[i][..., 0, :])
            mixed = torch.add(mixed, bent[i][..., 1, :], alpha=adam_scales[i])
            gained = mixed.unflatten(-1, layout.sizes[i]) * (rows * sizes[i]).unsqueeze(-1)
            updates.append((gained * columns.unsqueeze(-2)).flatten(-2))
        return torch.cat(updates, -1), moments

    def update(
        self,
        graph: ParameterGraph,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: RuleState,
        horizon: int | None = None,
    ) -> tuple[dict[str, Tensor], RuleState]:
        """Like :meth:`flat_update` on named tensors ``[..., *shape]``."""
        layout = blocked(graph)
        layout.check(params)
        layout.check(grads)
        moments = {
            name: m.movedim(-1 - len(graph.shapes[name]), 0) for name, m in state.moments.items()
        }
        delta, flat = self.flat_update(
            graph,
            layout.flatten(params),
            layout.flatten(grads),
            layout.flatten(moments).movedim(0, -2),
            state.step,
            horizon,
        )
        named = layout.unflatten(flat.movedim(-2, 0))
        after = {name: m.movedim(0, -1 - len(graph.shapes[name])) for name, m in named.items()}
        return layout.unflatten(delta), RuleState(state.step + 1, after)
