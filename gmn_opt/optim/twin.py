"""A copy of a model that can be called without anybody noticing.

Tracing and checking call a model several times. The twin is made of copies of all modules that
share the parameters and buffers of the originals, and has none of the user's hooks: nothing is
logged, counted or measured twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    ("_forward_pre_hooks", ("_forward_pre_hooks_with_kwargs",)),
    ("_forward_hooks", ("_forward_hooks_with_kwargs", "_forward_hooks_always_called")),
    ("_backward_hooks", ()),
    ("_backward_pre_hooks", ()),
)


def traceable_twin(model: nn.Module, record: bool = False) -> nn.Module:
    """A copy of ``model`` around the same tensors; the model itself where it cannot be copied.

    Hooks of torch's own (weight norm, spectral norm, pruning) are part of the function and stay.

    Args:
        model: left as it is.
        record: calls record gradients, whatever surrounds them.
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
            twin.__class__ = _recording(type(twin))
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


def _recording(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose calls record gradients."""
    call: Callable[..., Any] = kind.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with torch.enable_grad():
            return call(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": __call__, "__module__": kind.__module__})
