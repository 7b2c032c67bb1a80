"""Probe features: what the neurons of a network say to learned inputs.

Kofinas et al. 2024 (arXiv 2403.12143, section 3, "probe features") run the input network on inputs
that are learned with the metanet, and add every neuron's activations to its node features. They are
equivariant, since a permutation of neurons permutes activations, and they say what a few rounds of
message passing cannot: what the network as a whole does.

Here, what is read is the output of the module that owns a neuron's weights, before the activation
function, averaged over positions where there are any. The output may grow without bound where the
weights do, so it goes through ``asinh``, which is nearly linear for small values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd

from gmn_opt.metanet.checks import check_tensors
from gmn_opt.metanet.layout import blocked

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph


class _Site(NamedTuple):
    """Where the nodes of a group are seen: channels of the output (or input) of a module."""

    group: int
    module: str
    at_input: bool
    channels: tuple[int, ...]
    axis: int


def buffers_like(model: nn.Module, like: Tensor) -> dict[str, Tensor]:
    """The buffers of ``model``, on the device and, but for integers, in the dtype of ``like``."""
    return {
        n: b.to(like) if b.is_floating_point() else b.to(like.device)
        for n, b in model.named_buffers()
    }


class Probes(nn.Module):
    """Node features from learned inputs, for the networks of one architecture.

    Args:
        model: A network of the architecture; its values are not used, its buffers are. A copy in
            evaluation mode is kept.
        graph: Its parameter graph.
        example: Inputs as the model takes them, ``[batch, ...]`` each, in floating point. Their
            first element's shape is that of a probe.
        count: Number of probes, the features per node.
        scale: Standard deviation of the probes at initialization.

    ``covered`` names the groups of neurons that are seen: those behind (or, for inputs, before) a
    linear layer or a convolution. All others get zeros.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ParameterGraph,
        example: Tensor | tuple[Tensor, ...],
        count: int = 8,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        inputs = (example,) if isinstance(example, Tensor) else tuple(example)
        bad = [list(x.shape) for x in inputs if x.dim() < 1 or not x.is_floating_point()]
        if bad or not inputs or count < 1:
            raise ValueError(
                "Probes are learned inputs: they need floating-point example inputs [batch, ...] "
                f"and a count of at least 1, received inputs {[list(x.shape) for x in inputs]} of "
                f"{[x.dtype for x in inputs]} and count={count}. Token ids cannot be learned; pass "
                "a model that begins behind the embedding."
            )
        names = {n for n, _ in model.named_parameters()}
        if set(graph.shapes) - names:
            raise ValueError(
                f"The graph has parameters {sorted(set(graph.shapes) - names)[:4]} that the model "
                "does not have. Pass the model that was traced."
            )
        self.graph, self.count = graph, count
        kept = copy.deepcopy(model).eval().requires_grad_(False)
        # a module in a tuple is no submodule: the probed network has no share in the parameters
        self._model = (kept,)
        self.inputs = nn.ParameterList(
            nn.Parameter(torch.randn(count, *x.shape[1:]) * scale) for x in inputs
        )
        self._sites = _sites(kept, graph)

    @property
    def covered(self) -> tuple[str, ...]:
        """Names of the groups whose activations are seen."""
        found = {s.group for s in self._sites}
        return tuple(g.name for g in self.graph.groups if g.id in found)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """``{name: [..., *shape]}`` to ``[..., N, count]``, differentiable in tensors and probes.

        Raises ValueError for tensors that do not match the graph, in names, shapes, dtype or
        device.
        """
        lead = check_tensors(self, self.graph, tensors)
        shapes = self.graph.shapes
        flat = {n: tensors[n].reshape(-1, *shape) for n, shape in shapes.items()}
        out: Tensor = vmap(self._one, randomness="error")(flat)
        return out.view(*lead, *out.shape[1:])

    def _one(self, tensors: dict[str, Tensor]) -> Tensor:
        """Of one network: ``[N, count]``."""
        (model,) = self._model
        like = self.inputs[0]
        buffers = buffers_like(model, like)
        seen: dict[int, list[Tensor]] = {}

        def watch(site: _Site) -> torch.utils.hooks.RemovableHandle:
            def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
                value = given[0] if site.at_input else made
                picked = value.movedim(site.axis, 1).flatten(2) if value.dim() > 2 else value
                if picked.dim() == 3:
                    picked = picked.mean(2)
                channels = torch.tensor(site.channels, device=picked.device)
                seen.setdefault(site.group, []).append(picked[:, channels].mT)

            return model.get_submodule(site.module).register_forward_hook(hook)

        handles = [watch(site) for site in self._sites]
        try:
            functional_call(model, {**tensors, **buffers}, tuple(self.inputs), strict=False)
        finally:
            for handle in handles:
                handle.remove()
        parts = []
        for group, size in enumerate(blocked(self.graph).group_sizes):
            found = seen.get(group)
            if not found:
                parts.append(like.new_zeros(size, self.count))
                continue
            # a module that is called several times, by the mean over calls
            parts.append(torch.asinh(torch.stack(found).mean(0)))
        return torch.cat(parts)


def _sites(model: nn.Module, graph: ParameterGraph) -> list[_Site]:
    """One site per group that a linear layer or convolution has as its output or input."""
    found: dict[int, _Site] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | _ConvNd):
            continue
        axis = -1 if isinstance(module, nn.Linear) else 1
        transposed = isinstance(module, _ConvNd) and module.transposed
        grouped = isinstance(module, _ConvNd) and module.groups > 1
        tensor = f"{name}.weight" if name else "weight"
        tensor = graph.aliases.get(tensor, tensor)
        for block in graph.blocks:
            if block.tensor != tensor:
                continue
            for at_input, group in ((False, block.dst), (True, block.src)):
                role = "src" if at_input else "dst"
                dim = int(at_input != transposed)
                if at_input and (graph.groups[group].role != "input" or grouped):
                    continue
                if not at_input and transposed and grouped:
                    continue
                # one channel per node and one node per channel, in the same order
                fits = block.dims[dim] == graph.groups[group].factors
                if fits and set(block.roles[dim]) <= {role}:
                    site = _Site(group, name, at_input, tuple(block.index[dim]), axis)
                    found.setdefault(group, site)
    return [found[g] for g in sorted(found)]
