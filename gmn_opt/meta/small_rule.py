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

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gmn_opt.metanet import blocked
from gmn_opt.optim.directions import DECAYS, EPS, width_factors
from gmn_opt.optim.rule import time_features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gmn_opt.graph import ParameterGraph

_TIME = 9
#: Gradient, fast and slow momentum over sqrt(v); weight times sqrt(fan-in); bias or not.
_INPUTS = 5
#: Log step size, and weights of the three directions.
_OUTPUTS = 4
_BASE_STEP = 0.1


@dataclass(frozen=True)
class SmallRuleConfig:
    """Sizes of a :class:`SmallRule`; hidden=16 makes 308 meta-parameters."""

    hidden: int = 16

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, received {self.hidden}.")

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


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
        self.time = nn.Parameter(torch.randn(h, _TIME) / _TIME**0.5)
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
        own: dict[str, Tensor] = dict(self.named_parameters())
        return _update(own, graph, theta, grad, moments, step, horizon, first_order)

    def stacked(self, parameters: Mapping[str, Tensor]) -> _Stacked:
        """Versions ``{name: [count, *shape]}`` of this rule, one per network of a batch."""
        return _Stacked(dict(parameters))


class _Stacked:
    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.flat_update: Any = partial(_update, parameters)


def _constants(graph: ParameterGraph, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per parameter: sqrt(fan-in), whether it is a bias, width factor. Each ``[P]``, cached."""
    cache: dict[Any, tuple[Tensor, Tensor, Tensor]] = graph.__dict__.get("_small_rule") or {}
    if not cache:
        object.__setattr__(graph, "_small_rule", cache)
    key = (like.dtype, like.device)
    if key not in cache:
        layout = blocked(graph)
        sizes = torch.tensor(layout.edge_counts)
        rows = torch.tensor(
            [(b.fan_in**0.5, float(b.fan_in == 1), width_factors(b)[0]) for b in layout.blocks],
            dtype=torch.float64,
        )
        spread = rows.repeat_interleave(sizes, 0).to(like)
        root, is_bias, width = spread.unbind(-1)
        cache[key] = (root.contiguous(), is_bias.contiguous(), width.contiguous())
    return cache[key]


def _update(
    p: dict[str, Tensor],
    graph: ParameterGraph,
    theta: Tensor,
    grad: Tensor,
    moments: Tensor,
    step: int,
    horizon: int | None = None,
    first_order: bool = False,
) -> tuple[Tensor, Tensor]:
    """``p`` may have leading dimensions, one version of the rule per network."""
    recording = torch.is_grad_enabled()
    with torch.set_grad_enabled(recording and not first_order):
        root, is_bias, width = _constants(graph, theta)
        fast, slow, second = moments.unbind(-2)
        fast = torch.lerp(fast, grad, 1 - DECAYS[0])
        slow = torch.lerp(slow, grad, 1 - DECAYS[1])
        second = torch.lerp(second, grad.square(), 1 - DECAYS[2])
        after = torch.stack([fast, slow, second], -2)
        c_fast, c_slow, c_second = (1 / (1 - d ** (step + 1)) for d in DECAYS)
        # sqrt(v + eps^2), see directions.EPS
        scale = torch.add(second * c_second, EPS**2).rsqrt_()
        inputs = torch.stack(
            [
                grad * scale,
                fast * (c_fast * scale),
                slow * (c_slow * scale),
                theta * root,
                is_bias.expand_as(theta),
            ],
            -2,
        )
        inputs = inputs.clamp(-4.0, 4.0)
        time = time_features(step, horizon, theta)
    hidden = (p["time"] @ time + p["bias"]).unsqueeze(-1)
    hidden = torch.relu_(p["first"] @ inputs + hidden)
    out = p["head"] @ hidden + p["offset"].unsqueeze(-1)
    size = (4.0 * torch.tanh(0.25 * out[..., 0, :])).exp() * width
    weights = 2.0 * torch.tanh(0.5 * out[..., 1:, :])
    directions = inputs[..., :3, :]
    mixed = (weights * directions).sum(-2) + directions[..., 1, :]
    return -_BASE_STEP * size * mixed, after
