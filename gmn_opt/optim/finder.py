"""Find the module behind the ``params`` argument of an optimizer.

Users write ``GMNOptimizer(model.parameters())``, as with every optimizer of torch, and the model
itself is not handed over. It is near, though: the generator that ``parameters()`` returns holds
the module in its frame, and for lists, the smallest module that owns all the parameters can be
found among the objects that the garbage collector tracks.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any, cast

from torch import Tensor, nn

_MAX_DEPTH = 8
"""How deeply iterators, containers and parameter groups may nest."""


def find_model(params: object) -> nn.Module | None:
    """The module whose parameters ``params`` are, or None when there is none to be found.

    Consumes nothing, so it must be called *before* the parameters are read out of an iterator:
    a finished generator no longer knows its module.

    Args:
        params: What a user passes to an optimizer: an iterator such as ``model.parameters()``, a
            generator expression, ``filter``, ``map`` or ``itertools.chain`` over one, a list (of a
            part) of the parameters, of named parameters or of parameter groups.

    Returns:
        The smallest module with a forward method that owns all the parameters, where several own
        the same ones the outermost, without the wrappers of `unwrap`.
    """
    clues = _Clues()
    _collect_clues(params, clues, depth=0)
    modules = list(clues.modules.values())
    if len(modules) == 1:
        (module,) = modules
        owned = _owned(module)
        if set(clues.tensors) <= owned and _is_callable(module):
            return unwrap(module)
    wanted = set(clues.tensors).union(*(_owned(module) for module in modules))
    return find_owner(wanted)


def read_params(params: Iterable[Any]) -> tuple[list[Any], nn.Module | None]:
    """The items of ``params`` as a list, iterators of groups included, and the model behind them.

    Unlike `find_model` it consumes iterators, and so can check what it found against the
    parameters that really came, and search for their owner when the iterator gave no hint.
    """
    model = find_model(params)
    items = list(params)
    for position, item in enumerate(items):
        if isinstance(item, dict) and isinstance(item.get("params"), Iterator):
            items[position] = item | {"params": list(item["params"])}
    clues = _Clues()
    _collect_clues(items, clues, depth=0)
    wanted = set(clues.tensors)
    if model is None or not wanted <= _owned(model):
        model = find_owner(wanted)
    return items, model


def find_owner(wanted: Set[int]) -> nn.Module | None:
    """The smallest module with a forward method that owns all of certain parameters.

    Looks through all objects that the garbage collector tracks, and touches none but modules.

    Args:
        wanted: The ``id`` of each parameter.

    Returns:
        None when no module owns all of them, or when there are none.
    """
    if not wanted:
        return None
    memo: dict[int, frozenset[int]] = {}
    owners: list[tuple[int, nn.Module]] = []
    for module in live_modules():
        owned = _owned(module, memo)
        if wanted <= owned and _is_callable(module):
            owners.append((len(owned), module))
    if not owners:
        return None
    fewest = min(count for count, _ in owners)
    return unwrap(_outermost([module for count, module in owners if count == fewest]))


def unwrap(module: nn.Module) -> nn.Module:
    """The user's own module inside wrappers that ``torch.compile`` or data parallelism put around.

    Calling a wrapper calls the module inside, so that hooks see every call there.
    """
    while True:
        inner = vars(module)["_modules"].get("_orig_mod")
        if inner is None and isinstance(
            module, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def live_modules() -> Iterator[nn.Module]:
    """All modules in memory whose ``__init__`` has run."""
    for item in gc.get_objects():
        # The type, not isinstance: that would ask lazy proxies for their __class__ and wake them.
        if issubclass(type(item), nn.Module) and "_modules" in vars(item):
            yield cast(nn.Module, item)


def same_parameters(module: nn.Module) -> list[nn.Module]:
    """``module`` and those inside it that own all its parameters too and can be called.

    Outermost first. An outer one may only be a shell that is never called itself.
    """
    owned = _owned(module)
    return [
        inner
        for inner in module.modules()
        if inner is module or (_is_callable(inner) and _owned(inner) == owned)
    ]


@dataclass
class _Clues:
    """What was met on the way through an argument, by id."""

    modules: dict[int, nn.Module] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)


def _collect_clues(item: object, clues: _Clues, depth: int) -> None:
    """Note the modules and tensors that ``item`` holds or will yield, without consuming it."""
    kind = type(item)
    if issubclass(kind, Tensor):
        clues.tensors[id(item)] = cast(Tensor, item)
        return
    if issubclass(kind, nn.Module):
        clues.modules[id(item)] = cast(nn.Module, item)
        return
    if depth > _MAX_DEPTH or id(item) in clues.seen or issubclass(kind, (str, bytes)):
        return
    clues.seen.add(id(item))
    for part in _parts(item):
        _collect_clues(part, clues, depth + 1)


def _parts(item: object) -> Iterable[object]:
    """What to look at inside a generator, an iterator or a container."""
    if isinstance(item, GeneratorType):
        return _generator_parts(item)
    if isinstance(item, Mapping):
        return [item["params"]] if "params" in item else list(item.values())
    if isinstance(item, (Sequence, Set, ValuesView)):
        return list(item)
    if isinstance(item, Iterator):
        # filter, map, chain, list iterators, ...: what they draw from is among their referents.
        kinds = (Tensor, nn.Module, Iterator, Mapping, Sequence, Set, ValuesView)
        return [part for part in gc.get_referents(item) if issubclass(type(part), kinds)]
    return []


def _generator_parts(generator: GeneratorType[Any, Any, Any]) -> list[object]:
    """The module in a generator's frame, or the iterator that the generator draws from."""
    frame = generator.gi_frame
    if frame is None:  # it has finished
        return []
    variables = dict(frame.f_locals)
    if issubclass(type(variables.get("self")), nn.Module):
        return [variables["self"]]
    if ".0" in variables:  # the first iterator of a generator expression
        return [variables[".0"]]
    kinds = (nn.Module, Iterator)
    return [value for value in variables.values() if issubclass(type(value), kinds)]


def _owned(module: nn.Module, memo: dict[int, frozenset[int]] | None = None) -> frozenset[int]:
    """The ids of a module's parameters, those of its children included.

    Reads the registries themselves: ``parameters()`` may be overridden, and do anything.
    """
    memo = {} if memo is None else memo
    known = memo.get(id(module))
    if known is not None:
        return known
    memo[id(module)] = frozenset()  # ends the recursion should a module contain itself
    registries = vars(module)
    owned = {id(p) for p in registries.get("_parameters", {}).values() if p is not None}
    for child in registries.get("_modules", {}).values():
        if child is not None:
            owned |= _owned(child, memo)
    memo[id(module)] = frozenset(owned)
    return memo[id(module)]


def _is_callable(module: nn.Module) -> bool:
    """Whether it has a forward method, as ModuleList and its like have not."""
    return "forward" in vars(module) or type(module).forward is not nn.Module.forward


def _outermost(modules: list[nn.Module]) -> nn.Module:
    """Of modules with the same parameters, the outermost that all calls can be seen on.

    Two wrappers around one core see only their own calls; then it is the core.
    """
    inside = {id(module): {id(inner) for inner in module.modules()} for module in modules}

    def containers(module: nn.Module) -> int:
        return sum(id(module) in inner for inner in inside.values())

    outer = [module for module in modules if containers(module) == 1]
    shared = [m for m in modules if all(id(m) in inside[id(o)] for o in outer)]
    return min(shared or modules, key=containers)
