"""The learned update rule: a pure function from parameters, gradients and state to the next ones.

Everything here is out of place, differentiable, and batched: all tensors may have leading
dimensions, one network per index. ``GMNOptimizer`` is a shell around it, and so is the unroll of
meta-training.

The rule is a strong hand-made one (:mod:`gmn_opt.optim.base`) and what a graph metanetwork changes
about it: per block the size of the step, the decay of the weights and the mixture of directions.
Kernels keep the base's size: what was learned of it made convolutional networks slower.
What is changed is bounded, and starts from nothing: over its first steps and at initialization the
rule is its base. The metanet does not run at every step: what it has thought serves for some steps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gmn_opt.metanet import GraphMetanet, blocked
from gmn_opt.metanet.execution import at_ends
from gmn_opt.optim.base import ROLES, BaseConstants, base_constants
from gmn_opt.optim.block_reader import BlockReader
from gmn_opt.optim.directions import (
    BLOCK_SCALARS,
    CHANNELS,
    FAST,
    MOMENTS,
    NOISE_RMS,
    ORTHOGONAL,
    base_rms,
    channels,
    statistics,
    update_moments,
)
from gmn_opt.optim.step import StepInputs, StepOutputs
from gmn_opt.weights.headers import MIXTURES, MixtureName

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph
    from gmn_opt.metanet import BlockedGraph

#: How many :func:`time_features` gives.
TIME_FEATURES = 10
#: Bounds of the log step size, of the weight of a direction, and of the log gain of a neuron.
MAX_LOG_SIZE = 1.4
MAX_WEIGHT = 1.5
MAX_LOG_GAIN = 1.0
#: Weight decay of a hidden matrix at weight 1, relative to the size of its step.
DECAY = 0.1
#: Steps over which the rule leaves its base at the start of a training.
RAMP = 10.0


@dataclass(frozen=True)
class RuleConfig:
    """Sizes of the rule; saved with the weights.

    Attributes:
        hidden, edge_hidden, layers: of the metanet.
        every: steps for which one thought serves.
        neurons: whether neurons have gains.
        messages: whether the graph is read: neurons, edges, and messages between them. Without,
            the rule sees statistics of blocks only (:class:`~gmn_opt.optim.block_reader.
            BlockReader`), which is what messages are compared with.
        mixture: which blocks mix the directions of Adam into their step: ``"none"``, ``"adam"``
            for those that the base moves along them, or ``"all"``. Orthogonalized blocks leave
            the fast one out: between two thoughts its spectral norm jumps, and losses with it.

    Raises ValueError for gains of neurons without messages, and for an unknown mixture.
    """

    hidden: int = 16
    edge_hidden: int = 4
    layers: int = 2
    every: int = 20
    neurons: bool = False
    messages: bool = True
    mixture: MixtureName = "all"

    def __post_init__(self) -> None:
        if self.mixture not in MIXTURES:
            raise ValueError(f"mixture is one of {list(MIXTURES)}, received {self.mixture!r}.")
        if self.neurons and not self.messages:
            raise ValueError("Neurons have states, and so gains, only with messages=True.")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Thought(NamedTuple):
    """What the metanet decided, for some steps.

    coefficients: of the channels in the update at the peak of the schedule, ``[..., blocks,
    len(CHANNELS)]``; gains: of the neurons as (destination, source), ``[..., N, 2]``, None for a
    rule without them.
    """

    coefficients: Tensor
    gains: Tensor | None

    def flatten(self) -> Tensor:
        """As one ``[..., T]``."""
        parts = [t.flatten(-2) for t in self if t is not None]
        return torch.cat(parts, -1)

    @staticmethod
    def unflatten(flat: Tensor, layout: BlockedGraph) -> Thought:
        """The inverse of :meth:`flatten`."""
        size = len(layout.blocks) * len(CHANNELS)
        gains = flat[..., size:].unflatten(-1, (-1, 2)) if flat.shape[-1] > size else None
        return Thought(flat[..., :size].unflatten(-1, (-1, len(CHANNELS))), gains)


def time_features(step: int, horizon: int | None, like: Tensor) -> Tensor:
    """``[TIME_FEATURES]``: where in the run step ``step`` (from 0) is.

    Without a horizon the features of the remaining time are zero and a flag says so.
    """
    known = [math.log1p(step) / 5.0 - 1.0, *(math.exp(-step / t) for t in (10.0, 100.0, 1000.0))]
    if horizon is None:
        return like.new_tensor(known + [0.0] * 6)
    done = min(step / horizon, 1.0)
    size = math.log(horizon / 300.0) / 3.0
    left = [1.0, done, (1.0 - done) ** 4, done**8, math.cos(math.pi * done), size]
    return like.new_tensor(known + left)


def _bounded(x: Tensor, bound: float) -> Tensor:
    return bound * torch.tanh(x / bound)


class LearnedRule(nn.Module):
    """A graph metanetwork that bends a hand-made rule.

    All heads are zero at first: then the rule is its base.
    """

    #: What the rule accumulates, one number each per parameter.
    moment_names: ClassVar[tuple[str, ...]] = MOMENTS

    def __init__(self, config: RuleConfig | None = None) -> None:
        super().__init__()
        self.config = config or RuleConfig()
        c = self.config.hidden
        inputs = BLOCK_SCALARS + len(ROLES) + TIME_FEATURES
        layers = self.config.layers
        self.metanet: GraphMetanet | BlockReader
        if self.config.messages:
            self.metanet = GraphMetanet(
                len(CHANNELS), 0, c, self.config.edge_hidden, layers, inputs
            )
        else:
            self.metanet = BlockReader(inputs, c, layers)
        mixed = 1 if self.config.mixture == "none" else len(CHANNELS)
        self.block_head = nn.Linear(c, 1 + mixed)
        self.node_head = nn.Linear(c, 2) if self.config.neurons else None
        for head in (self.block_head, self.node_head):
            if head is not None:
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def thought_size(self, graph: ParameterGraph) -> int:
        """Numbers of a flattened thought about ``graph``."""
        layout = blocked(graph)
        gains = 2 * sum(layout.group_sizes) if self.node_head is not None else 0
        return len(layout.blocks) * len(CHANNELS) + gains

    def thinks(self, step: int) -> bool:
        """Whether the metanet runs at ``step``: often at first, then every so many steps."""
        return step % self.config.every == 0 or step in (1, 2, 4)

    def think(self, inputs: StepInputs, values: Tensor) -> Thought:
        """What to do from this step on; ``values`` are the channels ``[..., channels, P]``."""
        layout = blocked(inputs.graph)
        base = base_constants(layout, values)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not inputs.first_order):
            seen = statistics(layout, values)
            lead = seen.scalars.shape[:-1]
            time = time_features(inputs.step, inputs.horizon, values)
            known = (base.roles.expand(*lead, -1), time.expand(*lead, -1))
            block_inputs = torch.cat([seen.scalars, *known], -1)
            # a direction that rests now may be as large as ever long before the next thought
            usual = torch.maximum(seen.rms, seen.rms.new_tensor(NOISE_RMS))
            ratios = base_rms(base.is_orthogonal, seen.rms).unsqueeze(-1) / usual
        nodes = None
        if isinstance(self.metanet, BlockReader):
            blocks = self.metanet(inputs.graph, block_inputs)
        else:
            states = self.metanet.states(
                inputs.graph, values, block_inputs, 1 / seen.rms, keep_edges=False
            )
            blocks, nodes = states.blocks, states.nodes
        ramp = 1.0 - math.exp(-inputs.step / RAMP)
        out = ramp * self.block_head(blocks)
        log_size = _bounded(out[..., 0], MAX_LOG_SIZE).masked_fill(base.is_kernel, 0.0)
        size = base.trusted(seen.rms[..., 0]) * torch.exp(log_size)
        mixed = self._mixed(_bounded(out[..., 1:], MAX_WEIGHT), base, ratios)
        gains = None
        if self.node_head is not None and nodes is not None:
            gains = torch.exp(_bounded(ramp * self.node_head(nodes), MAX_LOG_GAIN))
        return Thought(size.unsqueeze(-1) * torch.stack(mixed, -1), gains)

    def _mixed(self, weights: Tensor, base: BaseConstants, ratios: Tensor) -> list[Tensor]:
        """Coefficient of every channel, ``[..., blocks]`` each, before the size of the step.

        ``ratios`` [..., blocks, channels]: of the size of the base's direction to that of others.
        """
        orthogonal = base.is_orthogonal.to(weights.dtype)
        plain = 1 - orthogonal
        if self.config.mixture == "none":
            mixed = [torch.zeros_like(weights[..., 0]) for _ in CHANNELS]
        else:
            if self.config.mixture == "adam":
                ratios = ratios * plain.unsqueeze(-1)
            mixed = list((weights * ratios).unbind(-1))
            mixed[FAST] = mixed[FAST] * plain
            mixed[ORTHOGONAL] = weights[..., ORTHOGONAL] * orthogonal
        mixed[0] = DECAY * weights[..., 0] * orthogonal + base.decays
        mixed[FAST] = mixed[FAST] + plain
        mixed[ORTHOGONAL] = mixed[ORTHOGONAL] + orthogonal
        return mixed

    def flat_update(self, inputs: StepInputs) -> StepOutputs:
        """What to add to ``theta`` (at ``lr`` 1), the next moments and the thought behind it.

        With ``first_order`` nothing is differentiated through the tensors in ``inputs`` but the
        thought, only through the metanet's parameters: the meta-gradient without second-order
        terms.
        """
        layout = blocked(inputs.graph)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not inputs.first_order):
            moments = update_moments(layout, inputs.moments, inputs.grad)
            values = channels(layout, inputs.theta, inputs.grad, moments, inputs.step + 1)
        if inputs.thought is None or self.thinks(inputs.step):
            thought = self.think(inputs, values)
        else:
            thought = Thought.unflatten(inputs.thought, layout)
        schedules = base_constants(layout, values).schedules(inputs.step, inputs.horizon)
        delta = apply(inputs.graph, thought, values, -values.new_tensor(schedules))
        return StepOutputs(delta, moments, thought.flatten())


def apply(graph: ParameterGraph, thought: Thought, values: Tensor, factors: Tensor) -> Tensor:
    """The update ``[..., P]`` that a thought makes of the channels ``[..., channels, P]``.

    ``factors`` [blocks]: on all coefficients of a block.
    """
    layout = blocked(graph)
    parts = values.split(layout.edge_counts, -1)
    rows = (factors.unsqueeze(-1) * thought.coefficients).unsqueeze(-2).unbind(-3)
    mixed = [(row @ part).squeeze(-2) for row, part in zip(rows, parts, strict=True)]
    if thought.gains is not None:
        for i, (own, across) in enumerate(at_ends(graph, thought.gains)):
            shaped = mixed[i].unflatten(-1, layout.sizes[i])
            mixed[i] = (shaped * own.mT * across).flatten(-2)
    return torch.cat(mixed, -1)
