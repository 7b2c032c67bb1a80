"""What a rule is given at one step, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


@dataclass(frozen=True)
class StepInputs:
    """The whole input of ``rule.flat_update``: one step of one network, or of several.

    All tensors are flat: P numbers in the order of ``gmn_opt.metanet.blocked(graph)``. Leading
    dimensions batch networks that share the graph.

    Attributes:
        graph: of the network's parameters.
        theta: the parameters, ``[..., P]``.
        grad: their gradients, ``[..., P]``.
        moments: what the rule accumulated so far, ``[..., M, P]``: one row for each of the rule's
            ``moment_names``.
        step: gradients seen before this one.
        horizon: steps that the whole training will take, None if nobody knows.
        first_order: differentiate nothing through theta, grad and moments, only through the rule's
            own parameters: a meta-gradient without second-order terms.
        thought: what the rule gave back as such at the step before, ``[..., T]``; None before the
            first step, and for rules that keep none.
    """

    graph: ParameterGraph
    theta: Tensor
    grad: Tensor
    moments: Tensor
    step: int
    horizon: int | None = None
    first_order: bool = False
    thought: Tensor | None = None


class StepOutputs(NamedTuple):
    """What to add to ``theta`` ``[..., P]``, the next moments ``[..., M, P]``, and the thought."""

    delta: Tensor
    moments: Tensor
    thought: Tensor | None = None
