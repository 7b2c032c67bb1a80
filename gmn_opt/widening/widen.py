"""``widen``: a network with more neurons that computes the same function."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.graph import Factor, ParameterGraph
from gmn_opt.graph.verify import Checker
from gmn_opt.widening.copies import WidenError
from gmn_opt.widening.growth import Gain, Growth, grown_weights
from gmn_opt.widening.optimizers import widened_state
from gmn_opt.widening.sizes import norm_over, own_sizes, set_sizes

TOLERANCE = 1e-9
Space = Factor | int
Edits = tuple[tuple[str, str, Any], ...]


@dataclass(frozen=True)
class Plan:
    """How a model is widened: space after space, and attributes of its own that change.

    Attributes:
        growths: One per space, each on the graph that the one before leaves.
        edits: Module, attribute and new value, for modules that are not torch's own.
    """

    growths: tuple[Growth, ...]
    edits: Edits = ()

    @property
    def graph(self) -> ParameterGraph:
        """The graph of the widened model, as the plan sees it.

        Code that splits an axis by a number written into it (``h=2``) may split the wider axis
        otherwise; the outputs are the same, but :func:`gmn_opt.trace` then finds other spaces.
        """
        return self.growths[-1].graph

    def apply(
        self, model: nn.Module, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> nn.Module:
        """A widened copy of the model. The model stays as it is."""
        wide = copy.deepcopy(model)
        tensors = {n: t.detach() for n, t in (*wide.named_parameters(), *wide.named_buffers())}
        new = grown_weights(self.growths, tensors, noise, generator)
        _replace_tensors(wide, self.growths[0].before.aliases, new)
        for growth in self.growths:
            set_sizes(wide, growth)
        for name, attribute, value in self.edits:
            setattr(wide.get_submodule(name), attribute, value)
        return wide

    def optimizer_state(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
        """The state of an optimizer of ``model``, for one of the widened model.

        See :func:`gmn_opt.widening.optimizers.widened_state`.
        """
        return widened_state(self.growths, optimizer, model)


def widen(
    model: nn.Module,
    graph: ParameterGraph,
    space: Space | Sequence[Space],
    factor: float,
    *inputs: Any,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
    **named_inputs: Any,
) -> nn.Module:
    """A wider copy of a model that computes the same function, by duplicated neurons (Net2Net).

    Weights that lead to a neuron are copied, those that lead away are divided by the number of
    copies. Sizes that modules keep (``in_features``, ``num_heads``) follow.

    Args:
        model: Any module; left as it is.
        graph: Its parameter graph, from :func:`gmn_opt.trace`.
        space: What to widen: an entry of ``graph.spaces``, its id, or several of them at once
            (a residual stream together with its heads).
        factor: New size over old, above 1. Where a norm takes means over the space it must be
            whole; elsewhere the first neurons get one copy more than the others.
        inputs: Example inputs, as for ``trace``. With them the result is checked in float64, with
            all parameters drawn anew: outputs that change are refused, and attributes of the
            model's own classes that hold an old size are found by trial. Without them there is a
            warning.
        noise: Exact copies get equal gradients and stay copies for ever. This much noise, in
            terms of the weights' own size, is added to the weights that lead away, such that it
            cancels between copies: the function stays the same, and training tells them apart.
        generator: Of the noise.
        named_inputs: Further example inputs.

    Raises:
        WidenError: No such space or factor; a norm with a factor that is not whole; outputs that
            change or a forward pass that fails, with the reason.
    """
    plan = plan_widening(model, graph, space, factor, *inputs, **named_inputs)
    return plan.apply(model, noise, generator)


def plan_widening(
    model: nn.Module,
    graph: ParameterGraph,
    space: Space | Sequence[Space],
    factor: float,
    *inputs: Any,
    **named_inputs: Any,
) -> Plan:
    """How :func:`widen` widens a model, for carrying along an optimizer's state as well."""
    _check_names(model, graph)
    growths = tuple(_growths(graph, _ids(graph, space), factor))
    for growth in growths:
        whole = growth.size % graph.factors[growth.space].size == 0
        norm = None if whole else norm_over(model, growth)
        if norm is not None:
            raise WidenError(
                f"{norm!r} takes means over this space, which only a whole factor keeps; received "
                f"{factor}. Use {round(factor) if factor > 1.5 else 2}."
            )
    if inputs or named_inputs:
        return _checked(model, growths, inputs, named_inputs)
    loose = [g for g in growths if not g.weighed]
    if loose:
        raise WidenError(
            f"No parameter leads away from space {loose[0].space}, so what its neurons are summed "
            "with is known only from a run. Pass example inputs: widen(..., factor, *inputs)."
        )
    warnings.warn(
        "widen() was given no example inputs, so nothing checks that the outputs stay the same. "
        "Pass them after the factor: widen(model, graph, space, factor, *inputs).",
        UserWarning,
        stacklevel=3,
    )
    return Plan(growths)


def _check_names(model: nn.Module, graph: ParameterGraph) -> None:
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    if shapes != graph.shapes:
        wrong = next(n for n in {**shapes, **graph.shapes} if shapes.get(n) != graph.shapes.get(n))
        raise WidenError(
            f"The graph is not of this model: {wrong!r} has shape {shapes.get(wrong)} in the model "
            f"and {graph.shapes.get(wrong)} in the graph. Trace the model anew."
        )


