"""An MLP on the flattened parameters: no symmetry at all."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor, nn

from gmn_opt.metanet.baselines.common import Shapes, fixed_shapes, flatten, mlp


class FlatMLP(nn.Module):
    """``{name: [..., *shape]}`` to ``[..., outputs]``.

    Args:
        shapes: Shape of every parameter; their order is that of the flattened vector.
        outputs: Numbers to predict.
        hidden: Width of the hidden layers.
        layers: Hidden layers.
    """

    def __init__(self, shapes: Shapes, outputs: int, hidden: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.shapes = fixed_shapes(shapes)
        size = sum(prod(s) for s in self.shapes.values())
        self.net = mlp([size, *[hidden] * layers, outputs])

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Predict; raises ValueError for tensors of other names or shapes."""
        out: Tensor = self.net(flatten(tensors, self.shapes))
        return out
