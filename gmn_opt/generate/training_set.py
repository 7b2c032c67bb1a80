"""Networks to learn from, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gmn_opt.generate.units import stacked
from gmn_opt.graph import ParameterGraph

#: State dicts or modules, or stacked parameters ``{name: [N, *shape]}``.
Networks = Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]] | Sequence[nn.Module]
Graphs = ParameterGraph | Sequence[ParameterGraph]


def training_sets(
    networks: Networks | Sequence[Networks], graph: Graphs
) -> list[tuple[ParameterGraph, Tensor]]:
    """Each graph with its networks ``[N, P]``.

    Raises ValueError for networks that do not fit, NaN or infinity, and fewer than two networks.
    """
    if isinstance(graph, ParameterGraph):
        return [(graph, training_set(networks, graph))]  # type: ignore[arg-type]
    if isinstance(networks, Mapping) or len(networks) != len(graph):
        count = "one" if isinstance(networks, Mapping) else len(networks)
        raise ValueError(
            f"Received {len(graph)} graphs and {count} sets of networks; give one set per graph."
        )
    return [(g, training_set(n, g)) for n, g in zip(networks, graph, strict=True)]  # type: ignore[arg-type]


def training_set(networks: Networks, graph: ParameterGraph) -> Tensor:
    """Networks of one graph, ``[N, P]``; raises ValueError as `training_sets`."""
    if not isinstance(networks, Mapping):
        networks = _stack(networks, graph)
    missing = [n for n in graph.shapes if n not in networks]
    if missing:
        raise ValueError(
            f"The networks have no {missing[0]!r} ({len(missing)} of {len(graph.shapes)} "
            "parameters missing). Pass state dicts of the traced architecture."
        )
    counts = set()
    for name, shape in graph.shapes.items():
        tensor = networks[name]
        if tuple(tensor.shape[1:]) != shape:
            raise ValueError(
                f"{name!r}: expected shape [N, {', '.join(map(str, shape))}], received "
                f"{list(tensor.shape)}."
            )
        counts.add(len(tensor))
        bad = ~tensor.isfinite().flatten(1).all(1)
        if bool(bad.any()):
            raise ValueError(
                f"Network {int(bad.nonzero()[0])}: {name!r} holds NaN or infinity. Leave such "
                "networks out."
            )
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            f"A generator needs at least two networks, the same number of each tensor; received "
            f"{sorted(counts)}."
        )
    return stacked(networks, graph)


def _stack(
    networks: Sequence[Mapping[str, Tensor]] | Sequence[nn.Module], graph: ParameterGraph
) -> dict[str, Tensor]:
    states = [n.state_dict() if isinstance(n, nn.Module) else n for n in networks]
    if len(states) < 2:
        raise ValueError(f"A generator needs at least two networks, received {len(states)}.")
    for i, state in enumerate(states):
        for name, shape in graph.shapes.items():
            if name not in state or tuple(state[name].shape) != shape:
                got = list(state[name].shape) if name in state else "nothing"
                raise ValueError(
                    f"Network {i}: expected {name!r} of shape {list(shape)}, received {got}. "
                    "Networks of several widths need a list of graphs, and one list of networks "
                    "per graph."
                )
    return {n: torch.stack([s[n].detach() for s in states]) for n in graph.shapes}


__all__ = ["Graphs", "Networks", "training_set", "training_sets"]
