"""Networks to predict from: a graph and values each, whatever form they are given in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gmn_opt.graph import ParameterGraph, TraceError, trace
from gmn_opt.metanet.batching import digest


class Network(NamedTuple):
    """A network's parameter graph and the values of its parameters by name."""

    graph: ParameterGraph
    tensors: Mapping[str, Tensor]


class NetworkError(ValueError):
    """A network cannot be read; the message says which one, why, and what to do."""


Given = nn.Module | Network | tuple[ParameterGraph, Mapping[str, Tensor]]
_PLAIN = (int, float, str, bool, type(None), torch.dtype, torch.device)


def as_networks(
    networks: Sequence[Given], example_inputs: tuple[Any, ...] | Tensor | None = None
) -> list[Network]:
    """Modules, or pairs of a graph and a state dict, as checked networks.

    Modules of one architecture are traced once: those of equal classes whose plain attributes
    and parameter shapes are equal, in all submodules. A module with any other attribute is
    traced by itself.

    Args:
        networks: In any mixture of forms and architectures.
        example_inputs: What every module is called with when it is traced.

    Raises:
        NetworkError: No networks, something that is none, a module without example inputs or one
            that cannot be traced, names or shapes that are not the graph's, values that are not
            finite.
    """
    if isinstance(networks, nn.Module | Network) or not len(networks):
        what = "none" if not isinstance(networks, nn.Module | Network) else "a single one"
        raise NetworkError(f"A list of at least one network is needed, received {what}.")
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    graphs: dict[Hashable, ParameterGraph] = {}
    found = []
    for number, given in enumerate(networks):
        where = f"Network {number} of {len(networks)}"
        if isinstance(given, nn.Module):
            graph = _traced(given, inputs, graphs, where)
            tensors: Mapping[str, Tensor] = {n: p.detach() for n, p in given.named_parameters()}
        elif isinstance(given, tuple) and len(given) == 2:
            graph, tensors = given
        else:
            raise NetworkError(
                f"{where} is a {type(given).__name__}. Pass a torch.nn.Module, or a pair of a "
                "ParameterGraph and a state dict."
            )
        found.append(Network(graph, checked(graph, tensors, where)))
    return found


def checked(
    graph: ParameterGraph, tensors: Mapping[str, Tensor], where: str = "The network"
) -> dict[str, Tensor]:
    """The tensors that ``graph`` names, detached and in floating point.

    Raises NetworkError for none at all, missing ones, other shapes, and values that are not
    finite.
    """
    out = {}
    if not graph.shapes:
        raise NetworkError(f"{where} has no parameters to predict from. Leave it out.")
    for name, shape in graph.shapes.items():
        if name not in tensors:
            raise NetworkError(
                f"{where} has no tensor {name!r}, which its graph has; it has "
                f"{sorted(tensors)[:6]}. Pass the state dict of the traced architecture."
            )
        t = tensors[name].detach()
        if tuple(t.shape) != tuple(shape):
            raise NetworkError(
                f"{where}: {name} has shape {list(t.shape)}, its graph says {list(shape)}. Pass "
                "the state dict of the traced architecture."
            )
        if t.is_meta:
            raise NetworkError(f"{where}: {name} is on the meta device. Load its weights first.")
        if not t.is_floating_point():
            t = t.float()
        if not bool(t.isfinite().all()):
            bad = int((~t.isfinite()).sum())
            raise NetworkError(
                f"{where}: {name} has {bad} of {t.numel()} values that are NaN or infinite. The "
                "network diverged, or its file is damaged; leave it out."
            )
        out[name] = t
    return out


def _traced(
    model: nn.Module,
    inputs: tuple[Any, ...] | None,
    graphs: dict[Hashable, ParameterGraph],
    where: str,
) -> ParameterGraph:
    if inputs is None:
        raise NetworkError(
            f"{where} is a {type(model).__name__}, and there are no example inputs. Pass "
            "example_inputs=(x,), with x as the networks take it."
        )
    empty = [n for n, p in model.named_parameters() if is_lazy(p) or p.is_meta]
    if empty:
        raise NetworkError(
            f"{where} has no values in {empty[:4]}: its weights were not loaded (meta device, or "
            "lazy modules that were never called). Load them first."
        )
    key = signature(model)
    if key is not None and key in graphs:
        return graphs[key]
    try:
        graph = trace(model, *inputs, progress=False)
    except TraceError as error:
        raise NetworkError(f"{where} cannot be traced: {error}") from error
    if key is not None:
        graphs[key] = graph
    return graph


