"""GMNOptimizer: the learned update rule behind the face of ``torch.optim``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gmn_opt.eager import eagerly
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.optim.binding import Binding
from gmn_opt.optim.blame import users_level
from gmn_opt.optim.finder import read_params
from gmn_opt.optim.fused import Trained, advance, is_sliced
from gmn_opt.optim.gradients import Gradients, as_real, bounded, compute_dtype, plain_arithmetic
from gmn_opt.optim.rule import LearnedRule
from gmn_opt.optim.settings import (
    CYCLED,
    LearningRateWatch,
    check_group,
    check_keywords,
    kept_share,
)
from gmn_opt.optim.sharded import (
    Team,
    check_layout,
    is_sharded,
    own,
    own_part,
    refuse_partitions,
    refuse_pieces,
)
from gmn_opt.optim.shipped import load_rule
from gmn_opt.optim.sources import GraphSources
from gmn_opt.optim.state import (
    GRAPH,
    STEP,
    STEPS_TAKEN,
    check_saved,
    fits,
    fresh_state,
    loaded_state,
    moments_of,
    pack_graphs,
    saved_order,
    unpack_graphs,
)
from gmn_opt.optim.step import StepInputs

_KEPT = ("_sources", "_rule", "_warned", "_lr_watch")


class GMNOptimizer(Optimizer):
    """A learned optimizer: a graph metanetwork reads the network and writes its updates.

    Works like any optimizer of ``torch.optim``. It needs no settings::

        opt = gmn_opt.GMNOptimizer(model.parameters())

    The model behind ``params`` is found automatically, and traced at the first step on the inputs
    of its first call. Where that is impossible, one warning says why, and every tensor is treated
    on its own.

    Args:
        params: parameters, named parameters, or parameter groups (with ``lr``, ``weight_decay``
            and ``maximize`` of their own).
        lr: a factor on every learned update, no step size; 1 is what the rule was meta-trained for.
            Schedulers may change it, and should peak at about 1.
        total_steps: how many steps the training will take, if known. The rule then plans its
            step sizes towards that end; otherwise it works without a horizon.
        weight_decay: as in ``AdamW`` at its usual learning rate of 0.001: every step first
            multiplies the weights by ``1 - 0.001 * lr * weight_decay``, never by less than 0.
        maximize: go up instead of down.
        model: the module that owns the parameters, if it cannot be found.
        example_inputs: arguments of one forward pass of the model (a tensor or a tuple), if its
            first call cannot be watched.
        weights: name of shipped weights (see ``gmn-opt weights list``), path of a
            ``.safetensors`` file, ``"initial"`` for the rule before any meta-training, or a
            :class:`~gmn_opt.optim.LearnedRule`.
        foreign: settings of other optimizers, refused by name unless they ask for nothing.

    Raises:
        ValueError: no parameters, or a setting out of range.
        TypeError: a setting that means nothing here, or pieces of parameters (FSDP1, ZeRO).
        gmn_opt.weights.WeightsError: weights that are missing, damaged or of another version.

    Accumulators are float32 (float64 for float64 parameters) whatever the parameters are; complex
    parameters are pairs of real ones. If a gradient holds NaN or infinity, the step is skipped,
    with one warning for the first time.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float | Tensor = 1.0,
        *,
        total_steps: int | None = None,
        weight_decay: float = 0.0,
        maximize: bool = False,
        model: nn.Module | None = None,
        example_inputs: Any = None,
        weights: str | os.PathLike[str] | LearnedRule = "default",
        **foreign: Any,
    ) -> None:
        refuse_partitions()
        check_keywords(foreign)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "total_steps": total_steps,
            "maximize": maximize,
            CYCLED: 0,
            STEPS_TAKEN: 0,
            GRAPH: "",
        }
        check_group(defaults)
        if isinstance(params, Tensor):
            raise TypeError(
                "params must be an iterable of tensors or of parameter groups, received a single "
                f"tensor of shape {tuple(params.shape)}. Pass [tensor]."
            )
        items, found = read_params(params)
        if not items:
            raise ValueError(
                "GMNOptimizer received an empty list of parameters. Pass model.parameters() of a "
                "model that has some; a generator can be read only once."
            )
        self._rule = load_rule(weights)
        self._rules: dict[tuple[torch.dtype, torch.device], LearnedRule] = {}
        super().__init__(items, defaults)
        self._warned = False
        self._lr_watch = LearningRateWatch()
        self._lr_watch.constructed(self.param_groups)
        self._sources = GraphSources(found if model is None else [model], _as_call(example_inputs))

    # ------------------------------------------------------------------ torch.optim's contract

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as in ``torch.optim``."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group)
            refuse_pieces(group["params"])
            if group["total_steps"] != self.param_groups[0]["total_steps"]:
                raise ValueError("total_steps must be the same in all parameter groups.")
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        group[STEPS_TAKEN], group[GRAPH] = self.param_groups[0][STEPS_TAKEN], ""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._advance()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State as in ``torch.optim``; the graphs stand in the first parameter group."""
        state = super().state_dict()
        graphs = self._sources.save(self._params())
        if graphs:
            state["param_groups"][0][GRAPH] = pack_graphs(graphs)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, also before the model's first call.

        Raises ValueError when the state is of another optimizer or version, or does not fit.
        """
        saved: dict[str, Any] = {}

        def before(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            """What torch is given: it would round the moments to the parameters' dtype."""
            check_saved(state_dict, self.param_groups, self._rule.moment_names)
            saved.update(state_dict)
            return {**state_dict, "state": {}}

        handle = self.register_load_state_dict_pre_hook(before)
        after = self.register_load_state_dict_post_hook(lambda _: self._load(saved), prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            after.remove()

    def _load(self, saved: Mapping[str, Any]) -> None:
        for key, p in saved_order(saved, self.param_groups):
            if state := saved["state"].get(key):
                self.state[p] = loaded_state(state, p, self._rule.moment_names)
        packed = [group[GRAPH] for group in self.param_groups if group.get(GRAPH)]
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            group[GRAPH] = ""
        if packed:
            self._sources.restore(unpack_graphs(packed[0]), self._params())
        if self.param_groups[0][STEPS_TAKEN]:
            self._lr_watch.resumed()

    @property
    def graphs(self) -> list[ParameterGraph]:
        """The graphs that the rule works on; empty before the first step."""
        return self._sources.graphs

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    # ------------------------------------------------------------------ one update

    @eagerly()
    def _advance(self) -> None:
        params = self._params()
        with plain_arithmetic(params):
            team = Team(params)
            grads = Gradients(self.param_groups, team)
            if not grads or not self._accept(grads):
                return
            frozen = all(float(group["lr"]) == 0 for group in self.param_groups)
            idle = frozen and grads.are_zero
            done: set[int] = set()
            for binding in self._sources.agreed_bindings(params, team, idle):
                mine = {
                    name: p
                    for name, p in binding.trainable.items()
                    if p in grads and id(p) not in done
                }
                done |= {id(p) for p in mine.values()}
                self._prepare(mine.values())
                if mine and not idle:
                    self._update(binding, mine, grads)
            if not idle:
                self._lr_watch.stepping(self.param_groups)
                for group in self.param_groups:
                    group[STEPS_TAKEN] += 1

    def _accept(self, grads: Gradients) -> bool:
        """Whether the gradients can be used; says so the first time that they cannot."""
        if grads.are_finite:
            grads.bound()
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                "GMNOptimizer skipped a step: a gradient holds NaN or infinity. Weights and "
                "accumulators are as they were. Further skipped steps are not reported.",
                RuntimeWarning,
                stacklevel=users_level(),
            )
        return False

    def _prepare(self, params: Iterable[Tensor]) -> None:
        """Fresh state for parameters that have none, or one of another shape."""
        for p in params:
            if p not in self.state or not fits(self.state[p], p, self._rule.moment_names):
                check_layout(p)
                self.state[p] = fresh_state(p, self._rule.moment_names)

    def _rule_for(self, dtype: torch.dtype, device: torch.device) -> LearnedRule:
        key = (dtype, device)
        if key not in self._rules:
            with torch.inference_mode(False):
                rule = deepcopy(self._rule).to(device, dtype)
            self._rules[key] = rule.requires_grad_(False)
        return self._rules[key]

    def _update(self, binding: Binding, mine: Mapping[str, Tensor], grads: Gradients) -> None:
        """One step of the parameters ``mine`` of a graph."""
        layout, names = blocked(binding.graph), self._rule.moment_names
        first = next(iter(mine.values()))
        dtype = max((compute_dtype(p) for p in mine.values()), key=lambda d: d.itemsize)
        rule, thought = self._rule_for(dtype, first.device), self._sources.thought(binding)
        if thought is not None:  # the model may have been converted since
            thought = thought.to(first.device, dtype)
        step, horizon = (self.param_groups[0][k] for k in (STEPS_TAKEN, "total_steps"))
        if thought is not None and not rule.thinks(step) and self._is_plain(binding, mine, dtype):
            tensors = {
                name: Trained(p, grads.of[id(p)], moments_of(self.state[p], names, grads.of[id(p)]))
                for name, p in mine.items()
            }
            self._write(mine, advance(layout, thought, tensors, step, horizon))
            return
        values = binding.values(dtype)
        grad, moments = {}, {}
        for name, value in values.items():
            p = mine.get(name)
            grad[name] = torch.zeros_like(value) if p is None else grads.of[id(p)].to(dtype)
            kept = self.state.get(binding.tensors[name])
            if kept and fits(kept, binding.tensors[name], names) and name in binding.trainable:
                moments[name] = torch.stack(moments_of(kept, names, value))
            else:
                moments[name] = value.new_zeros(len(names), *value.shape)
        theta, flat_grad = bounded(layout.flatten(values)), layout.flatten(grad)
        flat_moments = layout.flatten(moments)
        del values, grad, moments  # they are large, and flat from here on
        inputs = StepInputs(
            binding.graph, theta, flat_grad, flat_moments, step, horizon, thought=thought
        )
        del theta, flat_grad, flat_moments
        delta, after, after_thought = rule.flat_update(inputs)
        self._sources.remember(binding, after_thought)
        self._write(mine, layout.unflatten(delta), layout.unflatten(after))

    def _is_plain(self, binding: Binding, mine: Mapping[str, Tensor], dtype: torch.dtype) -> bool:
        """Whether a step between two thoughts can be made in place."""
        return (
            type(self._rule).flat_update is LearnedRule.flat_update
            and self._rule.node_head is None
            and is_sliced(blocked(binding.graph))
            and all(
                not p.is_complex() and not is_sharded(p) and compute_dtype(p) == dtype
                for p in mine.values()
            )
        )

    def _write(
        self,
        mine: Mapping[str, Tensor],
        deltas: Mapping[str, Tensor],
        after: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Change parameters in place, and their moments unless that is done (None)."""
        place = {id(p): name for name, p in mine.items()}
        for group in self.param_groups:
            kept, lr = kept_share(group), float(group["lr"])
            for p in group["params"]:
                if (name := place.pop(id(p), None)) is None:
                    continue
                state = self.state[p]
                state[STEP] += 1
                if after is not None:
                    for row, moment in zip(after[name], self._rule.moment_names, strict=True):
                        as_real(own(state[moment])).copy_(own_part(row, p))
                target, delta = as_real(own(p)), own_part(deltas[name], p)
                if target.dtype == delta.dtype:
                    if kept != 1.0:
                        target.mul_(kept)
                    target.add_(delta, alpha=lr)
                else:  # rounded once
                    target.copy_((target.to(delta.dtype) * kept).add_(delta, alpha=lr))

    # ------------------------------------------------------------------ copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is made again when needed."""
        state: dict[str, Any] = super().__getstate__()
        state.update({name: self.__dict__[name] for name in _KEPT})
        return {**state, "_rules": {}}


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if example is None:
        return None
    if isinstance(example, dict):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}
