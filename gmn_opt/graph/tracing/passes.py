"""The forward passes that are traced: which, how often, on what inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.graph.calls import (
    Call,
    copy_inputs,
    is_statistic,
    results_in,
    tensors_in,
    undisturbed,
)
from gmn_opt.graph.progress import Say
from gmn_opt.graph.tracing.dispatch import Dispatch
from gmn_opt.graph.tracing.escapes import Escapes
from gmn_opt.graph.tracing.tracer import Hints, Tracer

MAX_PASSES = 4
MAX_VARIED = 2


class TraceError(RuntimeError):
    """The model could not be traced; the message says what was received and what to do."""


def traced(model: nn.Module, calls: Sequence[Call], say: Say) -> Tracer:
    """Trace passes on all ``calls``, again and again until they have nothing new to tell."""
    hints = Hints()
    for _ in range(MAX_PASSES):
        tracer = _once(model, calls, say, hints)
        if tracer.learned() == hints:
            break
        hints = tracer.learned()
    return tracer


def read_more(
    model: nn.Module, tracer: Tracer, calls: list[Call], say: Say
) -> tuple[Tracer, list[Call]]:
    """Try a few other inputs; keep those that make the model read further parameters."""
    if any(p.device.type == "meta" for p in model.parameters()):
        return tracer, calls
    generator = torch.Generator().manual_seed(0)
    for _ in range(MAX_VARIED):
        try:
            tried = [*calls, other_numbers(calls[0], generator)]
            again = traced(model, tried, say)
        except Exception:  # the model may well refuse numbers that we made up
            continue
        if len(again.record.unread) < len(tracer.record.unread):
            tracer, calls = again, tried
        if not tracer.record.unread:
            break
    return tracer, calls


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


def _once(model: nn.Module, calls: Sequence[Call], say: Say, hints: Hints) -> Tracer:
    tracer = Dispatch(hints)
    for name, p in model.named_parameters():
        tracer.add_parameter(name, p)
        tracer.flow.add_parameter(p, len(tracer.record.names) - 1)
    for name, b in model.named_buffers():
        if is_statistic(model, name):
            tracer.add_statistic(name, b)
        else:
            tracer.add_fixed(b, "a buffer of the model")
    for call in calls:
        tracer.next_pass()
        _forward(model, tracer, call, say)
    tracer.finish()
    tracer.flow.finish()
    return tracer


def _forward(model: nn.Module, tracer: Dispatch, call: Call, say: Say) -> None:
    seen: list[tuple[str, nn.Module]] = []
    with undisturbed(model), _hooks(model, seen, say):
        args, kwargs = copy_inputs(call)
        for number, tensor in enumerate(tensors_in((args, kwargs))):
            tracer.add_input("input" if number == 0 else f"input {number}", tensor)
            tracer.flow.add_input(tensor)
        try:
            with Escapes(tracer), tracer:
                output = model(*args, **kwargs)
        except Exception as error:
            raise _failure(model, seen, error, args, kwargs) from error
        for tensor in results_in(output):
            label = tracer.activation(tensor)
            tracer.flow.add_output(tensor)
            tracer.fix(label.axes, "model output")
            tracer.record.outputs.append(label)


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
