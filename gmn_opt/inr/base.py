"""What all implicit neural representations share: a config, a module, a batched forward pass.

An implicit neural representation (INR) is a small network from a coordinate to a value, such as
from a place in an image to its colour. Every kind has a frozen config, which says how to build it,
and a module. Thousands of INRs of one config are one dict of stacked parameters
``{name: [N, *shape]}``; `Inr.batched` evaluates all of them with batched matrix products.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gmn_opt.codec import Choice
from gmn_opt.weights import WeightsError

Params = dict[str, Tensor]


@dataclass(frozen=True)
class InrConfig:
    """How to build an INR, and what its outputs mean.

    Attributes:
        inputs: Number of coordinates, 2 for images; each runs over [-1, 1].
        outputs: Number of values, 1 for grey and 3 for colour images.
        widths: Widths of the hidden layers.
        value_range: The outputs that stand for black and white.
    """

    family: ClassVar[str]

    inputs: int = 2
    outputs: int = 1
    widths: tuple[int, ...] = (32, 32)
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that make no network, or an empty range."""
        sizes = (self.inputs, self.outputs, *self.widths)
        if not self.widths or any(not isinstance(n, int) or n < 1 for n in sizes):
            raise ValueError(
                "An INR needs at least one input, one output and one hidden layer, each of a "
                f"positive width; received inputs={self.inputs}, widths={self.widths}, "
                f"outputs={self.outputs}."
            )
        low, high = self.value_range
        if not low < high:
            raise ValueError(
                f"value_range must be (black, white) with black < white, received {(low, high)}."
            )

    def build(self, generator: torch.Generator | None = None) -> Inr:
        """A freshly initialized INR."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `config_from_dict` reads them back."""
        return _FAMILIES.encode(self)


class Inr(nn.Module, ABC):
    """A network from coordinates ``[..., inputs]`` to values ``[..., outputs]``."""

    def __init__(self, config: InrConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def draw(self, generator: torch.Generator | None) -> Params:
        """Fresh initial parameters of one network, on the CPU; {name: [*shape]}."""

    @abstractmethod
    def batched(self, params: Mapping[str, Tensor], coordinates: Tensor) -> Tensor:
        """Values of N networks at once.

        Args:
            params: ``{name: [N, *shape]}``, all parameters of this module's config.
            coordinates: ``[P, inputs]``, the same for all, or ``[N, P, inputs]``.

        Returns:
            ``[N, P, outputs]``.
        """

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the parameters anew."""
        fresh = self.draw(generator)
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(fresh[name])

    def check_params(self, params: Mapping[str, Tensor]) -> int:
        """N of stacked parameters ``{name: [N, *shape]}``.

        Raises ValueError when names or shapes are not those of this INR.
        """
        want = {n: tuple(p.shape) for n, p in self.named_parameters()}
        missing, extra = sorted(want.keys() - params.keys()), sorted(params.keys() - want.keys())
        if missing or extra:
            raise ValueError(
                f"These are not the parameters of {self.config}: missing {missing[:4]}, "
                f"unexpected {extra[:4]}."
            )
        counts = {t.shape[0] if t.dim() else 0 for t in params.values()}
        for name, shape in want.items():
            if tuple(params[name].shape[1:]) != shape or len(counts) != 1:
                raise ValueError(
                    f"{name}: expected shape [N, {', '.join(map(str, shape))}] with the same N for "
                    f"all parameters, received {list(params[name].shape)}."
                )
        return counts.pop()


def stack(inrs: Sequence[Inr]) -> Params:
    """Parameters of INRs of one config, ``{name: [N, *shape]}``, detached."""
    if len({inr.config for inr in inrs}) != 1:
        raise ValueError(
            f"stack() needs INRs of one config, received {len({i.config for i in inrs})} configs."
        )
    named = [dict(inr.named_parameters()) for inr in inrs]
    return {n: torch.stack([p[n].detach() for p in named]) for n in named[0]}


def unstack(inr: Inr, params: Mapping[str, Tensor], at: int) -> Inr:
    """The network at index ``at`` of stacked parameters, as a module like ``inr``."""
    inr.check_params(params)
    with torch.random.fork_rng(devices=[]):
        one = inr.config.build().to(next(iter(params.values())))
    with torch.no_grad():
        for name, p in one.named_parameters():
            p.copy_(params[name][at])
    return one


_FAMILIES = Choice(InrConfig, "family", "INR", {})


def register(config: type[InrConfig]) -> type[InrConfig]:
    """Make a config known to `config_from_dict` under its family."""
    _FAMILIES.kinds[config.family] = config
    return config


def config_from_dict(values: Mapping[str, Any]) -> InrConfig:
    """The inverse of `InrConfig.to_dict`; raises WeightsError for what is no config."""
    try:
        made: InrConfig = _FAMILIES.decode(values)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"This describes no INR that gmn-opt knows: {error}") from error
    return made


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x`` [N, P, a] or [P, a], ``weight`` [N, b, a], ``bias`` [N, b] to ``[N, P, b]``."""
    if x.dim() == 2:
        x = x.expand(weight.shape[0], -1, -1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator | None) -> Tensor:
    """Draws from U(-bound, bound), float32 on the CPU."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
