"""The settings of an optimizer: what they mean, and what is said when they cannot."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import torch
from torch import Tensor
from torch.optim import Optimizer

from gmn_opt.optim.blame import users_level

#: What ``lr`` 1 is to AdamW: weight decay counts as with AdamW at this learning rate.
ADAMW_LR = 1e-3
#: Below this ``lr`` was most likely written for another optimizer.
SMALLEST_LR = 0.02
#: In every group, for schedulers that cycle a momentum unless told not to (OneCycleLR, CyclicLR):
#: without it they raise. Nothing reads it.
CYCLED = "momentum"
#: Steps of a constant ``lr`` after which its peak is taken for known.
_PATIENCE = 100

#: Settings of other optimizers, why they mean nothing here, and the values that are harmless.
_FOREIGN: dict[str, tuple[str, tuple[Any, ...]]] = {
    "betas": ("the decays of the rule's accumulators belong to its weights", ()),
    "momentum": ("the decays of the rule's accumulators belong to its weights", (0, None)),
    "dampening": ("the decays of the rule's accumulators belong to its weights", (0, None)),
    "nesterov": ("the decays of the rule's accumulators belong to its weights", (False, None)),
    "eps": ("updates do not depend on the scale of gradients, so there is none to set", ()),
    "amsgrad": ("the rule has no second moment to take the largest of", (False, None)),
    "foreach": ("there is one implementation, which works on all tensors at once", (False, None)),
    "fused": ("there is one implementation, which works on all tensors at once", (False, None)),
    "capturable": ("a step reads gradients on the CPU, to skip those not finite", (False, None)),
    "differentiable": ("use the rule itself, gmn_opt.optim.LearnedRule", (False, None)),
}


class LearningRateWarning(UserWarning):
    """``lr`` looks as if it were meant for another optimizer."""


def refuse_foreign(given: Mapping[str, Any]) -> None:
    """Raise TypeError for a setting of another optimizer, unless its value asks for nothing."""
    for name, value in given.items():
        if name not in _FOREIGN:
            continue
        reason, harmless = _FOREIGN[name]
        if not any(value is h or (value == h and type(value) is type(h)) for h in harmless):
            raise TypeError(
                f"GMNOptimizer has no {name!r}, received {value!r}: {reason}. Leave it out."
            )


def check_keywords(given: Mapping[str, Any]) -> None:
    """Raise TypeError for any keyword that is not a foreign setting with a harmless value."""
    refuse_foreign(given)
    if unknown := [name for name in given if name not in _FOREIGN]:
        homes = [kind.__name__ for kind in _torch_optimizers() if unknown[0] in _settings_of(kind)]
        whose = f", which is one of {', '.join(homes)}: the rule has no such setting" * bool(homes)
        raise TypeError(
            f"GMNOptimizer got an unexpected keyword argument {unknown[0]!r}{whose}. It takes lr, "
            "total_steps, weight_decay, maximize, model, example_inputs and weights."
        )


def _torch_optimizers() -> list[type[Optimizer]]:
    kinds = [k for k in vars(torch.optim).values() if isinstance(k, type)]
    return [k for k in kinds if issubclass(k, Optimizer) and k is not Optimizer]


def _settings_of(kind: type[Optimizer]) -> list[str]:
    return list(inspect.signature(kind).parameters)


def check_group(group: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError for settings of a parameter group that cannot be."""
    lr, decay, total = group["lr"], group["weight_decay"], group["total_steps"]
    for name, value in (("lr", lr), ("weight_decay", decay)):
        one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
        if not one and (isinstance(value, str | Tensor) or not isinstance(value, SupportsFloat)):
            raise TypeError(f"{name} must be a number, received {value!r}.")
        if not (math.isfinite(float(value)) and float(value) >= 0):
            raise ValueError(f"{name} must be a finite number >= 0, received {value}.")
    whole = isinstance(total, int | float) and math.isfinite(total) and int(total) == total
    if total is not None and not (whole and total >= 1):
        raise ValueError(
            f"total_steps must be a whole number of at least 1, or None, received {total!r}."
        )
    refuse_foreign(group)


def kept_share(group: Mapping[str, Any]) -> float:
    """What weight decay leaves of a weight in one step: in [0, 1], whatever the settings."""
    return max(0.0, 1.0 - ADAMW_LR * float(group["lr"]) * float(group["weight_decay"]))


class LearningRateWatch:
    """Says once that ``lr`` is a factor, when all groups peak at what looks like another scale.

    Judged are the values given at construction; then a scheduler's own word on its peak
    (``max_lr``); then the peak that was really used, as soon as ``lr`` falls below it or stays the
    same for long: what still rises is a warmup, however slow. What falls from a sound peak is a
    decay and never reported, nor is a run that was resumed.
    """

    def __init__(self) -> None:
        self._done = False
        self._peak = 0.0
        self._steps = 0

    def constructed(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Judge the values that the user wrote."""
        self._judge(max(float(g["lr"]) for g in groups))

    def resumed(self) -> None:
        """The peak may lie behind, so that nothing can be said any more."""
        self._done = True

    def stepping(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Judge what a scheduler makes of it."""
        if self._done:
            return
        lr = max(float(g["lr"]) for g in groups)
        told = [float(g["max_lr"]) for g in groups if "max_lr" in g]
        self._steps = 0 if lr > self._peak else self._steps + 1
        if self._peak >= SMALLEST_LR:
            self._done = True
        elif told:
            self._judge(max(told))
            self._done = True
        elif lr < self._peak or self._steps > _PATIENCE:
            self._judge(self._peak)
        self._peak = max(self._peak, lr)

    def _judge(self, peak: float) -> None:
        if self._done or not 0 < peak < SMALLEST_LR:
            return
        self._done = True
        warnings.warn(
            f"GMNOptimizer works with lr={peak:g} at most, which makes its steps {1 / peak:,.0f} "
            "times smaller than learned. Its lr is a factor on the learned step, not a step size: "
            "leave it out, or use values around 1.0, also as the peak of a schedule, as in "
            "OneCycleLR(optimizer, max_lr=1.0, ...).",
            LearningRateWarning,
            stacklevel=users_level(),
        )