def _ids(graph: ParameterGraph, space: Space | Sequence[Space]) -> list[int]:
    several = [space] if isinstance(space, Factor | int) else list(space)
    ids = [s.id if isinstance(s, Factor) else s for s in several]
    known = {s.id: s for s in graph.spaces}
    for i in ids:
        if i not in known:
            reason = graph.factors[i].fixed if 0 <= i < len(graph.factors) else None
            raise WidenError(
                f"{i} is no space of this graph{f' ({reason})' if reason else ''}; there are "
                + ", ".join(f"{k} ({s.name}, {s.size})" for k, s in known.items())
                + "."
            )
    if not ids or len(set(ids)) != len(ids):
        raise WidenError(f"Pass each space to be widened once; received {ids}.")
    return ids


def _growths(graph: ParameterGraph, ids: Sequence[int], factor: float) -> Iterator[Growth]:
    for space in ids:
        usable = 1 < float(factor) < 1e6
        size = round(graph.factors[space].size * float(factor)) if usable else 0
        if size <= graph.factors[space].size:
            raise WidenError(
                f"factor {factor} does not make {graph.factors[space].size} neurons more. "
                "It is the new size over the old one, such as 2."
            )
        growth = Growth(graph, space, size)
        yield growth
        graph = growth.graph


# ---------------------------------------------------------------------- proof by running


def _checked(
    model: nn.Module,
    growths: tuple[Growth, ...],
    inputs: tuple[Any, ...],
    named_inputs: dict[str, Any],
) -> Plan:
    """The first plan under which the outputs stay the same."""
    checker = Checker(model, inputs, named_inputs)
    if not checker.repeats():
        raise WidenError("This model gives other outputs at every run, so nothing can be checked.")
    failures: list[str] = []
    narrow = checker.model
    for plan in _plans(narrow, growths):
        try:
            wide = plan.apply(narrow)
            checker.model = wide
            state = dict((*wide.named_parameters(), *wide.named_buffers()))
            change = checker._change(checker._outputs({n: t.detach() for n, t in state.items()}))
        except Exception as error:
            failures.append(f"the forward pass raised {type(error).__name__}: {error}")
            continue
        finally:
            checker.model = narrow
        if change <= TOLERANCE:
            return plan
        failures.append(f"the outputs changed by {change:.1e}")
    names = ", ".join(f"{g.space} ({growths[0].before.factors[g.space].name})" for g in growths)
    raise WidenError(
        f"Widening {'space' if len(growths) == 1 else 'spaces'} {names} does not keep the function:"
        f" {failures[0]}. The model may have the size written in its code, or read the space in a "
        "sum, a softmax or a tied weight. Where other spaces must be widened along with it (a "
        "residual stream and its heads, all parts of a packed projection), pass them together."
    )


def _plans(model: nn.Module, growths: tuple[Growth, ...]) -> Iterator[Plan]:
    """Plans to try: how sums without weights are kept, and which attributes are sizes."""
    gains: list[Gain] = ["none"]
    if any(not g.weighed for g in growths):
        gains += ["scaled", "mean"]
    for edits in _edits(model, growths):
        for gain in gains:
            yield Plan(tuple(_with_gain(growths, gain)), edits)


def _with_gain(growths: Sequence[Growth], gain: Gain) -> Iterator[Growth]:
    for growth in growths:
        yield growth if growth.weighed else replace(growth, gain=gain)


def _edits(model: nn.Module, growths: Sequence[Growth]) -> Iterator[Edits]:
    """Sets of attributes to change, the smallest first."""
    before, after = growths[0].before, growths[-1].graph
    spaces = {before.factors[g.space].size: g.size for g in growths}
    axes = {
        a: b
        for name, shape in before.shapes.items()
        for a, b in zip(shape, after.shapes[name], strict=True)
        if a != b
    }
    along = [g.factors for g in before.groups if any(s.space in g.factors for s in growths)]
    products = {
        prod(before.factors[f].size for f in fs): prod(after.factors[f].size for f in fs)
        for fs in along
    }
    seen: set[Edits] = set()
    for renamed in ({}, spaces, {**products, **spaces}, {**axes, **products, **spaces}):
        edits = tuple(own_sizes(model, renamed))
        if edits not in seen:
            seen.add(edits)
            yield edits


def _replace_tensors(
    model: nn.Module, aliases: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put new tensors in the places of the old ones; shared parameters stay shared."""
    made: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        for leaf, old in list(module._parameters.items()):
            full = f"{prefix}.{leaf}" if prefix else leaf
            name = aliases.get(full, full)
            if old is not None and name in tensors:
                if name not in made:
                    made[name] = nn.Parameter(tensors[name], requires_grad=old.requires_grad)
                setattr(module, leaf, made[name])
        for leaf, buffer in list(module._buffers.items()):
            full = f"{prefix}.{leaf}" if prefix else leaf
            if buffer is not None and full in tensors:
                module._buffers[leaf] = tensors[full]


__all__ = ["Plan", "plan_widening", "widen"]
