"""``trace``: from a model and example inputs to its parameter graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gmn_opt.graph.build.assembly import assemble
from gmn_opt.graph.build.siblings import Adoption, adopt, exchanges
from gmn_opt.graph.calls import Call
from gmn_opt.graph.graph import ParameterGraph
from gmn_opt.graph.progress import Say, progress_line
from gmn_opt.graph.tracing.index_sets import fix
from gmn_opt.graph.tracing.passes import TraceError, read_more, traced
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
    **kwargs: Any,
) -> ParameterGraph:
    """The parameter graph of ``model``, from a forward pass on example inputs.

    Parameters that this pass does not read (experts without tokens, branches not taken) are
    looked for in passes on ``more_inputs`` and, in a small model, on the same inputs with other
    numbers. What no pass reads is taken from siblings in the same container that all behave
    alike (see :mod:`gmn_opt.graph.build.siblings`), and otherwise fixed.

    Args:
        model: Any module with parameters. Its weights, buffers, mode, gradients and the global
            random state are left exactly as they are.
        args: Inputs of the forward pass.
        more_inputs: Further inputs to trace: each a tuple of arguments, a dict of keyword
            arguments, or a single argument. All passes together give one graph.
        verify: Check the symmetries found on a float64 copy of the model, and fix the spaces
            that fail. By default done for small models, where it is cheap.
        progress: Show what is being done when it takes more than two seconds: one line on the
            error stream, in an interactive terminal only, that is gone at the end. A function
            is told the same in place of a terminal, from the start.
        kwargs: Further inputs of the forward pass.

    Raises:
        TraceError: If the model has no parameters, has uninitialized (lazy) or quantized ones,
            or if its forward pass raises on these inputs.
    """
    _check(model)
    calls = [(args, kwargs), *map(_call, more_inputs)]
    name = type(model).__name__
    with progress_line(progress) as say:
        say(f"Tracing {name}")
        tracer = traced(model, calls, say)
        if tracer.work <= VERIFY_WORK and tracer.record.unread:
            tracer, calls = read_more(model, tracer, calls, say)
        say(f"Tracing {name}: putting its graph together")
        adoptions = adopt(model, tracer.record)
        graph = _assembled(model, tracer.record, adoptions)
        small = sum(p.numel() for p in model.parameters()) <= VERIFY_PARAMETERS
        if verify or (verify is None and small and tracer.work <= VERIFY_WORK):
            say(f"Checking the symmetries of {name}")
            swaps = exchanges(adoptions)
            checked = repair(graph, model, args, kwargs, bool(verify), calls[1:], swaps)
            if checked is None and swaps:
                # What siblings tell is a guess until it is checked.
                graph = _assembled(model, traced(model, calls, say).record)
            graph = checked or graph
    return graph


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
