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
        if set(clues.tensors) <= owned and is_callable(module):
            return unwrap(module)
    wanted = set(clues.tensors).union(*(_owned(module) for module in modules))
    return find_owner(wanted)


def read_params(params: Iterable[Any]) -> tuple[list[Any], list[nn.Module]]:
    """The items of ``params`` as a list, iterators of groups included, and the models behind them.

    Unlike `find_model` it consumes iterators, and so can check what it found against the
    parameters that really came, and search for their owners when the iterator gave no hint.
    Whatever is in memory, looking for models never raises.
    """
    try:
        model = find_model(params)
    except Exception:  # other people's iterators, containers and modules
        model = None
    items = list(params)
    for position, item in enumerate(items):
        if isinstance(item, dict) and isinstance(item.get("params"), Iterator):
            items[position] = item | {"params": list(item["params"])}
    clues = _Clues()
    _collect_clues(items, clues, depth=0)
    wanted = set(clues.tensors)
    if model is None or not wanted <= _owned(model):
        return items, find_owners(wanted)
    return items, [model]


def find_owner(wanted: Set[int]) -> nn.Module | None:
    """The smallest module with a forward method that owns all of certain parameters.

    Looks through all objects that the garbage collector tracks, and touches none but modules.

    Args:
        wanted: The ``id`` of each parameter.

    Returns:
        None when no module owns all of them, or when there are none.
    """
    return _smallest_whole(wanted, _owners(wanted))


def find_owners(wanted: Set[int]) -> list[nn.Module]:
    """The module of `find_owner`, or several that share the parameters out among them.

    The latter are the largest that own nothing else that could be trained: the two halves of a
    game in one optimizer, a model beside a parameter of nobody. Never raises.
    """
    try:
        owners = _owners(wanted)
        whole = _smallest_whole(wanted, owners)
        if whole is not None:
            return [whole]
        own = [(ids & wanted, m) for ids, m in owners if not _trains_others(m, ids - wanted)]
        found: list[nn.Module] = []
        left = set(wanted)
        while candidates := [(ids, m) for ids, m in own if ids <= left]:
            most = max(len(ids) for ids, _ in candidates)
            chosen = next(ids for ids, _ in candidates if len(ids) == most)
            found.append(unwrap(_outermost([m for ids, m in candidates if ids == chosen])))
            left -= chosen
    except Exception:  # other people's modules may do anything
        return []
    return found


def _owners(wanted: Set[int]) -> list[tuple[frozenset[int], nn.Module]]:
    """All live modules with a forward method that own some of ``wanted``, and what they own."""
    if not wanted:
        return []
    memo: dict[int, frozenset[int]] = {}
    owners = []
    for module in live_modules():
        try:
            owned = _owned(module, memo)
            if not wanted.isdisjoint(owned) and is_callable(module):
                owners.append((owned, module))
        except Exception:  # not a module that we could understand
            continue
    return owners


def _smallest_whole(
    wanted: Set[int], owners: Sequence[tuple[frozenset[int], nn.Module]]
) -> nn.Module | None:
    whole = [(len(owned), module) for owned, module in owners if wanted <= owned]
    if not whole:
        return None
    fewest = min(count for count, _ in whole)
    return unwrap(_outermost([module for count, module in whole if count == fewest]))


def _trains_others(module: nn.Module, others: Set[int]) -> bool:
    """Whether any of its parameters among ``others`` could be trained."""
    return bool(others) and any(id(p) in others and p.requires_grad for p in module.parameters())


def unwrap(module: nn.Module) -> nn.Module:
    """The user's own module inside wrappers that ``torch.compile`` or data parallelism put around.

    Calling a wrapper calls the module inside, so that hooks see every call there.
    """
    while True:
        inner = unwrapped_once(module)
        if inner is None and isinstance(
            module, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def unwrapped_once(module: nn.Module) -> nn.Module | None:
    """The module that ``torch.compile`` has wrapped in ``module``, if it has."""
    inner = _registry(module, "_modules").get("_orig_mod")
    return inner if isinstance(inner, nn.Module) else None


def live_modules() -> Iterator[nn.Module]:
    """All modules in memory whose ``__init__`` has run."""
    for item in gc.get_objects():
        # The type, not isinstance: that would ask lazy proxies for their __class__ and wake them.
        if issubclass(type(item), nn.Module) and "_modules" in getattr(item, "__dict__", ()):
            yield cast(nn.Module, item)


def same_parameters(module: nn.Module) -> list[nn.Module]:
    """``module`` and those inside it that own all its parameters too and can be called.

    Outermost first. An outer one may only be a shell that is never called itself.
    """
    owned = _owned(module)
    return [
        inner
        for inner in module.modules()
        if inner is module or (is_callable(inner) and _owned(inner) == owned)
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
    owned = {id(p) for p in _registry(module, "_parameters").values() if p is not None}
    for child in _registry(module, "_modules").values():
        if issubclass(type(child), nn.Module):
            owned |= _owned(child, memo)
    memo[id(module)] = frozenset(owned)
    return memo[id(module)]


def _registry(module: nn.Module, name: str) -> dict[str, Any]:
    """What a module registered, by name; nothing for TorchScript's modules, which keep it in C++.

    Their parameters are other objects at every look, and they cannot be traced.
    """
    found = vars(module).get(name)
    return found if isinstance(found, dict) else {}


def is_callable(module: nn.Module) -> bool:
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
