"""The learned optimizer."""

from gmn_opt.optim.binding import GraphWarning
from gmn_opt.optim.optimizer import GMNOptimizer
from gmn_opt.optim.rule import LearnedRule, RuleConfig
from gmn_opt.optim.settings import LearningRateWarning
from gmn_opt.optim.shipped import load_rule, save_rule
from gmn_opt.optim.step import StepInputs, StepOutputs

__all__ = [
    "GMNOptimizer",
    "GraphWarning",
    "LearnedRule",
    "LearningRateWarning",
    "RuleConfig",
    "StepInputs",
    "StepOutputs",
    "load_rule",
    "save_rule",
]
