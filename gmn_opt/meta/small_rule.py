"""A rule of a few hundred meta-parameters: every parameter on its own, no graph.

In the manner of the per-parameter rules of Metz et al. 2020 and 2022 (arXiv 2009.11243,
2203.11860): one small network, shared by all parameters, reads normalized gradients and moments
and writes the update. Deviations: directions are those of :class:`~gmn_opt.optim.LearnedRule`
without the ones that look at whole matrices; fixed width factors instead of tensor shapes as
inputs; bounded outputs; and the same three moments, so that it fits everything that a rule fits.

It is meant for evolution strategies, where few meta-parameters mean little variance, and as the
baseline without message passing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gmn_opt.kept import kept
from gmn_opt.metanet import blocked
from gmn_opt.optim.directions import DECAYS, EPS, update_moments, width_factors
from gmn_opt.optim.rule import BASE_STEP, MAX_LOG_STEP, TIME_FEATURES, time_features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gmn_opt.graph import ParameterGraph

#: Gradient, fast and slow momentum over sqrt(v); weight times sqrt(fan-in); bias or not.
_INPUTS = 5
#: Log step size, and weights of the three directions.
_OUTPUTS = 4
_MAX_WEIGHT = 2.0


@dataclass(frozen=True)
class SmallRuleConfig:
    """Sizes of a :class:`SmallRule`; hidden=8 makes 156 meta-parameters, hidden=16 308."""

    hidden: int = 8

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, received {self.hidden}.")


class SmallRule(nn.Module):
    """A two-layer network per parameter. Its head is zero at first: then the rule is Adam.

    See the module's docstring; the method :meth:`flat_update` keeps the contract of
    :class:`~gmn_opt.optim.LearnedRule`.
    """

    def __init__(self, config: SmallRuleConfig | None = None) -> None:
        super().__init__()
        self.config = config or SmallRuleConfig()
        h = self.config.hidden
        self.first = nn.Parameter(torch.randn(h, _INPUTS) / _INPUTS**0.5)
        self.time = nn.Parameter(torch.randn(h, TIME_FEATURES) / TIME_FEATURES**0.5)
        self.bias = nn.Parameter(torch.zeros(h))
        self.head = nn.Parameter(torch.zeros(_OUTPUTS, h))
        self.offset = nn.Parameter(torch.zeros(_OUTPUTS))

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
        """What to add to ``theta`` [..., P], and the next moments, ``[..., 3, P]``."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
            root, is_bias, width = _constants(graph, theta)
            moments = update_moments(moments, grad)
            fast, slow, second = moments.unbind(-2)
            c_fast, c_slow, c_second = _corrections(step)
            scale = (second * c_second + EPS**2).rsqrt()  # see directions.EPS
            inputs = torch.stack(
                [
                    grad * scale,
                    c_fast * fast * scale,
                    c_slow * slow * scale,
                    theta * root,
                    is_bias.expand_as(theta),
                ],
                -2,
            )
            time = time_features(step, horizon, theta)
        hidden = torch.relu(self.first @ inputs + (self.time @ time + self.bias).unsqueeze(-1))
        out = self.head @ hidden + self.offset.unsqueeze(-1)
        size = out[..., 0, :].clamp(-MAX_LOG_STEP, MAX_LOG_STEP).exp()
        weights = out[..., 1:, :].clamp(-_MAX_WEIGHT, _MAX_WEIGHT)
        directions = inputs[..., :3, :]
        mixed = (weights * directions).sum(-2) + directions[..., 1, :]
        return -BASE_STEP * width * size * mixed, moments

    def stacked(self, parameters: Mapping[str, Tensor]) -> StackedSmallRule:
        """Versions ``{name: [count, *shape]}`` of this rule, one per network of a batch."""
        return StackedSmallRule(parameters)


class StackedSmallRule:
    """Many versions of a :class:`SmallRule`, each on a network of its own, without gradients.

    The same function as ``vmap`` over :meth:`SmallRule.flat_update`, in fewer passes over memory:
    buffers are kept between steps and written in place, the bias of the hidden layer is the weight
    of an input that is always 1, and the corrections of the moments are moved into the weights.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        p = {name: t.detach() for name, t in parameters.items()}
        self._first, self._time, self._bias = p["first"], p["time"], p["bias"]
        self._head, self._offset = p["head"], p["offset"].unsqueeze(-1)
        self._inputs: Tensor | None = None

    def _buffer(self, theta: Tensor, is_bias: Tensor) -> Tensor:
        """``[count, _INPUTS + 1, P]`` whose last two rows are constant."""
        shape = (theta.shape[0], _INPUTS + 1, theta.shape[1])
        if self._inputs is None or self._inputs.shape != shape:
            self._inputs = theta.new_ones(shape)
            self._inputs[:, _INPUTS - 1] = is_bias
        return self._inputs

    @torch.no_grad()
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
        """As :meth:`SmallRule.flat_update`, ``theta`` and ``grad`` being ``[count, P]``."""
        root, is_bias, width = _constants(graph, theta)
        c_fast, c_slow, c_second = _corrections(step)
        after = torch.empty_like(moments)
        for i in range(2):
            torch.lerp(moments[:, i], grad, 1 - DECAYS[i], out=after[:, i])
        second = torch.mul(moments[:, 2], DECAYS[2], out=after[:, 2])
        second.addcmul_(grad, grad, value=1 - DECAYS[2])
        scale = second.mul(c_second).add_(EPS**2).rsqrt_()

        inputs = self._buffer(theta, is_bias)
        torch.mul(grad, scale, out=inputs[:, 0])
        torch.mul(after[:, :2], scale.unsqueeze(1), out=inputs[:, 1:3])
        torch.mul(theta, root, out=inputs[:, 3])
        time = time_features(step, horizon, theta)
        bias = (self._time @ time + self._bias).unsqueeze(-1)
        columns = theta.new_tensor([1.0, c_fast, c_slow, 1.0, 1.0])
        hidden = torch.bmm(torch.cat([self._first * columns, bias], -1), inputs).relu_()
        out = torch.baddbmm(self._offset, self._head, hidden)
        out[:, 1:].clamp_(-_MAX_WEIGHT, _MAX_WEIGHT)
        mixed = out[:, 1] * inputs[:, 0]
        mixed.addcmul_(out[:, 2].add_(1.0), inputs[:, 1], value=c_fast)
        mixed.addcmul_(out[:, 3], inputs[:, 2], value=c_slow)
        size = out[:, 0].clamp_(-MAX_LOG_STEP, MAX_LOG_STEP).exp_()
        return mixed.mul_(size).mul_(width).mul_(-BASE_STEP), after


def _corrections(step: int) -> tuple[float, float, float]:
    """What undoes the zero start of the moments after ``step`` + 1 gradients."""
    fast, slow, second = (1 / (1 - d ** (step + 1)) for d in DECAYS)
    return fast, slow, second


def _constants(graph: ParameterGraph, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per parameter: sqrt(fan-in), whether it is a bias, width factor. Each ``[P]``, cached."""

    def make() -> tuple[Tensor, Tensor, Tensor]:
        layout = blocked(graph)
        sizes = torch.tensor(layout.edge_counts)
        rows = torch.tensor(
            [(b.fan_in**0.5, float(b.fan_in == 1), width_factors(b)[0]) for b in layout.blocks],
            dtype=torch.float64,
        )
        root, is_bias, width = rows.repeat_interleave(sizes, 0).to(like).unbind(-1)
        return root.contiguous(), is_bias.contiguous(), width.contiguous()

    return kept(graph, ("small rule", like.dtype, like.device), make)
