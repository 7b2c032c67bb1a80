"""Remember the inputs of a model's first call, so that the model can be traced on them."""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, MutableMapping, MutableSequence, MutableSet
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from gmn_opt.eager import constant, eagerly
from gmn_opt.optim.finder import live_modules, same_parameters, unwrapped_once

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

    A model that ``torch.compile(fullgraph=True)`` compiles afterwards is recorded while it is
    compiled, since its graph may not be broken by a hook. Calls that are not ordinary (inside
    ``torch.func`` transforms, with fake tensors, inside a function that is compiled as a whole)
    are let through unrecorded.

    Attributes:
        inputs: Positional and keyword arguments of the first call, tensors detached and copied;
            None before that call.
        inner: Captures of modules inside this one, which end when this one has recorded a call.
    """

    inputs: Inputs | None
    inner: list[InputCapture]

    def __init__(self, model: nn.Module) -> None:
        self.inputs = None
        self.inner = []
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

    def _record(
        self, module: weakref.ref[nn.Module], inputs: Inputs, compiling: bool = False
    ) -> None:
        if self.inputs is not None or not _is_ordinary(inputs):
            return
        self.inputs = tree_map(_keep, inputs)
        self._module = module
        for capture in self.inner:
            capture.remove()
        if compiling:
            # The graph under construction is guarded by the hooks: without them, it would be
            # compiled anew. They stay, and do nothing.
            self._finish.detach()
        else:
            self.remove()


_numbers = count()
_hooks: weakref.WeakValueDictionary[int, _Hook] = weakref.WeakValueDictionary()


class _Hook:
    """The forward pre-hook of one module.

    It holds both ends weakly: the hook keeps no model alive, and no capture that nobody waits for.
    """

    def __init__(self, capture: InputCapture, module: nn.Module) -> None:
        self._capture = weakref.ref(capture)
        self._module = weakref.ref(module)
        self.number = next(_numbers)
        _hooks[self.number] = self

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling() and _in_unbreakable_graph(self.number):
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


@eagerly()
def _forward_to(hook: _Hook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    capture = hook._capture()
    if capture is not None:
        capture._record(hook._module, (args, dict(kwargs)))


def _remove_all(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


@constant
def _in_unbreakable_graph(number: int) -> bool:
    """Whether torch.compile is tracing a graph that must not be broken; runs while it traces.

    If it is, the inputs of the hook's module are taken from the call that is being compiled.
    """
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        translator = InstructionTranslator.current_tx()
        if not translator.one_graph:
            return False
        _record_root(_hooks[number], translator.output.root_tx.f_locals)
    except Exception:  # private interface; without an answer, do no harm
        return True
    return True


def _record_root(hook: _Hook, variables: dict[str, Any]) -> None:
    """Record the call of a hook's module if ``Module.__call__`` is what is being compiled."""
    capture, module = hook._capture(), hook._module()
    args, kwargs = variables.get("args"), variables.get("kwargs")
    # The frame is that of ``module(*args, **kwargs)``, of a wrapper's call ``fn(*args, **kwargs)``,
    # or of the hook itself.
    callees = [variables.get(name) for name in ("self", "fn", "module")]
    callees += [getattr(callee, "__self__", None) for callee in callees]
    called = module is not None and any(callee is module for callee in callees)
    if capture is not None and called and isinstance(args, tuple) and isinstance(kwargs, dict):
        capture._record(hook._module, (args, dict(kwargs)), compiling=True)


def _compiled_shells(model: nn.Module) -> list[nn.Module]:
    """What ``torch.compile`` has put around the model: hooks there run outside compiled code."""
    if "torch._dynamo" not in sys.modules:
        return []
    return [m for m in live_modules() if unwrapped_once(m) is model]


def _is_ordinary(arguments: Inputs) -> bool:
    """Whether all tensors are real ones that may be kept beyond the call."""
    from torch._subclasses import FakeTensor

    return not any(
        isinstance(leaf, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(leaf)
        for leaf in tree_leaves(arguments)
        if isinstance(leaf, Tensor)
    )


def _keep(leaf: object) -> object:
    """An argument as it is at the time of the call, without its autograd history.

    What torch does not look into (the batch of a tokenizer, a queue, an object of the user's) is
    copied, because a forward pass may empty it; what is in it is not.
    """
    if isinstance(leaf, Tensor):
        kept = leaf.detach()
        if kept.numel() * kept.element_size() <= _CLONE_BYTES:
            kept = kept.clone()
        return kept.requires_grad_(leaf.requires_grad)
    containers = (MutableMapping, MutableSequence, MutableSet)
    holds = isinstance(leaf, containers) or getattr(leaf, "__dict__", None)
    if isinstance(leaf, nn.Module) or not holds:  # a marker may be known by its identity
        return leaf
    try:
        return copy.copy(leaf)
    except Exception:  # it forbids copies
        return leaf
