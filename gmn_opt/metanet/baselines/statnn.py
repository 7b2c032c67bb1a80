"""StatNN: statistics of every tensor (Unterthiner et al. 2020, arXiv 2002.11448, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gmn_opt.metanet.baselines.common import Head, Shapes, fixed_shapes, leading

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = 2 + len(QUANTILES)


def statistics(tensors: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    """Mean, variance (of the population) and five quantiles of every tensor, ``[..., T, 7]``.

    Quantiles are interpolated linearly, as by numpy.
    """
    lead = leading(tensors, shapes)
    rows = []
    for name in shapes:
        flat = tensors[name].reshape(*lead, -1)
        levels = torch.tensor(QUANTILES, dtype=flat.dtype, device=flat.device)
        quantiles = flat.quantile(levels, -1).movedim(0, -1)
        moments = torch.stack([flat.mean(-1), flat.var(-1, correction=0)], -1)
        rows.append(torch.cat([moments, quantiles], -1))
    return torch.stack(rows, -2)


class StatNN(nn.Module):
    """Statistics of every tensor, then an MLP: ``{name: [..., *shape]}`` to ``[..., outputs]``.

    The paper's predictor is a gradient-boosted tree on these features, or a linear one; graph
    metanetworks were compared to it with an MLP on top, as here.

    Args:
        shapes: Shape of every parameter.
        outputs: Numbers to predict.
        hidden: Width of the hidden layers.
        layers: Hidden layers.
        slots: Most tensors of an architecture that is ever passed; by default those of
            ``shapes``. An architecture with fewer leaves the last slots at zero.
    """

    def __init__(
        self,
        shapes: Shapes,
        outputs: int,
        hidden: int = 256,
        layers: int = 2,
        slots: int | None = None,
    ) -> None:
        super().__init__()
        self.shapes = fixed_shapes(shapes)
        self.slots = len(self.shapes) if slots is None else slots
        self.head = Head([self.slots * STATISTICS, *[hidden] * layers, outputs])

    def forward(self, tensors: Mapping[str, Tensor], shapes: Shapes | None = None) -> Tensor:
        """Predict; ``shapes`` are those of this batch's architecture where it is another one.

        Raises ValueError for tensors of other names or shapes, or more of them than slots.
        """
        features = statistics(tensors, self.shapes if shapes is None else shapes)
        room = self.slots - features.shape[-2]
        if room < 0:
            raise ValueError(
                f"This StatNN has room for {self.slots} tensors, received {features.shape[-2]}. "
                "Make it with slots= as many as the largest architecture has."
            )
        padded = nn.functional.pad(features, (0, 0, 0, room))
        out: Tensor = self.head(padded.flatten(-2))
        return out
