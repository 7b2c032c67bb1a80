"""``trace``: from a model and example inputs to its parameter graph."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gmn_opt.graph.assembly import assemble
from gmn_opt.graph.escapes import Escapes
from gmn_opt.graph.graph import ParameterGraph
from gmn_opt.graph.progress import Say, progress_line
from gmn_opt.graph.siblings import adopt, exchanges
from gmn_opt.graph.tracing import Packed, Tracer
from gmn_opt.graph.uses import Label

CACHES = frozenset({"past_key_values", "past_key_value", "cache_params", "mems"})
"""Entries of an output that hold inner states for the next call."""
BESIDE = frozenset({"encoder_last_hidden_state", "text_model_output", "vision_model_output"})
"""Entries that a ``transformers`` output always carries along beside its result."""
MAX_PASSES = 4
MAX_VARIED = 2
VERIFY_PARAMETERS = 1_000_000
VERIFY_WORK = 3_000_000
Call = tuple[tuple[Any, ...], dict[str, Any]]


class TraceError(RuntimeError):
    """The model could not be traced; the message says what was received and what to do."""


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
    alike (see :mod:`gmn_opt.graph.siblings`), and otherwise fixed.

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
        tracer, buffers = _passes(model, calls, say)
        if tracer.work <= VERIFY_WORK and len(tracer.touched) < len(tracer.names):
            tracer, buffers, calls = _read_more(model, tracer, buffers, calls, say)
        say(f"Tracing {name}: putting its graph together")
        graph = _assembled(model, tracer, buffers)
        small = sum(p.numel() for p in model.parameters()) <= VERIFY_PARAMETERS
        if verify or (verify is None and small and tracer.work <= VERIFY_WORK):
            from gmn_opt.graph.verify import repair

            say(f"Checking the symmetries of {name}")
            swaps = exchanges(tracer.adoptions)
            checked = repair(graph, model, args, kwargs, bool(verify), calls[1:], swaps)
            if checked is None and swaps:
                # What siblings tell is a guess until it is checked.
                graph = _assembled(model, *_passes(model, calls, say, siblings=False))
            graph = checked or graph
    return graph


def _assembled(model: nn.Module, tracer: Tracer, buffers: dict[str, Label]) -> ParameterGraph:
    outputs = {
        leg.site.site.id for out in tracer.output_labels for axis in out.axes for leg in axis
        if leg.site
    }  # fmt: skip
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    return assemble(tracer.record, tracer.names, shapes, buffers, outputs, _aliases(model))


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


def _passes(
    model: nn.Module, calls: Sequence[Call], say: Say, siblings: bool = True
) -> tuple[Tracer, dict[str, Label]]:
    mutated: set[int] = set()
    packed: Packed = {}
    for _ in range(MAX_PASSES):
        tracer, buffers = _one_pass(model, calls, say, mutated, packed, siblings)
        if tracer.newly_mutated <= mutated and tracer.newly_packed.keys() <= packed.keys():
            break
        mutated |= tracer.newly_mutated
        packed = tracer.newly_packed | packed
    return tracer, buffers


def _read_more(
    model: nn.Module,
    tracer: Tracer,
    buffers: dict[str, Label],
    calls: list[Call],
    say: Say,
) -> tuple[Tracer, dict[str, Label], list[Call]]:
    """Try a few other inputs; keep those that make the model read further parameters."""
    if any(p.device.type == "meta" for p in model.parameters()):
        return tracer, buffers, calls
    generator = torch.Generator().manual_seed(0)
    for _ in range(MAX_VARIED):
        try:
            tried = [*calls, other_numbers(calls[0], generator)]
            again, statistics = _passes(model, tried, say)
        except Exception:  # the model may well refuse numbers that we made up
            continue
        if len(again.touched) > len(tracer.touched):
            tracer, buffers, calls = again, statistics, tried
        if len(tracer.touched) == len(tracer.names):
            break
    return tracer, buffers, calls


def other_numbers(call: Call, generator: torch.Generator) -> Call:
    """Inputs of the same shapes: other numbers of about the same size, integers shuffled."""
    again: Call = copy_inputs(call)
    for t in tensors_in(again):
        if t.numel() < 2 or t.dtype == torch.bool or t.is_complex():
            continue
        if t.is_floating_point():
            noise = torch.randn(t.shape, generator=generator).to(t)
            t.copy_(t.mean() + 2 * t.std() * noise)
        else:
            order = torch.randperm(t.numel(), generator=generator).to(t.device)
            t.copy_(t.flatten()[order].reshape(t.shape))
    return again


def _one_pass(
    model: nn.Module,
    calls: Sequence[Call],
    say: Say,
    mutated: set[int],
    packed: Packed,
    siblings: bool,
) -> tuple[Tracer, dict[str, Label]]:
    tracer = Tracer(mutated, packed)
    for name, p in model.named_parameters():
        tracer.add_parameter(name, p)
    buffers: dict[str, Label] = {}
    for name, b in model.named_buffers():
        if is_statistic(model, name):
            buffers[name] = tracer.add_statistic(b)
        else:
            tracer.add_fixed(b, "a buffer of the model")
    for args, kwargs in calls:
        tracer.next_pass()
        _forward(model, tracer, args, kwargs, say)
    tracer.finish()
    unread = set(range(len(tracer.names))) - tracer.touched
    if unread and siblings:
        tracer.adoptions = adopt(model, tracer.names, tracer.record, tracer.touched)
        unread -= {i for found in tracer.adoptions for i in found.parameters}
    for index, label in enumerate(tracer.record.parameters):
        if index in unread:
            tracer.fix(label, "not read by the traced pass")
    return tracer, buffers


def _forward(
    model: nn.Module, tracer: Tracer, args: tuple[Any, ...], kwargs: dict[str, Any], say: Say
) -> None:
    seen: list[tuple[str, nn.Module]] = []
    with undisturbed(model), _hooks(model, seen, say):
        args, kwargs = copy_inputs((args, kwargs))
        for number, tensor in enumerate(tensors_in((args, kwargs))):
            tracer.add_input("input" if number == 0 else f"input {number}", tensor)
        try:
            with Escapes(tracer), tracer:
                output = model(*args, **kwargs)
        except Exception as error:
            raise _failure(model, seen, error, args, kwargs) from error
        for tensor in results_in(output):
            label = tracer.materialize(tracer.label(tensor))
            tracer.flow.add_output(tensor)
            tracer.fix(label, "model output")
            tracer.output_labels.append(label)


def is_statistic(model: nn.Module, name: str) -> bool:
    """Whether a buffer follows its channels: norm statistics, a spectral norm's vectors."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in ("_u", "_v"):
        return type(module).__name__ == "_SpectralNorm"
    return leaf in ("running_mean", "running_var") and hasattr(module, "num_features")


