"""How each ATen operator relates the axes of its inputs and outputs: one file per family."""

from gmn_opt.graph.tracing.rules import (  # noqa: F401  (importing registers the rules)
    contraction,
    convolution,
    indexing,
    joining,
    normalization,
    ordering,
    reduction,
    shape,
    special,
)
from gmn_opt.graph.tracing.table import RULES, NoRuleError, Rule, rule

__all__ = ["RULES", "NoRuleError", "Rule", "rule"]
