"""What the baselines share: checked shapes, flattening, a plain MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Shapes = Mapping[str, Sequence[int]]


def fixed_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """``shapes`` as tuples; raises ValueError when there are none, or none with elements."""
    made = {name: tuple(int(n) for n in shape) for name, shape in shapes.items()}
    if not made or any(n < 1 for shape in made.values() for n in shape):
        raise ValueError(
            f"A metanetwork needs the shapes of at least one non-empty parameter, received {made}."
        )
    return made


def leading(tensors: Mapping[str, Tensor], shapes: Shapes, channels: int = 0) -> torch.Size:
    """The batch shape of ``tensors``, each ``[..., *shape]``, or ``[..., *shape, channels]``.

    Raises ValueError when names or shapes are others, or batch shapes differ.
    """
    missing = [n for n in shapes if n not in tensors]
    extra = [n for n in tensors if n not in shapes]
    if missing or extra:
        raise ValueError(
            f"These are not the tensors of this metanetwork: missing {missing[:4]}, unexpected "
            f"{extra[:4]}. Pass one tensor per parameter."
        )
    found: torch.Size | None = None
    for name, shape in shapes.items():
        want, got = (*shape, *((channels,) if channels else ())), tuple(tensors[name].shape)
        lead = torch.Size(got[: len(got) - len(want)])
        if (*lead, *want) != got or (found is not None and lead != found):
            raise ValueError(
                f"{name}: expected shape [..., {', '.join(map(str, want))}] with the same leading "
                f"dimensions for all parameters, received {list(got)}."
            )
        found = lead
    assert found is not None
    return found


def flatten(tensors: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    """All parameters in the order of ``shapes``, ``[..., P]``."""
    lead = leading(tensors, shapes)
    return torch.cat([tensors[name].reshape(*lead, -1) for name in shapes], -1)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes with SiLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Head(nn.Module):
    """What all predictors end in: features standardized over the batch, then an MLP.

    Averages over hundreds of weights vary little from network to network next to what they have in
    common; without standardizing, an MLP takes long to see the difference. In evaluation mode,
    running statistics stand for those of the batch.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.standardize = nn.BatchNorm1d(sizes[0])
        self.net = mlp(sizes)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., features]`` to ``[..., outputs]``."""
        flat = self.standardize(features.reshape(-1, features.shape[-1]))
        out: Tensor = self.net(flat)
        return out.reshape(*features.shape[:-1], -1)
