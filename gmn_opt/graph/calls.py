"""Calling a model and leaving no trace: what goes in, what comes out, what must not change."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmn_opt.graph.memory import Memory
from gmn_opt.graph.walking import PLAIN, own_classes, parts_of

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a model."""
Exchange = dict[str, str]
"""Paths of modules, each to that of the sibling with which it changes places."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[Memory]:
    """Leave the model and all random state exactly as they are; run plain ATen kernels.

    Gives the model's memory, so that one can ask what a pass has stored.
    """
    memory = Memory(model)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is the point
    with ExitStack() as stack:
        stack.callback(memory.restore)
        stack.callback(random.setstate, drawn[0])
        stack.callback(np.random.set_state, drawn[1])
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
            yield memory
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            torch._C._set_mkldnn_enabled(mkldnn)


def is_statistic(model: nn.Module, name: str) -> bool:
    """Whether a buffer follows its channels: norm statistics, a spectral norm's vectors."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in ("_u", "_v"):
        return type(module).__name__ == "_SpectralNorm"
    return leaf in ("running_mean", "running_var") and hasattr(module, "num_features")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested containers and objects; modules are not looked into."""
    yield from _walk(value, set())


def _walk(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, (*PLAIN, nn.Module)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    for _, item in parts_of(value) or ():
        yield from _walk(item, seen)


def mode_matters(model: nn.Module) -> bool:
    """Whether a model's own code asks for the mode, training or evaluation.

    That is the code of its classes that are not torch's, of functions among its attributes, and
    of the functions of their modules that these call.
    """
    todo = [f for kind in own_classes(model) for f in vars(kind).values()]
    todo += [f for f in Memory(model, numbers=False).alive if isinstance(f, FunctionType)]
    seen: set[int] = set()
    while todo:
        function = todo.pop()
        if not isinstance(function, FunctionType) or id(function) in seen:
            continue
        seen.add(id(function))
        names = _names_in(function.__code__)
        if "training" in names:
            return True
        if not function.__module__.startswith(("torch.", "gmn_opt.")):
            todo.extend(function.__globals__.get(n) for n in names)
    return False


@cache
def _names_in(code: CodeType) -> frozenset[str]:
    inner = (_names_in(c) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(code.co_names).union(*inner)


def copy_inputs(value: Any, double: bool = False) -> Any:
    """Inputs with every tensor cloned, so that a pass that writes to them leaves no trace.

    With ``double``, on the CPU and with numbers in float64 or complex128.
    """
    memo: dict[int, Any] = {}
    for tensor in tensors_in(value):
        copied = tensor.detach().clone()
        memo[id(tensor)] = raised(copied.cpu()) if double else copied
    return copy.deepcopy(value, memo)


def raised(tensor: Tensor) -> Tensor:
    """A tensor in float64 or complex128, if it is one of floating-point numbers."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def double_copy(model: nn.Module) -> nn.Module:
    """A deep copy on the CPU in float64, plain attributes included; shared memory stays shared."""
    saved = [s.tensor for s in Memory(model, numbers=False).tensors.values()]
    groups: dict[Any, list[Tensor]] = {}
    for tensor in saved:
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
        if plain and not (tensor.is_nested or tensor.is_quantized):
            key = tensor.untyped_storage()._cdata, tensor.dtype
            groups.setdefault(key, []).append(tensor)
    memo: dict[int, Any] = {}
    for tensors in groups.values():
        flat = None
        if len(tensors) > 1 and tensors[0].device.type != "meta":
            flat = _whole(tensors[0])
        for old in tensors:
            new = raised(old.detach().clone().cpu())
            if flat is not None:
                new = flat.as_strided(old.shape, old.stride(), old.storage_offset())
            if isinstance(old, nn.Parameter):
                memo[id(old)] = nn.Parameter(new, old.requires_grad)
            else:
                memo[id(old)] = new
    copied: nn.Module = copy.deepcopy(model, memo)
    return copied.cpu().double().eval()


def _whole(tensor: Tensor) -> Tensor:
    """The memory behind a tensor, as a vector in float64 or complex128."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return raised(tensor.detach().as_strided((count,), (1,), 0).clone().cpu())
