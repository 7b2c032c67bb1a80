"""Remember the inputs of a model's first call, so that the model can be traced on them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from gmn_opt.optim.finder import live_modules, same_parameters

_CLONE_BYTES = 1 << 28
"""Larger inputs are kept by reference: a copy would be felt."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class InputCapture:
    """Records the arguments of the first call of a model, then gets out of the way.

    The model may be inside a wrapper (compiled, data-parallel) or be one itself (around a module
    that is called directly): it is watched at every module that owns the same parameters, and the
    outermost one that is called counts. The hooks draw no random numbers and change no argument,
    so training is bitwise the same with and without them; they refer to the model only weakly,
    and copies and pickles of the model carry an inert stand-in.

    Calls that are not ordinary (inside ``torch.func`` transforms, with fake tensors, inside a
    graph that ``torch.compile(fullgraph=True)`` may not break) are let through unrecorded.

    Attributes:
        inputs: Positional and keyword arguments of the first call, tensors detached and copied;
            None before that call.
    """

    inputs: Inputs | None

    def __init__(self, model: nn.Module) -> None:
        self.inputs = None
        self._module: weakref.ref[nn.Module] | None = None
        handles: list[RemovableHandle] = []
        watched = [(shell, model) for shell in _compiled_shells(model)]
        watched += [(module, module) for module in same_parameters(model)]
        for module, meant in watched:
            hook = _Hook(self, meant)
            handles.append(module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))
        self._finish = weakref.finalize(self, _remove_all, handles)

    @property
    def module(self) -> nn.Module | None:
        """The module that was called with `inputs`: the model, or one inside it of equal extent.

        None before the call, and when the module is no longer alive.
        """
        return None if self._module is None else self._module()

    def remove(self) -> None:
        """Stop watching; what was recorded stays. May be called again."""
        self._finish()

    def _record(self, module: weakref.ref[nn.Module], inputs: Inputs) -> None:
        if self.inputs is not None or not _is_ordinary(inputs):
            return
        self.inputs = tree_map(_keep, inputs)
        self._module = module
        self.remove()


class _Hook:
    """The forward pre-hook of one module.

    It holds both ends weakly: the hook keeps no model alive, and no capture that nobody waits for.
    """

    def __init__(self, capture: InputCapture, module: nn.Module) -> None:
        self._capture = weakref.ref(capture)
        self._module = weakref.ref(module)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling() and _in_unbreakable_graph():
            return
        _forward_to(self, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> object:
        return _inert

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return _get_inert, ()


def _inert(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What stands in for the hook in copies and pickles of a model."""


def _get_inert() -> object:
    return _inert


@torch.compiler.disable
def _forward_to(hook: _Hook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    capture = hook._capture()
    if capture is not None:
        capture._record(hook._module, (args, dict(kwargs)))


def _remove_all(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


@torch.compiler.assume_constant_result
def _in_unbreakable_graph() -> bool:
    """Whether torch.compile is tracing a graph that must not be broken; runs while it traces."""
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        return bool(InstructionTranslator.current_tx().one_graph)
    except Exception:  # private interface; without an answer, do no harm
        return True


def _compiled_shells(model: nn.Module) -> list[nn.Module]:
    """What ``torch.compile`` has put around the model: hooks there run outside compiled code."""
    if "torch._dynamo" not in sys.modules:
        return []
    return [m for m in live_modules() if vars(m)["_modules"].get("_orig_mod") is model]


def _is_ordinary(arguments: Inputs) -> bool:
    """Whether all tensors are real ones that may be kept beyond the call."""
    from torch._subclasses import FakeTensor

    return not any(
        isinstance(leaf, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(leaf)
        for leaf in tree_leaves(arguments)
        if isinstance(leaf, Tensor)
    )


def _keep(leaf: object) -> object:
    """An argument as it is at the time of the call, without its autograd history."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach()
    return leaf.clone() if leaf.numel() * leaf.element_size() <= _CLONE_BYTES else leaf
