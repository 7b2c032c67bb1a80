"""The spaces of well-known architectures, derived by hand: size, and the sizes it depends on."""

from __future__ import annotations

import pytest

from gmn_opt.graph import trace
from tests.cases import BY_NAME

Space = tuple[int, tuple[int, ...]]

# Residual stream, feed-forward layers, heads, query-key dims per head, value dims per head.
STREAM: Space = (8, ())
HEADS: Space = (2, ())
PER_HEAD: Space = (4, (2,))

EXPECTED: dict[str, list[Space]] = {
    "mlp": [(6, ()), (5, ())],
    "residual_mlp": [(6, ()), (7, ()), (7, ())],
    "swiglu_packed": [(6, ())],
    "einsum_heads": [(3, ()), (5, (3,))],
    "stacked_experts": [(3, ()), (5, (3,))],
    "resnet": [(4, ()), (5, ()), (7, ()), (6, ())],
    "mobilenet": [(4, ()), (8, ()), (6, ())],
    # Groups of a grouped convolution may move, and channels within each group.
    "grouped_conv": [(2, ()), (2, (2,)), (3, (2,)), (3, ())],
    "grouped_conv_residual": [(3, ()), (4, (3,))],
    "mixed_heads": [(3, ()), (5, ())],
    "group_norm": [(2, ()), (3, (2,)), (4, ())],
    "unet": [(4, ()), (6, ()), (5, ()), (7, ())],
    "attention": [STREAM, HEADS, PER_HEAD, PER_HEAD],
    "attention_mha": [STREAM, HEADS, PER_HEAD, PER_HEAD],
    "attention_packed": [STREAM, HEADS, PER_HEAD, PER_HEAD],
    "attention_interleaved": [STREAM, HEADS, PER_HEAD, PER_HEAD],
    "attention_relative": [STREAM, HEADS, PER_HEAD, PER_HEAD],
    # Key-value heads, query heads within each, key dims and value dims per key-value head.
    "attention_gqa": [STREAM, HEADS, (2, (2,)), (3, (2,)), (3, (2,))],
    # Rotations fix the query-key dims.
    "attention_rope": [STREAM, HEADS, PER_HEAD],
    "transformer_encoder": [STREAM, *[(12, ()), HEADS, PER_HEAD, PER_HEAD] * 2],
    "gpt": [STREAM, *[(16, ()), HEADS, PER_HEAD, PER_HEAD] * 2],
    "vit": [STREAM, (16, ()), HEADS, PER_HEAD, PER_HEAD],
    "gru": [(6, ())],
    "lstm_two_layers": [(5, ())] * 4,
    "ssm": [(6, ()), (3, ())],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_spaces_are_those_derived_by_hand(name: str) -> None:
    model, inputs = BY_NAME[name].make()
    graph = trace(model, *inputs)
    found = [(s.size, tuple(graph.factors[p].size for p in s.parents)) for s in graph.spaces]
    assert sorted(found) == sorted(EXPECTED[name])
