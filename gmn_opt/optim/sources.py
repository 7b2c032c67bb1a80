"""Where the graphs of an optimizer come from, and how they follow what stands in its groups."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.optim.binding import (
    Binding,
    GraphWarning,
    bind_islands,
    bind_saved,
    bind_traced,
)
from gmn_opt.optim.capture import InputCapture, Inputs
from gmn_opt.optim.finder import find_owners, is_callable, same_parameters

#: Recorded calls of a model that may fail to give a graph, before no more are waited for.
_ATTEMPTS = 3
_Signature = list[tuple[Tensor, torch.Size, torch.device]]


class GraphSources:
    """The models behind an optimizer's parameters, and the graphs that they have given so far.

    A model is watched until a call of it gave a usable graph. If a step comes before any call, it
    is taken without the graph, and from then on the parts of the model are watched, too: those that
    are called instead of the whole give a graph each. What stays without a graph is said once, at
    the second such step (at the first, where there is nothing to wait for).

    Args:
        models: that own the parameters.
        example: arguments of a call of the first model, if it need not be watched.
    """

    def __init__(self, models: Sequence[nn.Module], example: Inputs | None) -> None:
        self.models = list(models)
        self._example = example
        self._traced: list[Binding] = []
        self._islands: list[Binding] = []
        self._signature: _Signature = []
        self._failures: list[str] = []
        self._without = 0
        self._warned = False
        self._captures: dict[int, tuple[nn.Module, InputCapture]] = {}
        self._deep = False
        self._watch()

    # ------------------------------------------------------------------ what the optimizer asks

    def bindings(self, params: Sequence[Tensor], idle: bool = False) -> list[Binding]:
        """Bindings that cover ``params`` as they are now.

        ``idle`` steps change nothing, and so are no reason to say anything.
        """
        signature: _Signature = [(p, p.shape, p.device) for p in params]
        changed = not _same(signature, self._signature)
        if changed:
            self._follow(params, first=not self._signature)
            self._signature = signature
        waiting = bool(self._captures) or self._example is not None
        if changed or (waiting and self._uncovered(params)):
            if self._uncovered(params):
                self._trace_calls()
            self._islands = bind_islands(self._uncovered(params))
        if not self._islands:
            self._unwatch()
        elif not idle:
            self._complain(params)
        return self._traced + self._islands

    @property
    def graphs(self) -> list[ParameterGraph]:
        """The graphs at work; none before the first step."""
        return [b.graph for b in self._traced + self._islands]

    def save(self, params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The traced graphs in JSON, with the positions of their tensors among ``params``."""
        position = {id(p): i for i, p in enumerate(params)}
        return [
            {
                "graph": b.graph.to_json(),
                "params": {n: position[id(p)] for n, p in b.tensors.items() if id(p) in position},
            }
            for b in self._traced
        ]

    def restore(self, saved: Sequence[Mapping[str, Any]], params: Sequence[Tensor]) -> None:
        """Take over saved graphs, as far as their tensors are known here."""
        owned = {n: p for m in reversed(self.models) for n, p in m.named_parameters()}
        if found := bind_saved(saved, params, owned):
            self._traced, self._signature = found, []

    # ------------------------------------------------------------------ changes of the parameters

    def _follow(self, params: Sequence[Tensor], first: bool) -> None:
        """Forget graphs of tensors that are no more, and watch for better ones."""
        kept = [b for b in self._traced if b.is_current and self._is_live(b, params)]
        stale = len(kept) < len(self._traced)
        self._traced = kept
        if first:
            return
        known = {id(p) for m in self.models for p in m.parameters()}
        strangers = {id(p) for p in params} - known - self._covered()
        new = [m for m in find_owners(strangers) if all(m is not old for old in self.models)]
        self.models += new
        if stale or new or self._uncovered(params):
            self._failures, self._without = [], 0
            self._watch({id(p) for p in self._uncovered(params)})

    def _is_live(self, binding: Binding, params: Sequence[Tensor]) -> bool:
        """Whether nobody put other tensors in the places of this graph's."""
        given = {id(p) for p in params}
        gone = [p for p in binding.tensors.values() if id(p) not in given]
        if not gone:
            return True
        known = {id(p) for m in self.models for p in m.parameters()}
        return all(id(p) in known for p in gone)

    def _covered(self) -> set[int]:
        return {id(p) for b in self._traced for p in b.trainable.values()}

    def _uncovered(self, params: Iterable[Tensor]) -> list[Tensor]:
        covered = self._covered()
        return [p for p in params if id(p) not in covered and p.numel() and _can_train(p)]

    # ------------------------------------------------------------------ watching and tracing

    def _watch(self, wanted: set[int] | None = None) -> None:
        """Watch the models, or only those that own some of the parameters ``wanted``, by id."""
        if self._example is not None:
            return
        self._unwatch()
        self._deep = False
        for model in self.models:
            if wanted is None or any(id(p) in wanted for p in model.parameters()):
                self._captures[id(model)] = (model, InputCapture(model))

    def _watch_parts(self) -> None:
        """Watch every module inside the models, of which the outermost that is called counts."""
        self._deep = True
        for model in self.models:
            whole = {id(m) for m in same_parameters(model)}
            for part in model.modules():
                if id(part) not in whole and _has_own_graph(part):
                    self._captures[id(part)] = (part, InputCapture(part))

    def _unwatch(self) -> None:
        for _, capture in self._captures.values():
            capture.remove()
        self._captures = {}

    def _trace_calls(self) -> None:
        """Turn recorded calls into graphs; watch for other calls where that fails."""
        if self._example is not None and self.models:
            model, example, self._example = self.models[0], self._example, None
            self._try(model, example)
        called = [(m, c) for m, c in self._captures.values() if c.inputs is not None]
        inside: set[int] = set()
        for module, _ in called:
            inside |= {id(part) for part in module.modules()} - {id(module)}
        for module, capture in called:
            del self._captures[id(module)]
            if id(module) in inside:
                continue
            assert capture.inputs is not None
            if self._try(capture.module or module, capture.inputs):
                for part in module.modules():
                    if id(part) in self._captures:
                        self._captures.pop(id(part))[1].remove()
            elif len(self._failures) < _ATTEMPTS:
                self._captures[id(module)] = (module, InputCapture(module))

    def _try(self, model: nn.Module, inputs: Inputs) -> bool:
        try:
            binding = bind_traced(model, inputs)
        except Exception as error:  # training goes on, whatever tracing meets
            self._failures.append(f"tracing {type(model).__name__} failed: {error}")
            return False
        if binding is not None:
            self._traced.append(binding)
        return binding is not None

    # ------------------------------------------------------------------ what is said

    def _complain(self, params: Sequence[Tensor]) -> None:
        """Say once what has no graph, when waiting for it has been in vain."""
        self._without += 1
        if not self._deep and self._captures and not self._failures:
            self._watch_parts()
        if self._warned or (self._captures and self._without < 2):
            return
        self._warned = True
        loose = sum(len(b.tensors) for b in self._islands)
        warnings.warn(
            f"GMNOptimizer treats {loose} parameters without their graph: "
            f"{self._reason(loose, len(params))}. Training goes on, each of these tensors on its "
            "own.",
            GraphWarning,
            stacklevel=8,
        )

    def _reason(self, loose: int, total: int) -> str:
        if not self.models:
            return "no module that owns these parameters was found; pass model=..."
        if self._failures:
            return self._failures[-1]
        if not self._traced:
            names = ", ".join(sorted({type(m).__name__ for m in self.models}))
            return (
                f"{names} was not called before the step (its forward may have been called "
                "directly, without hooks); pass example_inputs=(...)"
            )
        return f"{loose} of {total} parameters do not belong to what was called and traced"

    # ------------------------------------------------------------------ copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_captures": {}, "_signature": [], "_deep": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._traced:
            self._watch()


def _same(one: _Signature, other: _Signature) -> bool:
    return len(one) == len(other) and all(
        p is q and shape == size and here == there
        for (p, shape, here), (q, size, there) in zip(one, other, strict=True)
    )


def _can_train(p: Tensor) -> bool:
    """Whether a gradient can come: integers, quantized backbones say, never have one."""
    return p.is_floating_point() or p.is_complex()


def _has_own_graph(module: nn.Module) -> bool:
    return (
        not isinstance(module, torch.jit.ScriptModule)
        and is_callable(module)
        and any(p.requires_grad for p in module.parameters())
    )
