"""An optimizer's state for the parameters of a widened model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.widening.copies import WidenError
from gmn_opt.widening.growth import Growth

SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "second"})
"""Entries that hold squares of gradients: AdamW, RMSprop, Adadelta, Adagrad, GMNOptimizer."""
GRAPH = "graph"
"""Where ``GMNOptimizer`` keeps the graphs of its parameters, in the first group."""


def widened_state(
    growths: Sequence[Growth], optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, Any]:
    """``optimizer.state_dict()`` as it would be had the model been wide all along.

    Means of gradients and of their squares follow their parameters: a copy has its share of the
    gradient. Learning rates and step counts stay as they are.

    Args:
        growths: How the model was widened.
        optimizer: Of the parameters of ``model``; left as it is.
        model: The model before it was widened.

    Returns:
        A state to load into an optimizer of the same kind on the widened model's parameters, in
        the same order and groups.

    Raises:
        WidenError: Parameters that are not the model's, or state in other shapes than theirs.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if any(id(p) not in names for p in parameters):
        raise WidenError("This optimizer has parameters that are not the model's.")
    saved = optimizer.state_dict()
    state = {}
    for index, entries in saved["state"].items():
        p = parameters[index]
        state[index] = {
            key: _widened(growths, names[id(p)], key, value, p) for key, value in entries.items()
        }
    # a graph of the narrow model is of no use: the wide one is traced at its first step
    groups = [{**group, GRAPH: ""} if GRAPH in group else group for group in saved["param_groups"]]
    return {**saved, "state": state, "param_groups": groups}


def _widened(growths: Sequence[Growth], name: str, key: str, value: Any, p: Tensor) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if value.shape != p.shape:
        raise WidenError(
            f"The state {key!r} of {name!r} has shape {list(value.shape)}, which does not follow "
            f"the parameter's {list(p.shape)}. Begin with a new optimizer."
        )
    for growth in growths:
        value = growth.moments(name, value, 2 if key in SQUARES else 1)
    return value


__all__ = ["widened_state"]
