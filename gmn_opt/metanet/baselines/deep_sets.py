"""DeepSets (Zaheer et al. 2017, arXiv 1703.06114) over the set of all parameters.

Every parameter is an element with its value and which tensor it is of; neurons are unknown. The
mean is taken within a tensor and then over tensors, since one mean over all would drown a bias
among a thousand weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.metanet.baselines.common import Head, Shapes, fixed_shapes, leading


class ParameterDeepSets(nn.Module):
    """``{name: [..., *shape]}`` to ``[..., outputs]``.

    Args:
        shapes: Shape of every parameter.
        outputs: Numbers to predict.
        hidden: Width of the hidden layers.
        layers: Hidden layers behind the mean.
        slots: Most tensors of an architecture that is ever passed, see `StatNN`.
    """

    def __init__(
        self,
        shapes: Shapes,
        outputs: int,
        hidden: int = 64,
        layers: int = 2,
        slots: int | None = None,
    ) -> None:
        super().__init__()
        self.shapes = fixed_shapes(shapes)
        self.slots = len(self.shapes) if slots is None else slots
        self.value = nn.Parameter(torch.randn(hidden))
        self.place = nn.Parameter(torch.randn(self.slots, hidden))
        self.element = nn.Linear(hidden, hidden)
        self.head = Head([hidden, *[hidden] * layers, outputs])

    def forward(self, tensors: Mapping[str, Tensor], shapes: Shapes | None = None) -> Tensor:
        """Predict; ``shapes`` are those of this batch's architecture where it is another one.

        Raises ValueError for tensors of other names or shapes, or more of them than slots.
        """
        shapes = self.shapes if shapes is None else shapes
        lead = leading(tensors, shapes)
        if len(shapes) > self.slots:
            raise ValueError(
                f"These DeepSets have room for {self.slots} tensors, received {len(shapes)}. Make "
                "them with slots= as many as the largest architecture has."
            )
        means = []
        for number, name in enumerate(shapes):
            flat = tensors[name].reshape(*lead, -1, 1)
            first = silu(flat * self.value + self.place[number])
            # the mean commutes with nothing but linear maps, so the nonlinearity comes before
            means.append(silu(self.element(first)).mean(-2))
        out: Tensor = self.head(torch.stack(means, -2).mean(-2))
        return out
