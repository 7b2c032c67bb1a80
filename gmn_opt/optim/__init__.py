"""The learned optimizer."""

from gmn_opt.optim.rule import LearnedRule, RuleConfig, RuleState
from gmn_opt.optim.shipped import load_rule, save_rule

__all__ = ["LearnedRule", "RuleConfig", "RuleState", "load_rule", "save_rule"]
