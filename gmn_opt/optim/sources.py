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
    bind_traced,
    digest,
    load_binding,
    load_thought,
    save_binding,
)
from gmn_opt.optim.blame import users_level
from gmn_opt.optim.capture import InputCapture, Inputs
from gmn_opt.optim.finder import find_owners, is_callable, same_parameters
from gmn_opt.optim.sharded import Team

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
        self._thoughts: dict[tuple[int, ...], Tensor] = {}
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
            if self._signature:
                self._follow(params)
            self._signature = signature
        waiting = bool(self._captures) or self._example is not None
        if changed or (waiting and self._uncovered(params)):
            if self._uncovered(params):
                self._trace_calls()
            self._islands = bind_islands(self._uncovered(params))
            current = {_key(b) for b in self._traced + self._islands}
            self._thoughts = {k: t for k, t in self._thoughts.items() if k in current}
        if not self._islands:
            self._unwatch()
        if not idle and (self._loose() or self._only_pieces()):
            self._complain(params)
        return self._traced + self._islands

    def agreed_bindings(
        self, params: Sequence[Tensor], team: Team, idle: bool = False
    ) -> list[Binding]:
        """The same bindings in all processes of a team, of the one where most was traced."""
        found = self.bindings(params, idle)
        if not team or idle or team.agrees(digest(found, params)):
            return found
        traced = sum(p.numel() for b in self._traced for p in b.trainable.values())
        self.restore(team.first(self.save(params), traced), params)
        found = self.bindings(params, idle)
        if not team.agrees(digest(found, params)):
            raise RuntimeError(
                "GMNOptimizer cannot find the same graph of the model in all processes. Give all "
                "of them the same model, or pass model=... and example_inputs=... alike."
            )
        return found

    @property
    def graphs(self) -> list[ParameterGraph]:
        """The graphs at work; none before the first step."""
        return [b.graph for b in self._traced + self._islands]

    def thought(self, binding: Binding) -> Tensor | None:
        """What the rule last gave back to be remembered about this graph."""
        return self._thoughts.get(_key(binding))

    def remember(self, binding: Binding, thought: Tensor | None) -> None:
        """Keep a rule's thought until the next step."""
        if thought is not None:
            self._thoughts[_key(binding)] = thought

    def save(self, params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Everything about the graphs in plain values, with positions of tensors in ``params``."""
        position = {id(p): i for i, p in enumerate(params)}
        return [
            save_binding(b, position, self.thought(b), b in self._traced)
            for b in self._traced + self._islands
        ]

    def restore(self, saved: Sequence[Mapping[str, Any]], params: Sequence[Tensor]) -> None:
        """Take over saved graphs and thoughts, as far as their tensors are known here."""
        owned = {n: p for m in reversed(self.models) for n, p in m.named_parameters()}
        self._signature, self._thoughts, traced = [], {}, []
        for entry in saved:
            binding = load_binding(entry, params, owned)
            if binding is None:
                continue
            if entry["traced"]:
                traced.append(binding)
            self.remember(binding, load_thought(entry, binding))
        self._traced = traced or self._traced

    # ------------------------------------------------------------------ changes of the parameters

    def _follow(self, params: Sequence[Tensor]) -> None:
        """Forget graphs of tensors that are no more, and watch for better ones."""
        kept = [b for b in self._traced if b.is_current and self._is_live(b, params)]
        stale = len(kept) < len(self._traced)
        self._traced = kept
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

    def _loose(self) -> list[Tensor]:
        """What is trained and stands in no graph of a model."""
        found = [p for b in self._islands for p in b.tensors.values()]
        return [p for p in found if p.requires_grad or p.grad is not None]

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
        for part, capture in self._captures.values():
            inside = (self._captures.get(id(m)) for m in part.modules() if m is not part)
            capture.inner = [found[1] for found in inside if found is not None]

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
            self._captures.pop(id(module), None)
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
        loose = len(params) if self._only_pieces() else len(self._loose())
        warnings.warn(
            f"GMNOptimizer treats {loose} parameters without their graph: "
            f"{self._reason(loose, len(params))}. Training goes on, each of these tensors on its "
            "own.",
            GraphWarning,
            stacklevel=users_level(),
        )

    def _only_pieces(self) -> bool:
        """Whether the parts that were called are so small that nothing in them is connected."""
        return self._deep and not any(b.graph.spaces for b in self._traced)

    def _reason(self, loose: int, total: int) -> str:
        if not self.models:
            return "no module that owns these parameters was found; pass model=..."
        if self._failures:
            return self._failures[-1]
        if not self._traced or self._only_pieces():
            names = ", ".join(sorted({type(m).__name__ for m in self.models}))
            return (
                f"{names} was not called before the step (its forward may have been called "
                "directly, without hooks, or inside code that was scripted or compiled with "
                "fullgraph=True); pass example_inputs=(...)"
            )
        if all(p.is_complex() for b in self._islands for p in b.tensors.values()):
            return "complex parameters are pairs of real ones, and a graph has one edge for each"
        return f"{loose} of {total} parameters do not belong to what was called and traced"

    # ------------------------------------------------------------------ copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        # tensors have other ids in a copy
        thoughts = [(b, self.thought(b)) for b in self._traced + self._islands]
        return {
            **self.__dict__,
            "_captures": {},
            "_signature": [],
            "_deep": False,
            "_thoughts": thoughts,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        thoughts = state["_thoughts"]
        self.__dict__.update({**state, "_thoughts": {}})
        for binding, thought in thoughts:
            self.remember(binding, thought)
        if not self._traced:
            self._watch()


def _key(binding: Binding) -> tuple[int, ...]:
    return tuple(id(p) for p in binding.tensors.values())


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
