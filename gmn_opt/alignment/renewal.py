"""Statistics of an averaged network, set right on data.

The neurons of an average of two networks vary less than those of either (*variance collapse*), so
that running statistics no longer fit, and signals fade from layer to layer. Jordan et al. 2023
(*REPAIR*, arXiv 2211.08403) renew the statistics, and rescale neurons where there is no batch norm.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gmn_opt.alignment.checks import State, check_weights
from gmn_opt.alignment.running import Call, batches, run
from gmn_opt.graph import ParameterGraph

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def renormalize(model: nn.Module, state: State, data: Iterable[Any]) -> dict[str, Tensor]:
    """The state with running statistics renewed on data; everything else as it is.

    Each norm's statistics become the mean over the batches, as with ``momentum=None``, while all
    other modules (dropout) are in evaluation mode.

    Args:
        model: A module of this architecture; left as it is.
        state: State dict of the network whose statistics are renewed.
        data: Batches of inputs: each a tuple of arguments, a dict of keyword arguments, or a
            single argument. Large batches give better statistics.

    Raises:
        ValueError: No batches.
        TypeError: A tensor in place of a list of batches.
    """
    calls = _calls(data)
    network = copy.deepcopy(model).eval()
    network.load_state_dict(state)
    norms = [
        m for m in network.modules() if isinstance(m, _NormBase) and m.running_mean is not None
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        run(network, calls)
    renewed = network.state_dict()
    return {n: renewed[n].clone() if n in renewed else x for n, x in state.items()}


def repair(
    model: nn.Module,
    graph: ParameterGraph,
    state: State,
    ends: Sequence[State],
    data: Iterable[Any],
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """An average with neurons rescaled to the mean and spread that they have in its ends.

    For networks without running statistics: the outputs of each linear and convolutional layer
    that has a bias and a free space of neurons get, neuron by neuron, the weighted mean of the
    means and of the standard deviations that the ends have there. Layers are set one after the
    other, each with those before it set already: one pass over the data per layer.

    Args:
        model: A module of this architecture; left as it is.
        graph: Its parameter graph; says which neurons are hidden.
        state: The average.
        ends: The networks that it is an average of, aligned.
        data: As in :func:`renormalize`.
        weights: Of the ends, as in the average; equal by default.

    Raises:
        ValueError: No batches, or weights that do not fit.
    """
    calls = _calls(data)
    shares = check_weights(weights or [1 / len(ends)] * len(ends), len(ends))
    layers = _layers(model, graph)
    targets = []
    for end in ends:
        network = copy.deepcopy(model).eval()
        network.load_state_dict(end)
        targets.append(_statistics(network, layers, calls))
    network = copy.deepcopy(model).eval()
    network.load_state_dict(state)
    order = list(targets[0]) if targets else []
    for name in order:
        mean, std = (
            sum((w * t[name][k] for w, t in zip(shares, targets, strict=True)), torch.tensor(0.0))
            for k in (0, 1)
        )
        now = _statistics(network, [name], calls)[name]
        layer: Any = network.get_submodule(name)
        ratio = torch.where(now[1] > 1e-8, std / now[1].clamp_min(1e-8), 1.0)
        with torch.no_grad():
            weight, bias = layer.weight, layer.bias
            weight.mul_(ratio.to(weight).reshape(-1, *[1] * (weight.dim() - 1)))
            bias.copy_(((bias - now[0].to(bias)) * ratio.to(bias)) + mean.to(bias))
    renewed = network.state_dict()
    return {n: renewed[n].clone() if n in renewed else x for n, x in state.items()}


def _calls(data: Iterable[Any]) -> list[Call]:
    calls = list(batches(data))
    if not calls:
        raise ValueError("data holds no batch; statistics need at least one.")
    return calls


def _layers(model: nn.Module, graph: ParameterGraph) -> list[str]:
    """Layers with a bias along a free space, by module name."""
    free = {s.id for s in graph.spaces}
    along = {b.tensor for b in graph.blocks for dim in b.dims if free.intersection(dim)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)) and f"{name}.bias" in along
    ]


def _statistics(
    network: nn.Module, layers: Sequence[str], calls: Sequence[Call]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each layer's neurons, in the order of their first call."""
    sums: dict[str, Tensor] = {}
    handles = []
    for name in layers:
        module = network.get_submodule(name)
        axis = 1 if isinstance(module, _CONVOLUTIONS) else -1

        def add(_: nn.Module, __: Any, out: Tensor, name: str = name, axis: int = axis) -> None:
            flat = out.detach().movedim(axis, -1).flatten(0, -2).double()
            found = torch.stack([torch.ones_like(flat[0]) * len(flat), flat.sum(0)])
            found = torch.cat([found, flat.square().sum(0)[None]])
            sums[name] = sums[name] + found if name in sums else found

        handles.append(module.register_forward_hook(add))
    run(network, calls)
    for handle in handles:
        handle.remove()
    return {
        name: (total / n, (squares / n - (total / n) ** 2).clamp_min(0).sqrt())
        for name, (n, total, squares) in sums.items()
    }


__all__ = ["renormalize", "repair"]
