"""What is refused before anything is aligned or averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph

State = Mapping[str, Tensor]


def check_states(graph: ParameterGraph, states: Sequence[State], names: Sequence[str]) -> None:
    """Raise ValueError unless every state has the graph's parameters, finite and in its shapes."""
    for state, which in zip(states, names, strict=True):
        missing = [n for n in graph.shapes if n not in state]
        if missing:
            extra = [n for n in state if n not in graph.shapes and n not in graph.aliases]
            hint = f"; it has {extra[0]!r} instead" if extra else ""
            raise ValueError(
                f"{which} has no {missing[0]!r} ({len(missing)} of {len(graph.shapes)} parameters "
                f"missing{hint}). Pass the state_dict() of the traced architecture."
            )
        for name, shape in graph.shapes.items():
            tensor = state[name]
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{which}: {name!r} has shape {list(tensor.shape)}, the graph has "
                    f"{list(shape)}. Only networks of the same sizes can be aligned."
                )
            if tensor.is_complex():
                raise ValueError(f"{which}: {name!r} is complex, which cannot be aligned.")
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{which}: {name!r} holds NaN or infinity. Check the training that made it."
                )


def check_weights(weights: Sequence[float], count: int) -> list[float]:
    """Raise ValueError unless there is a finite weight for each network, and they sum to 1."""
    if len(weights) != count:
        raise ValueError(f"Received {len(weights)} weights for {count} networks; give one each.")
    total = sum(weights)
    if not abs(total - 1) < 1e-6:
        raise ValueError(f"The weights {list(weights)} sum to {total:g}; they must sum to 1.")
    return [float(w) for w in weights]


__all__ = ["State", "check_states", "check_weights"]
