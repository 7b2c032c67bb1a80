"""DMC: 1D convolutions over the flattened parameters (Eilertsen et al. 2020, arXiv 2002.05688).

Their deep meta-classifier reads slices of the weight vector; as in later comparisons, this one
reads all of it, and averages over positions at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from gmn_opt.metanet.baselines.common import Head, Shapes, fixed_shapes, flatten


class DMC(nn.Module):
    """``{name: [..., *shape]}`` to ``[..., outputs]``.

    Args:
        shapes: Shape of every parameter; their order is that of the flattened vector.
        outputs: Numbers to predict.
        channels: Channels of the convolutions, one per entry.
        kernel: Their width.
        stride: Their stride.
        hidden: Width of the layer behind the average.
    """

    def __init__(
        self,
        shapes: Shapes,
        outputs: int,
        channels: tuple[int, ...] = (16, 32, 64),
        kernel: int = 9,
        stride: int = 4,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.shapes = fixed_shapes(shapes)
        layers: list[nn.Module] = []
        for a, b in pairwise((1, *channels)):
            layers += [nn.Conv1d(a, b, kernel, stride, padding=kernel // 2), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers)
        self.head = Head([channels[-1], hidden, outputs])

    def forward(self, tensors: Mapping[str, Tensor], shapes: Shapes | None = None) -> Tensor:
        """Predict; ``shapes`` are those of this batch's architecture where it is another one.

        Raises ValueError for tensors of other names or shapes.
        """
        flat = flatten(tensors, self.shapes if shapes is None else shapes)
        lead = flat.shape[:-1]
        seen = self.convolutions(flat.reshape(-1, 1, flat.shape[-1])).mean(-1)
        out: Tensor = self.head(seen)
        return out.reshape(*lead, -1)
