"""The table of operators that a computation graph can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""From an operator's name to ``rule(expander, out, *args, **kwargs)``, with every tensor among
the arguments replaced by what its elements are; returns what the output's elements are."""

WRITTEN_OUT: dict[str, Rule] = {}
"""From an operator's name to the same function of real tensors, in operators that have rules."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function of nodes."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def written_out(*names: str) -> Callable[[Rule], Rule]:
    """Register a function of tensors."""

    def add(function: Rule) -> Rule:
        WRITTEN_OUT.update(dict.fromkeys(names, function))
        return function

    return add
