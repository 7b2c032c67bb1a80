"""The learned optimizer."""

from gmn_opt.optim.binding import GraphWarning
from gmn_opt.optim.optimizer import GMNOptimizer
from gmn_opt.optim.rule import LearnedRule, RuleConfig, RuleState
from gmn_opt.optim.shipped import load_rule, save_rule

__all__ = [
    "GMNOptimizer",
    "GraphWarning",
    "LearnedRule",
    "RuleConfig",
    "RuleState",
    "load_rule",
    "save_rule",
]
