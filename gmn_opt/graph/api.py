"""``trace``: from a model and example inputs to its parameter graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn
from torch.nn.parameter import is_lazy

from gmn_opt.graph.build.assembly import assemble
from gmn_opt.graph.build.siblings import Adoption, adopt, exchanges
from gmn_opt.graph.calls import Call
from gmn_opt.graph.graph import ParameterGraph
from gmn_opt.graph.progress import Say, progress_line
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.index_sets import fix
from gmn_opt.graph.tracing.passes import (
    Plan,
    TraceError,
    read_both_modes,
    read_more,
    traced,
)
from gmn_opt.graph.tracing.pieces import distribute
from gmn_opt.graph.tracing.record import Record
from gmn_opt.graph.verify import repair

VERIFY_PARAMETERS = 1_000_000
VERIFY_WORK = 3_000_000


def trace(
    model: nn.Module,
    *args: Any,
    more_inputs: Sequence[Any] = (),
    verify: bool | None = None,
    progress: bool | Say = True,
    outputs: Literal["results", "all"] = "results",
    **kwargs: Any,
) -> ParameterGraph:
    """The parameter graph of ``model``, from a forward pass on example inputs.

    Parameters that this pass does not read (experts without tokens, branches not taken) are
    looked for in passes on ``more_inputs``, in the model's other mode (training or evaluation),
    and, in a small model, on the same inputs with other numbers. What no pass reads is taken from
    siblings in the same container that all behave alike (see
    :mod:`gmn_opt.graph.build.siblings`), and otherwise fixed. Where a model's own code asks for
    the mode, both are traced in any case.

    Args:
        model: Any module with parameters. Its weights, buffers, mode, gradients, all attributes
            of its modules and the global random state are left exactly as they are.
        args: Inputs of the forward pass.
        more_inputs: Further inputs to trace: each a tuple of arguments, a dict of keyword
            arguments, or a single argument. All passes together give one graph.
        verify: Check the symmetries found on a float64 copy of the model, and fix the spaces
            that fail. By default done for small models, where it is cheap.
        progress: Show what is being done when it takes more than two seconds: one line on the
            error stream, in an interactive terminal only, that is gone at the end. A function
            is called with the same lines instead, from the start.
        outputs: What symmetries must leave as it is. ``"results"`` leaves out inner states for the
            next call (caches of keys and values), and what an output of ``transformers`` carries
            besides its logits; the graph's ``notes`` name them. ``"all"`` keeps them, and all
            tensors that the pass stores in the model's attributes.
        kwargs: Further inputs of the forward pass.

    Raises:
        TraceError: If the model has no parameters, has uninitialized (lazy) or quantized ones,
            if its forward pass raises on these inputs, or if it gives no tensor.
        ValueError: If ``outputs`` is neither "results" nor "all".
    """
    if outputs not in ("results", "all"):
        raise ValueError(f"outputs must be 'results' or 'all', received {outputs!r}")
    _check(model)
    plan = Plan([(args, kwargs), *map(_call, more_inputs)], outputs == "all")
    name = type(model).__name__
    with progress_line(progress) as say:
        say(f"Tracing {name}")
        tracer = traced(model, plan, say)
        tracer, plan, notes = read_both_modes(model, tracer, plan, say)
        if tracer.work <= VERIFY_WORK and tracer.record.unread:
            tracer, plan = read_more(model, tracer, plan, say)
        say(f"Tracing {name}: putting its graph together")
        adoptions = adopt(model, tracer.record)
        if notes:
            _fix_what_they_could_read(tracer.record, adoptions)
        graph = _assembled(model, tracer.record, adoptions)
        notes = [*_notes(tracer.record, adoptions), *notes]
        graph, more = _checked(graph, model, plan, adoptions, verify, tracer.work, say)
    return replace(graph, notes=(*notes, *more))


def _checked(
    graph: ParameterGraph,
    model: nn.Module,
    plan: Plan,
    adoptions: Sequence[Adoption],
    verify: bool | None,
    work: int,
    say: Say,
) -> tuple[ParameterGraph, list[str]]:
    """The graph without what the numerical check refutes; a note where it was not made."""
    small = work <= VERIFY_WORK and sum(p.numel() for p in model.parameters()) <= VERIFY_PARAMETERS
    if not (verify or (verify is None and small)):
        why = ": a large model" if verify is None else ""
        return graph, [f"not checked numerically{why}"] if graph.spaces else []
    say(f"Checking the symmetries of {type(model).__name__}")
    (args, kwargs), more = plan.calls[0], plan.calls[1:]
    swaps = exchanges(adoptions)
    try:
        modes = len(plan.modes) > 1
        return repair(graph, model, args, kwargs, more, swaps, plan.every, modes), []
    except Exception as error:
        if verify:
            raise
        if swaps:  # what siblings tell is a guess until it is checked
            graph = _assembled(model, traced(model, plan, say).record)
        why = str(error).splitlines()[0] if str(error) else ""
        return graph, [f"not checked numerically: {type(error).__name__}: {why}"]


def _notes(record: Record, adoptions: Sequence[Adoption]) -> list[str]:
    """What was left out of the results; which parameters were not read."""
    notes = [f"not compared: {name} (outputs='all' keeps it)" for name in record.skipped]
    known = {i for found in adoptions for i in found.parameters}
    names = [record.names[i] for i in sorted(record.unread - known)]
    if names:
        notes.append(f"not read by any traced pass: {_some(names)}")
    if record.moving:
        notes.append(f"buffers that move along with the parameters: {_some(record.moving)}")
    return notes


def _some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _fix_what_they_could_read(record: Record, adoptions: Sequence[Adoption]) -> None:
    """Fix spaces that unread parameters may meet in a mode that could not be traced."""
    known = {i for found in adoptions for i in found.parameters}
    unread = record.unread - known
    sizes = {lab.axis_size(axis) for i in unread for axis in record.parameters[i].axes} - {1}
    for index in record.touched:
        for axis in record.parameters[index].axes:
            for piece in distribute(axis):
                for leg in piece.legs:
                    if any(leg.set.size > 1 and n % leg.set.size == 0 for n in sizes):
                        fix([leg.set], "parameters that were not read may read it")


def _assembled(
    model: nn.Module, record: Record, adoptions: Sequence[Adoption] = ()
) -> ParameterGraph:
    known = {i for found in adoptions for i in found.parameters}
    for index in sorted(record.unread - known):
        for axis in record.parameters[index].axes:
            fix((leg.set for leg in axis), "not read by the traced pass")
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    return assemble(record, shapes, _aliases(model))


def _check(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TraceError(
            f"trace() needs an nn.Module, received {type(model).__name__}. "
            "Wrap the function in a module that holds its parameters."
        )
    named = dict(model.named_parameters())
    for name, p in named.items():
        if is_lazy(p):
            raise TraceError(
                f"Parameter {name!r} of {type(model).__name__} is uninitialized (a lazy module). "
                "Run the model once on real inputs before tracing it."
            )
    for name, module in model.named_modules():
        home = type(module).__module__
        if ".quantized" in home and "qat" not in home:
            raise TraceError(
                f"Module {name!r} ({type(module).__name__}) is quantized: its weights are packed "
                "and cannot be permuted. Trace the model before quantizing it."
            )
    if not named:
        raise TraceError(
            f"{type(model).__name__} has no parameters, so it has no parameter graph. "
            "Check that its layers are registered as submodules."
        )


def _aliases(model: nn.Module) -> dict[str, str]:
    first: dict[int, str] = {}
    out: dict[str, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(p), name) != name:
            out[name] = first[id(p)]
    return out


def _call(inputs: Any) -> Call:
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
