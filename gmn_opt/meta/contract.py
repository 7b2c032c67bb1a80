"""What a task must keep to, checked once before anything is trained on it.

Without it the first broken promise shows as an error from deep inside ``torch.func``, or hours
later, or never.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _NormBase

from gmn_opt.kept import kept
from gmn_opt.meta.seeding import seeded

if TYPE_CHECKING:
    from gmn_opt.meta.task import Batch, Split, Task

_NETWORKS = 2
_SPLITS: tuple[Split, ...] = ("inner_train", "outer_valid")
#: Parts of torch.func's messages, and what to do about them.
_REMEDIES = (
    (".item()", "Keep values in tensors: no .item(), float(), or 'if' on a value; use torch.where"),
    ("control flow", "Do not branch on the values of tensors; use torch.where"),
    ("in-place", "Make a new tensor where one is changed in place"),
    ("inplace", "Make a new tensor where one is changed in place"),
)


class TaskError(ValueError):
    """A task breaks its contract; the message names the method and the remedy."""


def check_task(task: Task) -> None:
    """Raise TaskError unless ``task`` keeps what ``Task`` promises; free after the first time.

    Draws two networks and two batches of each split, and differentiates the loss once as training
    will: for both networks at a time, by ``torch.func.vmap``. Global random states are left alone.
    """

    def check() -> bool:
        with seeded(0):
            _check_network(task)
            batch = _checked_batch(task)
            _check_loss(task, batch)
        return True

    kept(task, "contract", check)


def _check_network(task: Task) -> None:
    network = task.template
    if not isinstance(network, nn.Module):
        raise _error(task, "build", f"returned a {_kind(network)}", "Return a torch.nn.Module")
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    if frozen:
        raise _error(
            task,
            "build",
            f"freezes {', '.join(map(repr, frozen))} (requires_grad is False), but all parameters "
            "of a task are trained",
            "Register what is constant by register_buffer() in place of a parameter",
        )
    if not any(True for _ in network.parameters()):
        raise _error(task, "build", "made a network without parameters", "Give it some to train")
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, _NormBase) and module.running_mean is not None and module.training:
            raise _error(
                task,
                "build",
                f"makes {name!r}, a {kind} with running statistics: they change in the forward "
                "pass, and each of the networks that are trained at once would need its own",
                f"Use {kind}(..., track_running_stats=False)",
            )
        if _is_spectral(module):
            raise _error(
                task,
                "build",
                f"puts spectral norm on {name.partition('parametrizations')[0].rstrip('.')!r}: its "
                "power iteration changes a buffer in every forward pass",
                "Leave it out, or divide by torch.linalg.matrix_norm(weight, 2) in forward()",
            )
    example = task.example_inputs()
    if not isinstance(example, tuple):
        raise _error(task, "example_inputs", f"returned a {_kind(example)}", "Return a tuple")
    try:
        _ = task.graph
    except Exception as error:
        what = f"made a network that cannot be traced on example_inputs(): {error}"
        raise _error(task, "build", what, "Make the two fit together") from error


def _is_spectral(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return any("SpectralNorm" in type(part).__name__ for part in (module, *hooks))


def _checked_batch(task: Task) -> Batch:
    """One of the training split."""
    found: Batch = {}
    for split in reversed(_SPLITS):
        where = f"batch(split={split!r})"
        try:
            found, again = (
                task.batch(split, _NETWORKS, torch.Generator().manual_seed(7)) for _ in range(2)
            )
        except Exception as error:
            what = f"raised {type(error).__name__}: {error}"
            raise _error(task, where, what, "Serve every split") from error
        if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
            kinds = {k: _kind(v) for k, v in found.items()} if isinstance(found, dict) else ""
            raise _error(
                task,
                where,
                f"returned a {_kind(found)} {kinds}".rstrip(),
                "Return a dict of tensors, such as {'x': inputs, 'y': targets}",
            )
        for name, tensor in found.items():
            if tensor.dim() == 0 or tensor.shape[0] != _NETWORKS:
                raise _error(
                    task,
                    where,
                    f"was asked for {_NETWORKS} networks, and returned {name!r} of shape "
                    f"{tuple(tensor.shape)}",
                    "Give every tensor a first dim with a batch for each network, [count, ...]",
                )
            if not torch.equal(tensor.nan_to_num(), again[name].nan_to_num()):
                raise _error(
                    task,
                    where,
                    f"returned another {name!r} for a generator in the same state, so a run could "
                    "not be resumed",
                    "Draw everything from the generator that is given",
                )
    return found


def _check_loss(task: Task, batch: Batch) -> None:
    first = {n: t[0] for n, t in batch.items()}
    read: list[Any] = []
    _called(task, lambda: read.extend(task.inputs(first)), "")
    precise = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in read)
    drawn = task.initial_params(_NETWORKS, torch.Generator().manual_seed(7))
    params = {n: p.double() if precise else p for n, p in drawn.items()}
    one = {n: p[0] for n, p in params.items()}, first
    buffers = {n: b.clone() for n, b in task.template.named_buffers()}
    before = {n: b.clone() for n, b in buffers.items()}

    def plain() -> None:
        functional_call(task.template, {**buffers, **one[0]}, tuple(read))
        task.loss(*one)

    _called(task, plain, "")
    for name, buffer in buffers.items():
        if not torch.equal(buffer, before[name]):
            raise _error(
                task,
                "build",
                f"makes a network whose forward pass changes the buffer {name!r}",
                "Compute it anew, or leave it constant: networks are trained many at once",
            )
    many = vmap(grad_and_value(task.loss), randomness="different")
    _called(task, lambda: many(params, batch), " under torch.func.vmap")


def _called(task: Task, call: Callable[[], Any], how: str) -> None:
    try:
        call()
    except TaskError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"Task {task.name}:"):
            raise
        text = str(error)
        remedies = [remedy for part, remedy in _REMEDIES if how and part in text]
        usual = "Make it work on one batch, without the dim of networks"
        if how:
            usual = "All networks run as one there: no in-place changes, nothing but tensors"
        if isinstance(error, KeyError) and _place(error.__traceback__) == "inputs":
            usual = "Name the inputs 'x' in batch(), or override inputs()"
        what = f"raised {type(error).__name__}{how}: {text.strip().splitlines()[0][:300]}"
        where = _place(error.__traceback__)
        raise _error(task, where, what, remedies[0] if remedies else usual) from error


def _place(trace: TracebackType | None) -> str:
    """The innermost method of the contract that an error came through."""
    found = "judge"
    while trace is not None:
        if trace.tb_frame.f_code.co_name in ("judge", "inputs", "forward", "loss"):
            found = trace.tb_frame.f_code.co_name
        trace = trace.tb_next
    return found


def _kind(value: object) -> str:
    return type(value).__name__


def _error(task: Task, method: str, what: str, remedy: str) -> TaskError:
    place = f"{method}()" if not method.endswith(")") else method
    return TaskError(f"Task {task.name}: {place} {what}. {remedy}.")
