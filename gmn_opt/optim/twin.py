"""A copy of a model that can be called without anybody noticing.

Tracing and checking call a model several times. The twin is made of copies of all modules that
share the parameters and buffers of the originals, and has none of the user's hooks: nothing is
logged, counted or measured twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

_HOOKS = (
    ("_forward_pre_hooks", ("_forward_pre_hooks_with_kwargs",)),
    ("_forward_hooks", ("_forward_hooks_with_kwargs", "_forward_hooks_always_called")),
    ("_backward_hooks", ()),
    ("_backward_pre_hooks", ()),
)


#: Where torch keeps hooks for the calls of all modules.
_GLOBAL_HOOKS = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)


@contextmanager
def without_global_hooks() -> Iterator[None]:
    """Inside, no hook that the user registered for all modules runs."""
    home = vars(torch.nn.modules.module)
    kept = {name: dict(home[name]) for name in _GLOBAL_HOOKS if home.get(name)}
    for name in kept:
        home[name].clear()
    try:
        yield
    finally:
        for name, hooks in kept.items():
            home[name].update(hooks)


def traceable_twin(
    model: nn.Module, record: bool = False, wanted: Sequence[bool] = ()
) -> nn.Module:
    """A copy of ``model`` around the same tensors; the model itself where it cannot be copied.

    Hooks of torch's own (weight norm, spectral norm, pruning) are part of the function and stay.

    Args:
        model: left as it is.
        record: calls record gradients, whatever surrounds them.
        wanted: which leaves of the arguments need gradients in such a call.
    """
    shared: dict[int, Any] = {}
    for module in model.modules():
        for value in (*vars(module).values(), *_registered(module)):
            if isinstance(value, Tensor):
                shared[id(value)] = value
    try:
        twin = copy.deepcopy(model, shared)
        originals, copies = dict(model.named_parameters()), dict(twin.named_parameters())
        whole = originals.keys() == copies.keys() and all(
            copies[name] is p for name, p in originals.items()
        )
        if not whole or twin is model:
            return model
        for module in twin.modules():
            _remove_hooks(module)
        if record:
            twin.__class__ = _recording(type(twin), tuple(wanted))
    except Exception:  # whatever a module's own way to be copied may raise
        return model
    return twin


def _registered(module: nn.Module) -> list[Any]:
    return [*vars(module)["_parameters"].values(), *vars(module)["_buffers"].values()]


def _remove_hooks(module: nn.Module) -> None:
    """Leave only hooks that belong to torch."""
    for name, marks in _HOOKS:
        hooks = vars(module).get(name)
        if not hooks:
            continue
        for key in [key for key, hook in hooks.items() if not _is_of_torch(hook)]:
            del hooks[key]
            for mark in marks:
                vars(module).get(mark, {}).pop(key, None)


def _is_of_torch(hook: Any) -> bool:
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home == "torch" or home.startswith("torch.")


def _recording(kind: type[nn.Module], wanted: tuple[bool, ...]) -> type[nn.Module]:
    """A subclass whose calls record gradients, also of the arguments where they are wanted."""
    call: Callable[..., Any] = kind.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.enable_grad():
            leaves, form = tree_flatten((args, kwargs))
            if len(leaves) == len(wanted):
                pairs = zip(leaves, wanted, strict=True)
                leaves = [x.detach().requires_grad_() if needed else x for x, needed in pairs]
                args, kwargs = tree_unflatten(leaves, form)
            return call(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})