def signature(model: nn.Module) -> Hashable | None:
    """Equal for modules that do the same with their parameters; None where nobody can know."""
    parts: list[Hashable] = []
    known = {id(m): n for n, m in model.named_modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        parts.append((name, known[id(module)], type(module), module.training))
        shapes = [(n, p.shape, p.dtype) for n, p in module.named_parameters(recurse=False)]
        buffers = [(n, b.shape, b.dtype) for n, b in module.named_buffers(recurse=False)]
        parts += [tuple(shapes), tuple(buffers)]
        for attribute, value in sorted(vars(module).items()):
            if attribute in ("_parameters", "_buffers", "_modules", "training"):
                continue
            plain = _plain(value)
            if plain is None:
                return None
            parts.append((attribute, plain))
    shared = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        shared[name] = id(p)
    first: dict[int, str] = {}
    parts.append(tuple(first.setdefault(i, n) for n, i in shared.items()))
    return tuple(parts)


def _plain(value: object) -> Hashable | None:
    """``value`` in a form that compares, or None for anything that may hide behaviour."""
    if isinstance(value, _PLAIN):
        return (type(value), value)
    if isinstance(value, tuple | list):
        parts = [_plain(v) for v in value]
        return None if None in parts else (type(value), tuple(parts))
    if isinstance(value, set | dict) and not value:
        return (type(value),)
    return None


@dataclass(frozen=True)
class Stack:
    """Networks that share a graph: ``{name: [n, *shape]}``, and their places in a list.

    ``covariates`` [n, .] are numbers that are known of them beside their weights.
    """

    graph: ParameterGraph
    tensors: dict[str, Tensor]
    places: Tensor
    covariates: Tensor

    def __len__(self) -> int:
        """How many."""
        return len(self.places)

    def __getitem__(self, chosen: Tensor) -> Stack:
        """Some of them."""
        tensors = {n: t[chosen] for n, t in self.tensors.items()}
        return replace(
            self, tensors=tensors, places=self.places[chosen], covariates=self.covariates[chosen]
        )


def as_covariates(covariates: Tensor | None, count: int, width: int | None = None) -> Tensor:
    """What is known of ``count`` networks beside their weights, ``[count, .]``; none by default.

    Raises ValueError for other shapes, values that are not finite, and another number of them than
    ``width``.
    """
    if covariates is None:
        found = torch.zeros(count, 0)
    else:
        found = torch.as_tensor(covariates)
        if found.dim() != 2 or len(found) != count or found.dtype.is_complex:
            raise ValueError(
                f"covariates are real numbers [networks, .], one row for each of {count} networks; "
                f"received {found.dtype} {list(found.shape)}."
            )
        found = found.detach().cpu()
        found = found if found.is_floating_point() else found.float()
        usable = found.float().isfinite()  # what metanets and trees read
        if not bool(usable.all()):
            rows = (~usable).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"covariates are NaN or infinite in float32 for networks {rows[:6]}. Leave these "
                "networks out, or give a value that says so."
            )
    if width is not None and found.shape[1] != width:
        raise ValueError(
            f"The predictor was trained with {width} covariates per network, received "
            f"{found.shape[1]}. Pass covariates=[networks, {width}]."
        )
    return found


def stacked(networks: Sequence[Network], covariates: Tensor | None = None) -> list[Stack]:
    """Networks grouped by graph, in order of first appearance.

    Graphs that are one object, or equal in everything, count as the same. ``covariates`` are as
    :func:`as_covariates` gives them.
    """
    known = torch.zeros(len(networks), 0) if covariates is None else covariates
    groups: dict[str, list[int]] = {}
    for number, (graph, _) in enumerate(networks):
        groups.setdefault(digest(graph), []).append(number)
    return [_stack(networks, known, places) for places in groups.values()]


def as_stacks(
    networks: Sequence[Given],
    example_inputs: tuple[Any, ...] | Tensor | None,
    covariates: Tensor | None,
    width: int,
) -> list[Stack]:
    """Networks to predict from, checked and grouped by graph, with ``width`` covariates each."""
    found = as_networks(networks, example_inputs)
    return stacked(found, as_covariates(covariates, len(found), width))


def _stack(networks: Sequence[Network], known: Tensor, places: list[int]) -> Stack:
    graph = networks[places[0]].graph
    tensors = {}
    for name in graph.shapes:
        found = [networks[i].tensors[name] for i in places]
        # one double among them makes all double: nothing is lost
        dtype = torch.float64 if any(t.dtype == torch.float64 for t in found) else torch.float32
        tensors[name] = torch.stack([t.to(dtype) for t in found])
    where = torch.tensor(places)
    return Stack(graph, tensors, where, known[where])
