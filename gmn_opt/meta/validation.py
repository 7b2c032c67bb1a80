"""A number by which versions of a rule are compared during meta-training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from gmn_opt.meta.rules import Rule, build_rule
from gmn_opt.meta.task import Task
from gmn_opt.meta.unroll import train_inner
from gmn_opt.meta.world import World
from gmn_opt.optim.rule import RuleConfig

#: What the score of a validation is called in records.
METRIC = (
    "mean over tasks of ln(final training loss / that of the untrained rule), "
    "every ratio bounded to 0.1 .. 20"
)
#: A task whose loss ends above this many times the reference, or as NaN, counts as this many.
_WORST = 20.0
#: A task that gains more than this counts as this: one alone must not choose the checkpoint.
_BEST = 0.1


@dataclass
class Validation:
    """Trains fixed tasks from fixed initializations on fixed batches, with every rule alike.

    The final loss of a task is the mean training loss over the last tenth of its steps (batches are
    fresh at every step), averaged over networks. The rule knows the horizon on every other task.
    The reference is the default :class:`~gmn_opt.optim.LearnedRule` before meta-training, its
    hand-made base; it is the same whatever is meta-trained, so scores compare across runs.

    Attributes:
        tasks: the tasks; over several processes each trains its share.
        steps, networks: per task.
        seed: of initializations and batches.
        device: where they are trained.
        reference: final loss of the untrained rule by task, measured when first needed.
    """

    tasks: Sequence[Task]
    steps: int
    networks: int = 2
    seed: int = 1234
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    reference: dict[str, float] = field(default_factory=dict)

    def losses(self, rule: Rule, world: World) -> dict[str, float]:
        """Final loss by task."""
        found = {}
        for i, task in enumerate(self.tasks):
            if i % world.size == world.rank:
                horizon = self.steps if i % 2 == 0 else None
                _, losses = train_inner(
                    rule, task, self.steps, self.networks, self.seed, horizon, self.device
                )
                found[task.name] = float(losses[-max(1, self.steps // 10) :].mean())
        everyone = world.gather(found)
        return {name: loss for part in everyone for name, loss in part.items()}

    def ratios(self, rule: Rule, world: World) -> dict[str, float]:
        """Final loss over that of the reference, by task, at most ``_WORST``."""
        if not self.reference:
            untrained = build_rule(RuleConfig()).to(self.device)
            self.reference = self.losses(untrained, world)
        found = {}
        for name, loss in self.losses(rule, world).items():
            ratio = loss / self.reference[name]
            found[name] = min(ratio, _WORST) if math.isfinite(ratio) else _WORST
        return found


def score(ratios: dict[str, float]) -> float:
    """``METRIC``; lower is better."""
    return sum(math.log(max(r, _BEST)) for r in ratios.values()) / len(ratios)
