"""Graphs of the case models as the rules find them, traced once per test process."""

from __future__ import annotations

from functools import cache

from gmn_opt.graph import ParameterGraph, trace
from tests.cases import BY_NAME

#: One case of each kind of structure, for properties that do not depend on what was traced.
SPREAD = (
    *("linear", "mlp_width_one", "residual_mlp", "stacked_experts", "maxout", "mobilenet"),
    *("grouped_conv", "unet", "attention_gqa", "attention_interleaved", "gpt_tied", "lstm"),
    *("triplane", "trap_written_slice"),
)


@cache
def graph_of(name: str) -> ParameterGraph:
    """The graph of a case model, unchecked."""
    model, inputs = BY_NAME[name].make()
    return trace(model, *inputs, verify=False)
