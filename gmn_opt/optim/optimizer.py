"""GMNOptimizer: the learned update rule behind the face of ``torch.optim``."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.optim.binding import Binding, bind, bind_islands
from gmn_opt.optim.capture import InputCapture
from gmn_opt.optim.finder import read_params
from gmn_opt.optim.rule import LearnedRule
from gmn_opt.optim.shipped import load_rule
from gmn_opt.optim.step import StepInputs

_STATE_VERSION = 1
_EXTRA = "gmn_opt"


class GMNOptimizer(Optimizer):
    """A learned optimizer: a graph metanetwork reads the network and writes its updates.

    Works like any optimizer of ``torch.optim``. It needs no settings::

        opt = gmn_opt.GMNOptimizer(model.parameters())

    The model behind ``params`` is found automatically, and traced at the first step on the inputs
    of its first call. Where that is impossible, one warning says why, and every tensor is treated
    on its own.

    Args:
        params: parameters, named parameters, or parameter groups (with ``lr`` and
            ``weight_decay`` of their own).
        lr: multiplies every update; 1 is what the rule was meta-trained for. Schedulers may
            change it.
        total_steps: how many steps the training will take, if known. The rule then plans its
            step sizes towards that end; otherwise it works without a horizon.
        weight_decay: every step first multiplies the weights by ``1 - lr * weight_decay``.
        model: the module that owns the parameters, if it cannot be found.
        example_inputs: arguments of one forward pass of the model (a tensor or a tuple), if its
            first call cannot be watched.
        weights: name of shipped weights (see ``gmn-opt weights list``), path of a
            ``.safetensors`` file, ``"initial"`` for the rule before any meta-training, or a
            :class:`~gmn_opt.optim.LearnedRule`.

    Raises:
        ValueError: no parameters, or a setting out of range.
        TypeError: parameters that are not real floating-point tensors.
        gmn_opt.weights.WeightsError: weights that are missing, damaged or of another version.

    Accumulators are float32 (float64 for float64 parameters) whatever the parameters are. If a
    gradient holds NaN or infinity, the step is skipped, with one warning for the first time.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float = 1.0,
        *,
        total_steps: int | None = None,
        weight_decay: float = 0.0,
        model: nn.Module | None = None,
        example_inputs: Any = None,
        weights: str | os.PathLike[str] | LearnedRule = "default",
    ) -> None:
        _check_settings(lr, weight_decay, total_steps)
        items, found = read_params(params)
        if not items:
            raise ValueError(
                "GMNOptimizer received an empty list of parameters. Pass model.parameters() of a "
                "model that has some; a generator can be read only once."
            )
        defaults = {"lr": lr, "weight_decay": weight_decay, "total_steps": total_steps}
        self._bindings: list[Binding] | None = None
        super().__init__(items, defaults)
        self._rules: dict[tuple[torch.dtype, torch.device], LearnedRule] = {}
        self._rule = load_rule(weights)
        self._step = 0
        self._warned = False
        self._model = model if model is not None else found
        self._example = _as_call(example_inputs)
        self._capture: InputCapture | None = None
        if self._model is not None and self._example is None:
            self._capture = InputCapture(self._model)

    # ------------------------------------------------------------------ torch.optim's contract

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as in ``torch.optim``; they must be real floating-point tensors."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_settings(group["lr"], group["weight_decay"], group["total_steps"])
            if group["total_steps"] != self.param_groups[0]["total_steps"]:
                raise ValueError("total_steps must be the same in all parameter groups.")
            for position, p in enumerate(group["params"]):
                _check_parameter(p, position)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._bindings = None

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters that have a gradient.

        Args:
            closure: evaluates the model again and returns the loss, as in ``torch.optim``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = {
            id(p): p.grad
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        }
        if not grads or not self._finite(list(grads.values())):
            return loss
        for binding in self._bound():
            if any(id(p) in grads for p in binding.tensors.values()):
                self._update(binding, grads)
        self._step += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State as in ``torch.optim``, with the graph (JSON) and the step count beside it."""
        state = super().state_dict()
        position = {
            id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])
        }
        graphs = [
            {
                "graph": binding.graph.to_json(),
                "params": {
                    name: position[id(p)]
                    for name, p in binding.tensors.items()
                    if id(p) in position
                },
            }
            for binding in self._bindings or []
        ]
        state[_EXTRA] = {"version": _STATE_VERSION, "step": self._step, "graphs": graphs}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, also before the model's first call.

        Raises ValueError when the state is of another optimizer or version, or does not fit.
        """
        extra = state_dict.get(_EXTRA)
        if not isinstance(extra, dict) or extra.get("version") != _STATE_VERSION:
            raise ValueError(
                "This is not the state of a GMNOptimizer of this version: expected "
                f"'{_EXTRA}' with version {_STATE_VERSION}, received "
                f"{extra if extra is None else extra.get('version')!r}. Load a state that "
                "GMNOptimizer.state_dict() returned."
            )
        params = [p for group in self.param_groups for p in group["params"]]
        for index, saved in state_dict["state"].items():
            if index < len(params) and saved["moments"].shape[1:] != params[index].shape:
                raise ValueError(
                    f"Parameter {index} has shape {tuple(params[index].shape)}, but the saved "
                    f"moments are for {tuple(saved['moments'].shape[1:])}. Build the same model."
                )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != _EXTRA})
        for index, saved in state_dict["state"].items():
            # torch casts the state to the parameter's dtype, which would round float32 moments
            p = params[index]
            self.state[p]["moments"] = (
                saved["moments"].to(_compute_dtype(p), copy=True).to(p.device)
            )
        self._step = int(extra["step"])
        self._bindings = self._restore(extra["graphs"], params) or self._bindings

    def _restore(self, graphs: list[dict[str, Any]], params: list[Tensor]) -> list[Binding] | None:
        """Bindings from the saved graphs; None if they hold tensors that are not known here."""
        restored = []
        owned = dict(self._model.named_parameters()) if self._model is not None else {}
        for saved in graphs:
            graph = ParameterGraph.from_json(saved["graph"])
            tensors: dict[str, Tensor] = {}
            for name in graph.shapes:
                index = saved["params"].get(name)
                if index is not None:
                    tensors[name] = params[index]
                elif name in owned and tuple(owned[name].shape) == graph.shapes[name]:
                    tensors[name] = owned[name]
                else:
                    return None
            restored.append(Binding(graph, tensors))
        return restored or None

    # ------------------------------------------------------------------ the network's graph

    @property
    def graphs(self) -> list[ParameterGraph]:
        """The graphs that the rule works on; empty before the first step."""
        return [binding.graph for binding in self._bindings or []]

    def _bound(self) -> list[Binding]:
        if self._bindings is None:
            params = [p for group in self.param_groups for p in group["params"]]
            model, inputs = self._model, self._example
            if inputs is None and self._capture is not None:
                inputs = self._capture.inputs
                model = self._capture.module or model
            bindings = [part for whole in bind(params, model, inputs) for part in _by_device(whole)]
            self._bindings = bindings
            if self._capture is not None and inputs is not None:
                self._example, self._capture = inputs, None
        return self._bindings

    # ------------------------------------------------------------------ one update

    def _finite(self, grads: list[Tensor]) -> bool:
        values = [g.coalesce().values() if g.is_sparse else g for g in grads]
        largest = [v.abs().max().float().cpu() for v in values if v.numel()]
        if not largest or bool(torch.isfinite(torch.stack(largest)).all()):
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                "GMNOptimizer skipped a step: a gradient holds NaN or infinity. Weights and "
                "accumulators are as they were. Further skipped steps are not reported.",
                RuntimeWarning,
                stacklevel=4,
            )
        return False

    def _rule_for(self, dtype: torch.dtype, device: torch.device) -> LearnedRule:
        key = (dtype, device)
        if key not in self._rules:
            self._rules[key] = deepcopy(self._rule).to(device, dtype).requires_grad_(False)
        return self._rules[key]

    def _update(self, binding: Binding, grads: dict[int, Tensor]) -> None:
        layout = blocked(binding.graph)
        tensors = binding.tensors
        first = next(iter(tensors.values()))
        dtype = max((_compute_dtype(p) for p in tensors.values()), key=lambda d: d.itemsize)
        rule = self._rule_for(dtype, first.device)
        count = len(rule.moment_names)
        theta, grad, moments = {}, {}, {}
        for name, p in tensors.items():
            theta[name] = p.detach().to(dtype)
            given = grads.get(id(p))
            grad[name] = torch.zeros_like(theta[name]) if given is None else _dense(given, dtype)
            kept = self.state[p]["moments"] if p in self.state else None
            if kept is None:
                kept = theta[name].new_zeros(count, *p.shape)
            moments[name] = kept.to(dtype)
        delta, after = rule.flat_update(
            StepInputs(
                binding.graph,
                layout.flatten(theta),
                layout.flatten(grad),
                layout.flatten(moments),
                self._step,
                self.param_groups[0]["total_steps"],
            )
        )
        deltas, kept_moments = layout.unflatten(delta), layout.unflatten(after)
        name_of = {id(p): name for name, p in tensors.items()}
        for group in self.param_groups:
            decay = 1.0 - group["lr"] * group["weight_decay"]
            for p in group["params"]:
                if id(p) not in name_of or id(p) not in grads:
                    continue
                name = name_of[id(p)]
                if decay != 1.0:
                    p.mul_(decay)
                p.add_(deltas[name].to(p.dtype), alpha=float(group["lr"]))
                self.state[p]["moments"] = kept_moments[name].to(_compute_dtype(p))

    # ------------------------------------------------------------------ copies and pickles

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the watch on the model's first call."""
        state: dict[str, Any] = super().__getstate__()
        kept = ("_bindings", "_rule", "_step", "_warned", "_model", "_example")
        state.update({name: self.__dict__[name] for name in kept})
        return {**state, "_rules": {}, "_capture": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore, and watch the model again if its graph is not known yet."""
        super().__setstate__(state)
        if self._bindings is None and self._model is not None and self._example is None:
            self._capture = InputCapture(self._model)


def _compute_dtype(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def _dense(grad: Tensor, dtype: torch.dtype) -> Tensor:
    return (grad.to_dense() if grad.is_sparse else grad).detach().to(dtype)


def _as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if example is None:
        return None
    if isinstance(example, dict):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def _by_device(binding: Binding) -> list[Binding]:
    """The binding itself, or islands per device when its tensors are spread over several."""
    devices = {p.device for p in binding.tensors.values()}
    if len(devices) <= 1:
        return [binding]
    found, first = [], 0
    for device in sorted(devices, key=str):
        here = [p for p in binding.tensors.values() if p.device == device]
        found.append(bind_islands(here, first))
        first += len(here)
    return found


def _check_settings(lr: Any, weight_decay: Any, total_steps: Any) -> None:
    if not (math.isfinite(float(lr)) and float(lr) >= 0):
        raise ValueError(f"lr must be a finite number >= 0, received {lr}; 1.0 is the default.")
    if not (math.isfinite(float(weight_decay)) and float(weight_decay) >= 0):
        raise ValueError(f"weight_decay must be a finite number >= 0, received {weight_decay}.")
    if total_steps is not None and (int(total_steps) != total_steps or total_steps < 1):
        raise ValueError(
            f"total_steps must be a whole number of at least 1, or None, received {total_steps}."
        )


def _check_parameter(p: Tensor, position: int) -> None:
    if p.is_complex() or not p.is_floating_point():
        raise TypeError(
            f"Parameter {position} of shape {tuple(p.shape)} has dtype {p.dtype}; GMNOptimizer "
            "trains real floating-point parameters only. Leave it out of the list"
            + (", or train torch.view_as_real of it." if p.is_complex() else ".")
        )
