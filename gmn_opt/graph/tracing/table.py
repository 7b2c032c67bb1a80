"""The table of operator rules.

A rule receives the tracer, the operator's output and the operator's own arguments, and returns a
label per output tensor (a list of labels, or one). Rules raise :class:`NoRuleError` when they
meet a case that they do not cover; the tracer then fixes every axis involved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}


class NoRuleError(Exception):
    """An operator, or a case of it, that no rule covers."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the ATen operators ``names``, in every overload."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def first(out: Any) -> Any:
    """An operator's output, or the first one of several."""
    return out[0] if isinstance(out, (tuple, list)) else out
