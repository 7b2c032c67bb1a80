"""Activations of the same neurons in two networks, for matching by what neurons compute."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.alignment.checks import State
from gmn_opt.alignment.pieces import PLAIN, Piece
from gmn_opt.alignment.running import batches, run
from gmn_opt.graph import ParameterGraph

SAMPLES = 2048
"""Positions (images, pixels, tokens) that are kept per layer."""


def activation_pieces(
    graph: ParameterGraph,
    model: nn.Module,
    reference: State,
    other: State,
    data: Iterable[Any],
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Piece]:
    """Per layer and block of its outputs, standardized activations ``[samples, *legs]``.

    The inner product of a piece is then the sum of the correlations of paired neurons.

    Raises:
        ValueError: No data, or no layer whose outputs can be recorded.
    """
    inputs = list(batches(data))
    sites = dict(_sites(graph, model))
    if not inputs or not sites:
        what = "data holds no batch" if sites else "no layer of this model shows its neurons"
        raise ValueError(f"Cannot record activations: {what}. Use method='weights'.")
    recorded = [_record(model, state, inputs, sites, samples, seed) for state in (reference, other)]
    free = {s.id for s in graph.spaces}
    pieces = []
    for name, (_, dim) in sites.items():
        if name not in recorded[0]:
            continue
        seen = set()
        for block in graph.blocks:
            key = (tuple(block.index[dim]), block.dims[dim]) if block.tensor == name else None
            if key is None or key in seen or not free.intersection(block.dims[dim]):
                continue
            seen.add(key)
            shape = [-1, *(graph.factors[f].size for f in block.dims[dim])]
            sides = [found[name][:, list(block.index[dim])].reshape(shape) for found in recorded]
            legs = (PLAIN, *block.dims[dim])
            pieces.append(Piece(sides[0], sides[1], legs, (PLAIN,) + (0,) * (len(legs) - 1)))
    return pieces


def _sites(graph: ParameterGraph, model: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    """Weights whose module's output has their neurons: name to (axis of the output, of the weight).

    Modules of other kinds are passed over.
    """
    for name in graph.shapes:
        owner, _, leaf = name.rpartition(".")
        if leaf != "weight":
            continue
        places = _places(model.get_submodule(owner))
        if places is not None:
            yield name, places


def _places(module: nn.Module) -> tuple[int, int] | None:
    if isinstance(module, nn.Linear):
        return -1, 0
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return 1, 0
    if isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D":
        return -1, 1
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
        return 1, 0
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        return -1, 0
    return None


def _record(
    model: nn.Module,
    state: State,
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]],
    sites: dict[str, tuple[int, int]],
    samples: int,
    seed: int,
) -> dict[str, Tensor]:
    """Standardized activations ``[samples, neurons]`` by the name of the weight before them."""
    network = copy.deepcopy(model).eval()
    network.load_state_dict(state)
    rows: dict[str, list[Tensor]] = {}
    share = max(1, samples // len(inputs))
    for name, (axis, _) in sites.items():
        generator = torch.Generator().manual_seed(seed)

        def keep(
            _: nn.Module,
            __: Any,
            out: Any,
            name: str = name,
            axis: int = axis,
            generator: torch.Generator = generator,
        ) -> None:
            flat = out.detach().movedim(axis, -1).flatten(0, -2).cpu()
            if len(flat) > share:
                flat = flat[torch.randperm(len(flat), generator=generator)[:share]]
            rows.setdefault(name, []).append(flat.to(torch.float64))

        module = network.get_submodule(name.rpartition(".")[0])
        module.register_forward_hook(keep)
    run(network, inputs)
    return {name: _standardized(torch.cat(found)) for name, found in rows.items()}


def _standardized(x: Tensor) -> Tensor:
    """Columns of mean zero and length one; constant ones become zero."""
    x = x - x.mean(0)
    norm = x.norm(dim=0)
    return torch.where(norm > 1e-9 * (norm.max() + 1e-300), x / norm.clamp_min(1e-300), 0.0)


__all__ = ["SAMPLES", "activation_pieces"]
