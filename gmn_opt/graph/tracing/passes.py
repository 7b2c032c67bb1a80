"""The forward passes that are traced: which, how often, on what inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmn_opt.graph.calls import (
    Call,
    copy_inputs,
    is_statistic,
    mode_matters,
    tensors_in,
    undisturbed,
)
from gmn_opt.graph.memory import Memory, constants_around
from gmn_opt.graph.progress import Say
from gmn_opt.graph.results import results_of
from gmn_opt.graph.tracing.buffers import buffers_of
from gmn_opt.graph.tracing.dispatch import NESTED, Dispatch
from gmn_opt.graph.tracing.escapes import Escapes
from gmn_opt.graph.tracing.tracer import NO_STORAGE, Hints, Tracer, storage_of

MAX_PASSES = 4
MAX_VARIED = 2


class TraceError(RuntimeError):
    """The model could not be traced; the message says what was received and what to do."""


class Plan(NamedTuple):
    """What is traced: passes on all ``calls``, in the model's mode and maybe in the other one.

    ``every`` keeps all tensors of the outputs, see :func:`gmn_opt.graph.results.results_of`.
    """

    calls: list[Call]
    every: bool = False
    modes: tuple[bool, ...] = (False,)


def traced(model: nn.Module, plan: Plan, say: Say, hints: Hints | None = None) -> Tracer:
    """Trace all passes of a plan, again and again until they have nothing new to tell."""
    hints = Hints() if hints is None else hints
    for _ in range(MAX_PASSES):
        tracer = _once(model, plan, say, hints)
        if tracer.learned() == hints:
            break
        hints = tracer.learned()
    return tracer


def read_more(model: nn.Module, tracer: Tracer, plan: Plan, say: Say) -> tuple[Tracer, Plan]:
    """Try a few other inputs; keep those that make the model read further parameters."""
    if any(p.device.type == "meta" for p in model.parameters()):
        return tracer, plan
    generator = torch.Generator().manual_seed(0)
    for _ in range(MAX_VARIED):
        try:
            tried = [*plan.calls, other_numbers(plan.calls[0], generator)]
            again = traced(model, plan._replace(calls=tried), say)
        except Exception:  # the model may well refuse numbers that we made up
            continue
        if len(again.record.unread) < len(tracer.record.unread):
            tracer, plan = again, plan._replace(calls=tried)
        if not tracer.record.unread:
            break
    return tracer, plan


def read_both_modes(
    model: nn.Module, tracer: Tracer, plan: Plan, say: Say
) -> tuple[Tracer, Plan, list[str]]:
    """Trace the other mode too, training or evaluation, where it may read or do other things."""
    scripted = any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())
    if scripted or not (tracer.record.unread or mode_matters(model)):
        return tracer, plan, []
    both = plan._replace(modes=(False, True))
    try:
        return traced(model, both, say, tracer.learned()), both, []
    except TraceError as error:
        other = "evaluation" if model.training else "training"
        why = str(error).splitlines()[0]
        return tracer, plan, [f"{other} mode could not be traced on these inputs: {why}"]


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


def _once(model: nn.Module, plan: Plan, say: Say, hints: Hints) -> Tracer:
    tracer = Dispatch(hints)
    for name, p in model.named_parameters():
        tracer.add_parameter(name, p)
        tracer.flow.add_parameter(p, len(tracer.record.names) - 1)
    for buffer in buffers_of(model):
        if is_statistic(model, buffer.name):
            tracer.add_statistic(buffer.name, buffer.tensor)
        else:
            tracer.add_buffer(buffer)
    unify_shared(tracer, [*model.named_parameters(), *model.named_buffers()])
    for other_mode in plan.modes:
        for call in plan.calls:
            tracer.next_pass()
            _forward(model, tracer, call, say, other_mode, plan.every)
    tracer.finish()
    tracer.flow.finish()
    return tracer


def _forward(
    model: nn.Module, tracer: Dispatch, call: Call, say: Say, other_mode: bool, every: bool
) -> None:
    seen: list[tuple[str, nn.Module]] = []
    with _hooks(model, seen, say), undisturbed(model) as memory:
        tracer.add_constants(saved.tensor for saved in memory.tensors.values())
        tracer.add_constants(constants_around(memory))
        args, kwargs = copy_inputs(call)
        for number, tensor in enumerate(tensors_in((args, kwargs))):
            if tensor.is_nested:
                raise TraceError(f"Input {number} is nested: {NESTED}")
            tracer.add_input("input" if number == 0 else f"input {number}", tensor)
            tracer.flow.add_input(tensor)
        torch.default_generator.manual_seed(tracer.seed)
        if other_mode:
            model.train(not model.training)
            memory.begin()
        tracer.other_mode = other_mode

        def stored() -> list[tuple[str, Tensor]]:
            with tracer.aside():
                return list(memory.stored())

        try:
            with Escapes(tracer), tracer:
                output = model(*args, **kwargs)
                results = results_of(output, model, stored, every)
                held = stored()
                _note_written(tracer, memory)
                if memory.changed(held):  # the next call may do something else
                    later = results_of(model(*args, **kwargs), model, stored, every)
                    results.tensors.extend(later.tensors)
        except Exception as error:
            raise _failure(model, seen, error, args, kwargs) from error
        if not results.found:
            raise TraceError(_nothing_found(model, output))
        _note_skipped(tracer, results.skipped, memory, held, results.tensors)
        for tensor in results.tensors:
            label = tracer.activation(tensor)
            tracer.flow.add_output(tensor)
            tracer.fix(label.axes, "model output")
            tracer.record.outputs.append(label)


def _note_written(tracer: Tracer, memory: Memory) -> None:
    """Notice buffers that hold other numbers now; some kernels write without saying so."""
    with tracer.aside():
        for buffer, _ in tracer.buffers:
            before = memory.tensors.get(id(buffer.tensor))
            plain = buffer.tensor.layout == torch.strided and not buffer.tensor.is_nested
            known = before.value if before is not None and plain else None
            if known is not None and not torch.equal(buffer.tensor, known):
                tracer.buffer_uses.written.add(buffer.name)


def _note_skipped(
    tracer: Tracer,
    skipped: Sequence[str],
    memory: Memory,
    stored: Sequence[tuple[str, Tensor]],
    kept: Sequence[Tensor],
) -> None:
    """Name what is not held to be a result."""
    known = {id(t) for t in kept}
    held = [n for n, t in stored if id(t) not in known and t.is_floating_point()]
    buffers = {n for n, _ in memory.model.named_buffers()}
    for name in skipped:
        tracer.record.skipped[f"output {name!r}"] = None
    for name in held:
        if name not in buffers:
            tracer.record.skipped[f"{name!r}, stored in the model"] = None


def _nothing_found(model: nn.Module, output: Any) -> str:
    return (
        f"{type(model).__name__} returned {type(output).__name__}, in which no tensor was found, "
        "and stored none in its attributes: there is nothing by which a symmetry could be judged. "
        "Return tensors, or containers and objects that hold them."
    )


def unify_shared(tracer: Tracer, named: Sequence[tuple[str, Tensor]]) -> None:
    """Make parameters and buffers that share memory run over the same index sets, or fix them."""
    by_memory: dict[int, list[tuple[int, int, str, Tensor]]] = {}
    for name, tensor in {id(t): (n, t) for n, t in named}.values():
        storage = storage_of(tensor)
        if storage != NO_STORAGE and tensor.layout == torch.strided and tensor.numel():
            start = tensor.storage_offset()
            last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            width = tensor.element_size()
            begin, end = int(start * width), int((start + last + 1) * width)
            by_memory.setdefault(storage, []).append((begin, end, name, tensor))
    for found in by_memory.values():
        found.sort(key=lambda row: row[:2])
        for k, (_, end, name, tensor) in enumerate(found):
            for start, _, other, twin in found[k + 1 :]:
                if start >= end:
                    break
                _share(tracer, tensor, twin, f"{name} and {other} share memory")


def _share(tracer: Tracer, a: Tensor, b: Tensor, reason: str) -> None:
    """Unify the dims of two tensors on the same memory by their strides."""
    one, two = tracer.labels[id(a)], tracer.labels[id(b)]
    mine, theirs = ({s: (n, d) for d, (n, s) in enumerate(zip(t.shape, t.stride(), strict=True))
                     if n > 1} for t in (a, b))  # fmt: skip
    sizes = [sorted((s, n) for s, (n, _) in found.items()) for found in (mine, theirs)]
    whole = [prod(n for n, _ in found.values()) == t.numel()
             for found, t in ((mine, a), (theirs, b))]  # fmt: skip
    same = a.storage_offset() == b.storage_offset() and a.dtype == b.dtype
    if same and all(whole) and sizes[0] == sizes[1]:
        for stride, (_, d) in mine.items():
            tracer.unify(one.axes[d], two.axes[theirs[stride][1]])
    else:
        tracer.fix([*one.axes, *two.axes], reason)


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