def _failure(
    model: nn.Module,
    seen: list[tuple[str, nn.Module]],
    error: Exception,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> TraceError:
    name, module = seen[-1] if seen else ("", model)
    where = f"module {name!r} ({type(module).__name__})" if name else type(model).__name__
    received = ", ".join(
        [_describe(a) for a in args] + [f"{k}={_describe(v)}" for k, v in kwargs.items()]
    )
    return TraceError(
        f"The forward pass of {type(model).__name__} raised in {where}: "
        f"{type(error).__name__}: {error}\nInputs received: ({received}). "
        "Pass example inputs that the model accepts: trace(model, *inputs)."
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


@contextmanager
def _hooks(model: nn.Module, seen: list[tuple[str, nn.Module]], say: Say) -> Iterator[None]:
    """Keep ``seen`` the stack of modules whose forward is running, and tell of each."""
    whole = type(model).__name__
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue

        def enter(m: nn.Module, _: Any, name: str = name) -> None:
            seen.append((name, m))
            say(f"Tracing {whole}: {name}" if name else f"Tracing {whole}")

        def leave(m: nn.Module, _: Any, __: Any) -> None:
            seen.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave random state, buffers, weights and gradients as they are; run plain ATen kernels."""
    homes = [(m, dict(m._buffers)) for m in model.modules() if m._buffers]
    tensors = [t for t in (*model.buffers(), *model.parameters()) if t.device.type != "meta"]
    saved = [(t, t._version, t.detach().clone()) for t in tensors]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", *(p.device.type for p in model.parameters())} & {"cpu", "cuda"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            torch._C._set_mkldnn_enabled(mkldnn)
            for module, buffers in homes:
                module._buffers.update(buffers)
            with torch.no_grad():
                for tensor, version, value in saved:
                    # Kernels write running statistics without counting it as a new version.
                    if tensor._version != version or not torch.equal(tensor, value):
                        tensor.detach().copy_(value)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested sequences, mappings and objects."""
    yield from _walk(value, set(), results=False)


def results_in(output: Any) -> Iterator[Tensor]:
    """The tensors of a model's output that a symmetry has to leave as they are.

    Caches of keys, values and states are not among them; nor is what an output object of
    ``transformers`` carries beside its logits, losses or embeddings: the encoder's last state.
    """
    yield from _walk(output, set(), results=True)


def _walk(value: Any, seen: set[int], results: bool) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, (str, bytes, int, float, bool, type(None), nn.Module)):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        skipped = _skipped(value) if results else frozenset()
        for key, item in value.items():
            if key not in skipped:
                yield from _walk(item, seen, results)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _walk(item, seen, results)
    elif hasattr(value, "__dict__"):
        yield from _walk(vars(value), seen, results)


def _skipped(output: dict[Any, Any]) -> frozenset[str]:
    hub = any(c.__name__ == "ModelOutput" for c in type(output).__mro__)
    rest = output.keys() - CACHES - BESIDE
    return CACHES | BESIDE if hub and rest else CACHES


def copy_inputs(value: Any, double: bool = False) -> Any:
    """Inputs with every tensor cloned, so that a pass that writes to them leaves no trace.

    With ``double``, on the CPU and with floating-point numbers in float64.
    """
    memo: dict[int, Any] = {}
    for tensor in tensors_in(value):
        copied = tensor.detach().clone()
        if double:
            copied = copied.cpu()
            copied = copied.double() if copied.is_floating_point() else copied
        memo[id(tensor)] = copied
    return copy.deepcopy(value, memo)


__all__ = ["TraceError", "trace"]
