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
    "ratios outside 0.1 .. 20 compressed"
)
#: A task whose loss ends as NaN counts as one that ends at this many times the reference.
_LOST = 1e6
#: Losses below it count alike: a task may be solved to the last digit.
_SOLVED = 1e-9
#: Outside these ratios a task counts less and less: one alone must not choose the checkpoint.
_BEST, _WORST = 0.1, 20.0
#: What a task can gain or lose beyond them, in nats.
_BEYOND = 0.5


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
        """Final loss over that of the reference, by task, at most ``_LOST``."""
        if not self.reference:
            untrained = build_rule(RuleConfig()).to(self.device)
            self.reference = self.losses(untrained, world)
        found = {}
        for name, loss in self.losses(rule, world).items():
            ratio = max(loss, _SOLVED) / max(self.reference[name], _SOLVED)
            found[name] = min(ratio, _LOST) if math.isfinite(ratio) else _LOST
        return found


def score(ratios: dict[str, float]) -> float:
    """``METRIC``; lower is better."""
    return sum(map(_counted, ratios.values())) / len(ratios)


def _counted(ratio: float) -> float:
    """The log of a ratio, growing ever more slowly outside the bounds, and never the same twice."""
    if ratio <= 0:
        return math.log(_BEST) - _BEYOND
    near = min(max(ratio, _BEST), _WORST)
    over = math.log(ratio / near)
    return math.log(near) + _BEYOND * over / (1 + abs(over))
