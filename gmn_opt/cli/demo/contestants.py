"""Who takes part in the contest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer

MakeOptimizer = Callable[[nn.Module, int], Optimizer]

DEFAULT_RATE = 1e-3
"""The learning rate that torch's AdamW has when nobody sets one."""
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass(frozen=True)
class Contestant:
    """One way of training.

    Attributes:
        name: Short name in the record.
        title: What people read.
        make_optimizer: From the model and the number of steps; must be importable by name, so
            that worker processes can have it.
        rate: The learning rate, for those that belong to the AdamW grid.
    """

    name: str
    title: str
    make_optimizer: MakeOptimizer
    rate: float | None = None


def make_gmn(model: nn.Module, steps: int) -> Optimizer:
    """GMNOptimizer without any setting."""
    from gmn_opt.optim import GMNOptimizer

    return GMNOptimizer(model.parameters())


def make_gmn_with_horizon(model: nn.Module, steps: int) -> Optimizer:
    """GMNOptimizer that is told how long the training lasts."""
    from gmn_opt.optim import GMNOptimizer

    return GMNOptimizer(model.parameters(), total_steps=steps)


def make_gmn_initial(model: nn.Module, steps: int) -> Optimizer:
    """The same rule with the metanet's outputs as they were before meta-training."""
    from gmn_opt.optim import GMNOptimizer

    return GMNOptimizer(model.parameters(), weights="initial")


def make_adamw(model: nn.Module, steps: int, *, rate: float) -> Optimizer:
    """AdamW at a constant rate, everything else as torch has it."""
    return AdamW(model.parameters(), lr=rate)


GMN = Contestant("gmn", "GMNOptimizer", make_gmn)
GMN_HORIZON = Contestant("gmn_total_steps", "GMNOptimizer, total_steps", make_gmn_with_horizon)
GMN_INITIAL = Contestant("gmn_initial", "GMN rule, metanet frozen", make_gmn_initial)
LEARNED = (GMN, GMN_HORIZON, GMN_INITIAL)


def adamw(rate: float) -> Contestant:
    """AdamW at this rate; at `DEFAULT_RATE` this is AdamW as it comes."""
    written = format_rate(rate)
    return Contestant(f"adamw_{written}", f"AdamW {written}", partial(make_adamw, rate=rate), rate)


def format_rate(rate: float) -> str:
    """A rate the way people write it: ``3e-4``."""
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
