"""How far a network is from learned answers at learned inputs, and where its weights go downhill.

A velocity field that reads weights and activations has to work out by message passing what each
weight does to what the network says. Backpropagation says that exactly: the gradient, by the
weights, of how far the network is from what networks of this kind answer. Inputs and answers are
learned with the field, a data set distilled into a few numbers (Wang et al. 2018, arXiv
1811.10959), so that nothing but weights is needed to generate. The energy is invariant under the
symmetries of the graph, and its gradient equivariant.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import grad

from gmn_opt.generate.behaviour import Gap, gaps, said_by
from gmn_opt.generate.units import Units
from gmn_opt.graph import ParameterGraph


class Energy(nn.Module):
    """Of networks of one architecture.

    Args:
        model: A network of the architecture; its values are not used, its buffers are.
        inputs: What the learned inputs begin as, ``[count, ...]``, in floating point.
        kind: ``"kl"`` where the last dimension of outputs are logits, otherwise ``"mse"``.

    Raises ValueError for a model that cannot be called with the inputs.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, kind: Gap = "kl") -> None:
        super().__init__()
        kept = copy.deepcopy(model).eval().requires_grad_(False)
        self._model = (kept,)  # a module in a tuple is no submodule
        self.kind = kind
        try:
            with torch.no_grad():
                said: Tensor = kept(inputs)
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                f"The model cannot be called with {list(inputs.shape)} of {inputs.dtype}, which "
                f"anchors begin as: {error}. Pass example=, a tensor of what the networks read."
            ) from error
        self.inputs = nn.Parameter(inputs.clone())
        self.answers = nn.Parameter(torch.zeros_like(said))

    def forward(self, graph: ParameterGraph, units: Units, values: Tensor) -> Tensor:
        """Energies ``[B]`` of networks ``[B, P]`` in units."""
        said = said_by(*self._model, graph, units, values, self.inputs)
        if self.kind == "kl":
            return gaps("kl", said, self.answers.expand_as(said))
        return 0.5 * (said - self.answers).square().flatten(1).mean(1)

    def slope(self, graph: ParameterGraph, units: Units, values: Tensor) -> Tensor:
        """Gradients of the energies by ``values``, ``[B, P]``; differentiable."""
        found: Tensor = grad(lambda at: self(graph, units, at).sum())(values)
        return found


__all__ = ["Energy"]
