"""Graphs of the case models as the rules find them, traced once per test process."""

from __future__ import annotations

from functools import cache

from gmn_opt.graph import ParameterGraph, trace
from tests.cases import BY_NAME


@cache
def graph_of(name: str) -> ParameterGraph:
    """The graph of a case model, unchecked."""
    model, inputs = BY_NAME[name].make()
    return trace(model, *inputs, verify=False)
