"""What a model holds between two calls, kept so that it can be put back.

A forward pass may leave anything behind: a cache in an attribute, an entry in a dict, a membrane
potential, a buffer registered on the way, a resized observer, a flag. All that is reachable from a
model's modules is noted before a pass, and put back after it *in place*: objects stay the same.
"""

from __future__ import annotations

import gc
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmn_opt.graph.walking import PLAIN, attributes, own_classes, parts_of

MAX_OBJECTS = 200_000
MAX_GLOBAL = 1000
_APART = ("torch.utils.data", "torch.optim", "torch.cuda", "torch.distributed", "threading",
          "_thread", "queue", "multiprocessing", "concurrent", "asyncio", "logging", "io", "_io",
          "socket", "lightning", "pytorch_lightning", "weakref", "gmn_opt.optim")  # fmt: skip
"""Homes of objects that belong to a training loop and not to the model."""


class Saved(NamedTuple):
    """A tensor, its memory and geometry, its numbers, and what autograd knows of it."""

    path: str
    tensor: Tensor
    alias: Tensor
    version: int
    value: Tensor | None
    requires_grad: bool
    grad: Tensor | None


class Memory:
    """All that is reachable from a model's modules.

    Attributes:
        tensors: Every tensor by its ``id``: parameters, buffers, attributes, items of containers.
        alive: All objects that were looked into.
    """

    def __init__(self, model: nn.Module, numbers: bool = True) -> None:
        self.model = model
        self.numbers = numbers
        self.tensors: dict[int, Saved] = {}
        self.undo: list[Callable[[], None]] = []
        self._seen: set[int] = set()
        self.alive: list[Any] = []
        self._dicts: list[tuple[dict[Any, Any], list[tuple[Any, Any]]]] = []
        self._buffers = {name for name, _ in model.named_buffers()}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._save(name, tensor)
        for name, module in model.named_modules():
            self._visit(module, name)
        for kind in own_classes(model):
            self._visit_class(kind)

    # ------------------------------------------------------------------ looking

    def _visit(self, root: Any, path: str) -> None:
        stack: list[tuple[str, Any]] = [(path, root)]
        while stack and len(self._seen) < MAX_OBJECTS:
            path, value = stack.pop()
            if isinstance(value, PLAIN) or id(value) in self._seen:
                continue
            if isinstance(value, Tensor):
                self._save(path, value)
                continue
            if type(value).__module__.startswith(_APART):
                continue
            if isinstance(value, FunctionType) and str(value.__module__).startswith("gmn_opt."):
                continue
            self._seen.add(id(value))
            self.alive.append(value)
            self._note(value)
            if isinstance(value, np.ndarray) and value.dtype == object:
                stack.extend((path, x) for x in value.flat)
            joined = f"{path}." if path else ""
            for key, part in parts_of(value) or ():
                if not isinstance(part, PLAIN):
                    inner = key if isinstance(key, str) else f"[{key!r}]"
                    stack.append((path if inner in _SHELLS else joined + inner, part))

    def _visit_class(self, kind: type) -> None:
        """Attributes that a class holds for all its instances; methods that remember results."""
        before = dict(vars(kind))
        caches = [(f, f.cache_info().currsize) for f in _caches_of(before.values())]
        self.undo.append(lambda: _restore_class(kind, before, caches))
        for name, value in before.items():
            method = isinstance(value, (FunctionType, property, classmethod, staticmethod))
            if not method and not name.startswith("__"):
                self._visit(value, f"{kind.__name__}.{name}")

    def _save(self, path: str, tensor: Tensor) -> None:
        if id(tensor) in self.tensors:
            return
        grad = tensor.grad if tensor.is_leaf else None
        value = None
        if self.numbers and tensor.device.type != "meta":
            value = tensor.detach().clone()
        alias = tensor.detach()
        found = Saved(path, tensor, alias, version_of(tensor), value, tensor.requires_grad, grad)
        self.tensors[id(tensor)] = found
        if grad is not None:
            self._save(f"{path}.grad", grad)
        self._note_object(tensor)
        for name, part in vars(tensor).items():
            self._visit(part, f"{path}.{name}")

    def _note(self, value: Any) -> None:
        """Remember how to put one mutable object back."""
        if not self.numbers:
            return
        if isinstance(value, dict):
            items = list(value.items())
            self._dicts.append((value, items))
            self.undo.append(lambda: _restore_dict(value, items))
        elif isinstance(value, (list, deque)):
            entries = list(value)
            self.undo.append(lambda: _restore_list(value, entries))
        elif isinstance(value, set):
            members = set(value)
            self.undo.append(lambda: _restore_set(value, members))
        elif isinstance(value, np.ndarray):
            numbers = value.copy()
            self.undo.append(lambda: np.copyto(value, numbers))
        elif isinstance(value, CellType):
            content = [x for _, x in parts_of(value) or ()]
            self.undo.append(lambda: setattr(value, "cell_contents", content[0])
                             if content else None)  # fmt: skip
        else:
            self._note_object(value)

    def _note_object(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            state = value.get_state()
            self.undo.append(partial(_restore_generator, value, state))
        elif isinstance(value, random.Random):
            drawn = value.getstate()
            self.undo.append(lambda: value.setstate(drawn))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator.state
            self.undo.append(lambda: setattr(value.bit_generator, "state", bits))
        elif isinstance(value, np.random.RandomState):
            words = value.get_state()
            self.undo.append(lambda: value.set_state(words))
        inner = getattr(value, "__dict__", None)
        if isinstance(inner, dict):
            self._note(inner)
        slots = [
            (n, x) for n, x in attributes(value) if not isinstance(inner, dict) or n not in inner
        ]
        if slots and not isinstance(value, (tuple, frozenset, FunctionType)):
            self.undo.append(lambda: _restore_slots(value, slots))

    # ------------------------------------------------------------------ afterwards

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors that were put into the model, or written to, since this memory was taken."""
        for number, now in Memory(self.model, numbers=False).tensors.items():
            old = self.tensors.get(number)
            if old is None or version_of(now.tensor) != old.version:
                yield now.path, now.tensor

    def begin(self) -> None:
        """Judge by what there is now whether a call changes anything: the mode may be another."""
        self._dicts = [(value, list(value.items())) for value, _ in self._dicts]

    def changed(self, stored: Iterable[tuple[str, Tensor]] | None = None) -> bool:
        """Whether attributes or containers hold other things now: another call may do others.

        ``stored`` is what :meth:`stored` gives, where it is known already.
        """
        if any(not _same_items(value, items) for value, items in self._dicts):
            return True
        stored = self.stored() if stored is None else stored
        return any(name not in self._buffers for name, _ in stored)

    def restore(self) -> None:
        """Put all back as it was."""
        for undo in reversed(self.undo):
            undo()
        with torch.no_grad():
            for saved in self.tensors.values():
                _restore_tensor(saved)


_SHELLS = frozenset({"_parameters", "_buffers", "_modules", ""})
"""Steps that do not show in the name of an attribute."""


def version_of(tensor: Tensor) -> int:
    """How often a tensor's memory was written to; -1 where nobody counts."""
    try:
        return tensor._version
    except RuntimeError:  # a tensor made for inference
        return -1


def _restore_tensor(saved: Saved) -> None:
    tensor, alias = saved.tensor, saved.alias
    if not _same_memory(tensor, alias):
        tensor.data = alias
    # Kernels write running statistics without counting it as a new version.
    written = version_of(tensor) != saved.version
    if saved.value is not None and (written or not _equal(alias, saved.value)):
        alias.copy_(saved.value)
    if tensor.is_leaf:
        if tensor.requires_grad != saved.requires_grad:
            tensor.requires_grad_(saved.requires_grad)
        if tensor.grad is not saved.grad:
            tensor.grad = saved.grad


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is never equal, and put back for safety."""
    return not a.is_nested and a.layout == torch.strided and torch.equal(a, b)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided or a.is_nested or a.device.type == "meta":
        return True
    same = a.stride() == b.stride() and a.storage_offset() == b.storage_offset()
    return same and a.untyped_storage()._cdata == b.untyped_storage()._cdata


def _same_items(value: dict[Any, Any], items: list[tuple[Any, Any]]) -> bool:
    now = list(value.items())
    return len(now) == len(items) and all(
        a is c and b is d for (a, b), (c, d) in zip(now, items, strict=True)
    )


def _restore_dict(value: dict[Any, Any], items: list[tuple[Any, Any]]) -> None:
    if _same_items(value, items):
        return
    base: Any = OrderedDict if isinstance(value, OrderedDict) else dict
    base.clear(value)
    for key, item in items:
        base.__setitem__(value, key, item)


def _restore_list(value: Any, entries: list[Any]) -> None:
    if len(value) != len(entries) or any(a is not b for a, b in zip(value, entries, strict=True)):
        value.clear()
        value.extend(entries)


def _restore_generator(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


def _restore_set(value: set[Any], members: set[Any]) -> None:
    if value != members:
        value.clear()
        value.update(members)


def _restore_slots(value: Any, slots: list[tuple[str, Any]]) -> None:
    before = dict(slots)
    for name, now in attributes(value):
        if name not in before and name not in getattr(value, "__dict__", {}):
            object.__delattr__(value, name)
        elif name in before and before[name] is not now:
            object.__setattr__(value, name, before[name])


def _restore_class(kind: type, before: dict[str, Any], caches: list[tuple[Any, int]]) -> None:
    for cache, size in caches:
        if cache.cache_info().currsize != size:
            cache.cache_clear()
    for name, now in dict(vars(kind)).items():
        if name.startswith("__") and name.endswith("__"):
            continue
        if name not in before:
            delattr(kind, name)
        elif before[name] is not now:
            setattr(kind, name, before[name])


def _caches_of(methods: Iterable[Any]) -> Iterator[Any]:
    """Methods that remember their results, and those inside of functions that call them."""
    for method in methods:
        method = getattr(method, "__func__", method)  # of a static or class method
        inside = method.__closure__ or () if isinstance(method, FunctionType) else ()
        for function in (method, *(x for cell in inside for _, x in parts_of(cell) or ())):
            if hasattr(function, "cache_info") and hasattr(function, "cache_clear"):
                yield function


def constants_around(memory: Memory) -> Iterator[Tensor]:
    """Tensors that a model's own code finds outside of the model: globals, captured variables."""
    kinds = own_classes(memory.model)
    for kind in kinds:
        for cache in _caches_of(vars(kind).values()):
            yield from _tensors_among(gc.get_referents(cache))
    functions = [f for kind in kinds for f in vars(kind).values() if isinstance(f, FunctionType)]
    for function in functions:
        yield from _tensors_among(x for cell in function.__closure__ or ()
                                  for _, x in parts_of(cell) or ())  # fmt: skip
    functions += [f for f in memory.alive if isinstance(f, FunctionType)]
    homes = {id(f.__globals__): f.__globals__ for f in functions}
    for kind in kinds:
        home = vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}
        homes[id(home)] = home
    around = [vars(m) for home in homes.values() for m in list(home.values())
              if isinstance(m, ModuleType) and not m.__name__.startswith("torch")]  # fmt: skip
    for home in {id(h): h for h in (*homes.values(), *around)}.values():
        yield from _tensors_among(list(home.values()))


def _tensors_among(values: Iterable[Any]) -> Iterator[Tensor]:
    """Tensors, and those directly in plain containers."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (dict, list, tuple) and len(value) < MAX_GLOBAL:
            inside = list(value.values()) if isinstance(value, dict) else value
            yield from (x for x in inside if isinstance(x, Tensor))
