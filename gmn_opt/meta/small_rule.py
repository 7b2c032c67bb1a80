"""A rule of a few hundred meta-parameters: every parameter on its own, no graph.

In the manner of the per-parameter rules of Metz et al. 2020 and 2022 (arXiv 2009.11243,
2203.11860): one small network, shared by all parameters, reads normalized gradients and moments
and writes the update. Deviations: directions are those of :class:`~gmn_opt.optim.LearnedRule`
without the ones that look at whole matrices, at faster momenta; fixed width factors instead of
tensor shapes as inputs; bounded outputs; and the same three moments, so that it fits everything
that a rule fits.

It is meant for evolution strategies, where few meta-parameters mean little variance, and as the
baseline without message passing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from gmn_opt.metanet import BlockedGraph, BlockLayout, blocked
from gmn_opt.optim.constants import layout_constants
from gmn_opt.optim.directions import EPS, MOMENTS
from gmn_opt.optim.rule import TIME_FEATURES, time_features
from gmn_opt.optim.step import StepInputs, StepOutputs

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Decays of the moments.
DECAYS = (0.9, 0.98, 0.99)
#: Size of a step before width factors and what is learned, and how far its log may move.
BASE_STEP = 0.1
MAX_LOG_STEP = 4.0
#: Gradient, fast and slow momentum over sqrt(v); weight times sqrt(fan-in); bias or not.
_FEATURES = 5
#: Log step size, and weights of the three directions.
_OUTPUTS = 4
_MAX_WEIGHT = 2.0


@dataclass(frozen=True)
class SmallRuleConfig:
    """Sizes of a :class:`SmallRule`; hidden=8 makes 164 meta-parameters, hidden=16 324."""

    hidden: int = 8

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, received {self.hidden}.")


class SmallRule(nn.Module):
    """A two-layer network per parameter. Its head is zero at first: then the rule is Adam.

    See the module's docstring; the method :meth:`flat_update` keeps the contract of
    :class:`~gmn_opt.optim.LearnedRule`.
    """

    #: What the rule accumulates, one number each per parameter.
    moment_names: ClassVar[tuple[str, ...]] = MOMENTS

    def __init__(self, config: SmallRuleConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallRuleConfig()
        h = self.config.hidden
        self.first = nn.Parameter(torch.randn(h, _FEATURES) / _FEATURES**0.5)
        self.time = nn.Parameter(torch.randn(h, TIME_FEATURES) / TIME_FEATURES**0.5)
        self.bias = nn.Parameter(torch.zeros(h))
        self.head = nn.Parameter(torch.zeros(_OUTPUTS, h))
        self.offset = nn.Parameter(torch.zeros(_OUTPUTS))

    def flat_update(self, inputs: StepInputs) -> StepOutputs:
        """What to add to ``theta`` [..., P], and the next moments, ``[..., M, P]``."""
        theta, grad, layout = inputs.theta, inputs.grad, blocked(inputs.graph)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not inputs.first_order):
            root, is_bias, width = _constants(layout, theta)
            seen = torch.stack([grad, grad, grad.square()], -2)
            rates = theta.new_tensor([1 - d for d in DECAYS]).unsqueeze(-1)
            moments = torch.lerp(inputs.moments, seen, rates)
            fast, slow, second = moments.unbind(-2)
            c_fast, c_slow, c_second = _corrections(inputs.step)
            scale = (second * c_second + EPS**2).rsqrt()  # see directions.EPS
            features = torch.stack(
                [
                    grad * scale,
                    c_fast * fast * scale,
                    c_slow * slow * scale,
                    theta * root,
                    is_bias.expand_as(theta),
                ],
                -2,
            )
            time = time_features(inputs.step, inputs.horizon, theta)
        hidden = torch.relu(self.first @ features + (self.time @ time + self.bias).unsqueeze(-1))
        out = self.head @ hidden + self.offset.unsqueeze(-1)
        size = out[..., 0, :].clamp(-MAX_LOG_STEP, MAX_LOG_STEP).exp()
        weights = out[..., 1:, :].clamp(-_MAX_WEIGHT, _MAX_WEIGHT)
        directions = features[..., :3, :]
        mixed = (weights * directions).sum(-2) + directions[..., 1, :]
        return StepOutputs(-BASE_STEP * width * size * mixed, moments)

    def stacked(self, parameters: Mapping[str, Tensor]) -> StackedSmallRule:
        """Versions ``{name: [count, *shape]}`` of this rule, one per network of a batch."""
        return StackedSmallRule(parameters)


class StackedSmallRule:
    """Many versions of a :class:`SmallRule`, each on a network of its own, without gradients.

    The same function as ``vmap`` over :meth:`SmallRule.flat_update`, in fewer passes over memory:
    buffers are kept between steps and written in place, the bias of the hidden layer is the weight
    of an input that is always 1, and the corrections of the moments are moved into the weights.
    """

    moment_names: ClassVar[tuple[str, ...]] = MOMENTS

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        p = {name: t.detach() for name, t in parameters.items()}
        self._first, self._time, self._bias = p["first"], p["time"], p["bias"]
        self._head, self._offset = p["head"], p["offset"].unsqueeze(-1)
        self._features: Tensor | None = None

    def _buffer(self, theta: Tensor, is_bias: Tensor) -> Tensor:
        """``[count, _FEATURES + 1, P]`` whose last two rows are constant."""
        shape = (theta.shape[0], _FEATURES + 1, theta.shape[1])
        if self._features is None or self._features.shape != shape:
            self._features = theta.new_ones(shape)
            self._features[:, _FEATURES - 1] = is_bias
        return self._features

    @torch.no_grad()
    def flat_update(self, inputs: StepInputs) -> StepOutputs:
        """As :meth:`SmallRule.flat_update`, ``theta`` and ``grad`` being ``[count, P]``."""
        theta, grad, moments = inputs.theta, inputs.grad, inputs.moments
        root, is_bias, width = _constants(blocked(inputs.graph), theta)
        c_fast, c_slow, c_second = _corrections(inputs.step)
        after = torch.empty_like(moments)
        for i in range(2):
            torch.lerp(moments[:, i], grad, 1 - DECAYS[i], out=after[:, i])
        second = torch.mul(moments[:, 2], DECAYS[2], out=after[:, 2])
        second.addcmul_(grad, grad, value=1 - DECAYS[2])
        scale = second.mul(c_second).add_(EPS**2).rsqrt_()

        features = self._buffer(theta, is_bias)
        torch.mul(grad, scale, out=features[:, 0])
        torch.mul(after[:, :2], scale.unsqueeze(1), out=features[:, 1:3])
        torch.mul(theta, root, out=features[:, 3])
        time = time_features(inputs.step, inputs.horizon, theta)
        bias = (self._time @ time + self._bias).unsqueeze(-1)
        columns = theta.new_tensor([1.0, c_fast, c_slow, 1.0, 1.0])
        hidden = torch.bmm(torch.cat([self._first * columns, bias], -1), features).relu_()
        out = torch.baddbmm(self._offset, self._head, hidden)
        out[:, 1:].clamp_(-_MAX_WEIGHT, _MAX_WEIGHT)
        mixed = out[:, 1] * features[:, 0]
        mixed.addcmul_(out[:, 2].add_(1.0), features[:, 1], value=c_fast)
        mixed.addcmul_(out[:, 3], features[:, 2], value=c_slow)
        size = out[:, 0].clamp_(-MAX_LOG_STEP, MAX_LOG_STEP).exp_()
        return StepOutputs(mixed.mul_(size).mul_(width).mul_(-BASE_STEP), after)


def _corrections(step: int) -> tuple[float, float, float]:
    """What undoes the zero start of the moments after ``step`` + 1 gradients."""
    fast, slow, second = (1 / (1 - d ** (step + 1)) for d in DECAYS)
    return fast, slow, second


_PerParameter = tuple[Tensor, Tensor, Tensor]


def _make_constants(layout: BlockedGraph, like: Tensor) -> _PerParameter:
    rows = torch.tensor(
        [(b.fan_in**0.5, float(b.fan_in == 1), _width_factor(b)) for b in layout.blocks],
        dtype=torch.float64,
    )
    spread = rows.repeat_interleave(torch.tensor(layout.edge_counts), 0).to(like)
    root, is_bias, width = spread.unbind(-1)
    return root.contiguous(), is_bias.contiguous(), width.contiguous()


def _width_factor(block: BlockLayout) -> float:
    """4 / fan-in: entries of an Adam-like update are aligned, and their effects add up.

    A table of embeddings has fan-in 1: one row is read at a time.
    """
    return 4.0 / max(1 if block.block.kind == "embedding" else block.fan_in, 50)


def _constants(layout: BlockedGraph, like: Tensor) -> _PerParameter:
    """Per parameter: sqrt(fan-in), whether it is a bias, width factor. Each ``[P]``, made once."""
    return layout_constants(layout, like, _make_constants)
