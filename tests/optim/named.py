"""A rule on named tensors: how one would write its step without flat vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.optim import StepInputs


@dataclass(frozen=True)
class NamedState:
    """Gradients seen so far, and ``{moment: {parameter: [*shape]}}``."""

    step: int
    moments: dict[str, dict[str, Tensor]]

    @staticmethod
    def initial(rule: Any, params: Mapping[str, Tensor]) -> NamedState:
        """The state before the first step."""
        return NamedState(
            0, {m: {n: torch.zeros_like(p) for n, p in params.items()} for m in rule.moment_names}
        )


def named_step(
    rule: Any,
    graph: ParameterGraph,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: NamedState,
    horizon: int | None = None,
) -> tuple[dict[str, Tensor], NamedState]:
    """What to add to ``params`` {name: [*shape]}, and the state after it."""
    layout = blocked(graph)
    flat = torch.stack([layout.flatten(state.moments[m]) for m in rule.moment_names])
    inputs = StepInputs(
        graph, layout.flatten(params), layout.flatten(grads), flat, state.step, horizon
    )
    delta, after = rule.flat_update(inputs)
    moments = {m: layout.unflatten(after[i]) for i, m in enumerate(rule.moment_names)}
    return layout.unflatten(delta), NamedState(state.step + 1, moments)
