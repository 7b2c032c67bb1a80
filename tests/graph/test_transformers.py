"""Models of the ``transformers`` library: nothing changes, and no space of theory is missing."""

from __future__ import annotations

import time
from collections import Counter
from functools import cache

import pytest
import torch
from torch import nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.verify import Checker
from tests.transformer_cases import HUB, HUB_BY_NAME, Inputs

pytest.importorskip("transformers")
NAMES = [c.name for c in HUB]
Space = tuple[int, tuple[int, ...]]


@cache
def made(name: str) -> tuple[nn.Module, Inputs, ParameterGraph, float]:
    model, inputs = HUB_BY_NAME[name].make()
    start = time.perf_counter()
    graph = trace(model, verify=False, **inputs)
    return model, inputs, graph, time.perf_counter() - start


@pytest.mark.parametrize("name", NAMES)
def test_symmetries_leave_the_outputs_as_they_are(name: str) -> None:
    model, inputs, graph, _ = made(name)
    checker = Checker(model, (), inputs, seed=5)
    assert checker.repeats()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        assert checker.change(graph.random_symmetry(generator)) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_coverage_and_time(name: str) -> None:
    _, _, graph, seconds = made(name)
    assert graph.coverage() > 0.98
    # Tracing takes a tenth of this on an idle core; the library's first use is part of it.
    assert seconds < 10


# Derived by hand. Sizes say what a space is: residual stream 12 (16 with grouped heads), heads 3,
# dims per head 4, feed-forward layers 20, and what is said below.
STREAM: Space = (12, ())
WIDE: Space = (16, ())
FFN: Space = (20, ())
HEADS: Space = (3, ())
PER_HEAD: Space = (4, (3,))
PAIRS_OF_HEADS: list[Space] = [(2, ()), (2, (2,)), (4, (2,))]
"""Key-value heads, query heads within each, value dims; rotations fix the query-key dims."""
ATTENTION = [HEADS, PER_HEAD, PER_HEAD]
LAYER = [FFN, *ATTENTION]
ROTARY_LAYER = [FFN, HEADS, PER_HEAD, (2, (3,))]
"""Half of the query-key dims is rotated; the order of the others is free, head by head."""
GROUPED_LAYER = [FFN, *PAIRS_OF_HEADS]

EXPECTED: dict[str, list[Space]] = {
    **{name: [STREAM, *LAYER * 2]
       for name in ("gpt2", "opt", "bert", "distilbert", "deberta", "vit", "deit", "beit")},
    **{name: [WIDE, *GROUPED_LAYER * 2]
       for name in ("llama", "mistral", "qwen2", "qwen3", "gemma2")},
    **{name: [STREAM, *ROTARY_LAYER * 2] for name in ("gpt_neox", "phi")},
    # Hidden neurons of each expert on their own; a router fixes the order of the experts.
    "mixtral": [WIDE, *[(20, (3,)), *PAIRS_OF_HEADS] * 2],
    "qwen2_moe": [WIDE, *[(8, (3,)), (14, ()), *PAIRS_OF_HEADS] * 2],
    # One key and value for all heads; rotations fix the query-key dims.
    "falcon": [STREAM, *[FFN, HEADS, (4, ())] * 2],
    "falcon_grouped": [WIDE, *GROUPED_LAYER * 2],
    # The classification head has a hidden layer as wide as the stream.
    "roberta": [STREAM, *LAYER * 2, STREAM],
    # Both project narrow embeddings up to the stream; ALBERT's layers share their weights.
    "electra": [(6, ()), STREAM, *LAYER * 2, STREAM],
    "albert": [(6, ()), STREAM, *LAYER],
    # One table of relative positions makes all layers of a stack share their heads.
    "t5": [STREAM, HEADS, *[FFN, PER_HEAD, PER_HEAD] * 2,
           HEADS, *[FFN, PER_HEAD, PER_HEAD, *ATTENTION] * 2],
    # Encoder and decoder share the embedding, thus the stream.
    **{name: [STREAM, *LAYER * 2, *[*LAYER, *ATTENTION] * 2] for name in ("bart", "marian")},
    # A stream for each stack, and the channels between the two convolutions.
    "whisper": [STREAM, STREAM, STREAM, *LAYER * 2, *[*LAYER, *ATTENTION] * 2],
    "clip": [STREAM, *LAYER * 2, STREAM, *LAYER * 2],
    # A grouped convolution over positions splits the stream into 3 groups of 4.
    "wav2vec2": [(6, ()), (8, ()), HEADS, PER_HEAD, *LAYER * 2],
    # A stream per stage. Merging patches joins four copies of the stream.
    "swin": [(6, ()), *[(12, ()), (2, ()), (3, (2,)), (3, (2,))] * 2,
             (12, ()), (24, ()), *ATTENTION],
    "convnext": [(6, ()), (24, ()), (10, ()), (40, ())],
    # Two channels in the middle of each bottleneck, twice.
    "resnet": [(6, ()), (8, ()), *[(2, ())] * 4, (12, ()), *[(3, ())] * 2],
    # The first stage shortens its keys by a convolution, which has channels of its own.
    "segformer": [(6, ()), (6, ()), (12, ()), (2, ()), (3, (2,)), (3, (2,)),
                  (8, ()), (16, ()), (4, ()), (2, (4,)), (2, (4,)), *[(10, ())] * 3],
    # Inner channels, states, and the rank of the time steps.
    "mamba": [STREAM, *[(24, ()), (4, ()), (5, ())] * 2],
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_spaces_are_those_derived_by_hand(name: str) -> None:
    graph = made(name)[2]
    found = [(s.size, tuple(graph.factors[p].size for p in s.parents)) for s in graph.spaces]
    assert Counter(found) == Counter(EXPECTED[name])


STREAMS: dict[str, list[tuple[str, int]]] = {
    "gpt2": [("wte.weight", 1), ("wpe.weight", 1), ("ln_1.weight", 0), ("c_attn.weight", 0),
             ("attn.c_proj.weight", 1), ("c_fc.weight", 0), ("mlp.c_proj.weight", 1),
             ("ln_f.bias", 0)],
    "llama": [("embed_tokens.weight", 1), ("q_proj.weight", 1), ("k_proj.weight", 1),
              ("v_proj.weight", 1), ("o_proj.weight", 0), ("gate_proj.weight", 1),
              ("up_proj.weight", 1), ("down_proj.weight", 0), ("norm.weight", 0),
              ("lm_head.weight", 1)],
    "mixtral": [("gate.weight", 1), ("gate_up_proj", 2), ("down_proj", 1), ("o_proj.weight", 0)],
    "bert": [("word_embeddings.weight", 1), ("query.weight", 1), ("key.weight", 1),
             ("value.weight", 1), ("attention.output.dense.weight", 0),
             ("intermediate.dense.weight", 1), ("LayerNorm.bias", 0)],
    "t5": [("shared.weight", 1), ("q.weight", 1), ("o.weight", 0), ("wi_0.weight", 1),
           ("wi_1.weight", 1), ("wo.weight", 0), ("layer_norm.weight", 0)],
    "bart": [("shared.weight", 1), ("q_proj.weight", 1), ("out_proj.bias", 0), ("fc1.weight", 1),
             ("fc2.weight", 0), ("embed_positions.weight", 1)],
    "opt": [("embed_tokens.weight", 1), ("k_proj.weight", 1), ("out_proj.weight", 0),
            ("fc1.weight", 1), ("fc2.weight", 0)],
    "gpt_neox": [("embed_in.weight", 1), ("query_key_value.weight", 1), ("dense.weight", 0),
                 ("dense_h_to_4h.weight", 1), ("dense_4h_to_h.weight", 0)],
    "vit": [("cls_token", 2), ("position_embeddings", 2), ("projection.weight", 0),
            ("classifier.weight", 1)],
    "mamba": [("embeddings.weight", 1), ("in_proj.weight", 1), ("out_proj.weight", 0),
              ("norm_f.weight", 0)],
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_all_layers_share_the_residual_stream(name: str) -> None:
    graph = made(name)[2]
    found: set[tuple[int, ...]] = set()
    for ending, dim in STREAMS[name]:
        blocks = [b for b in graph.blocks if b.tensor.endswith(ending)]
        assert blocks, ending
        found |= {b.dims[dim] for b in blocks}
    assert len(found) == 1, found
    (stream,) = found
    assert len(stream) == 1
    assert graph.factors[stream[0]].is_free


HIDDEN: dict[str, dict[str, int]] = {
    "gpt2": {"c_fc.weight": 1, "c_fc.bias": 0, "mlp.c_proj.weight": 0},
    "llama": {"gate_proj.weight": 0, "up_proj.weight": 0, "down_proj.weight": 1},
    "mixtral": {"gate_up_proj": 1, "down_proj": 2},
    "bert": {"intermediate.dense.weight": 0, "intermediate.dense.bias": 0,
             "output.dense.weight": 1},
    "opt": {"fc1.weight": 0, "fc1.bias": 0, "fc2.weight": 1},
    "t5": {"wi_0.weight": 0, "wi_1.weight": 0, "wo.weight": 1},
    "phi": {"fc1.weight": 0, "fc2.weight": 1},
    "vit": {"fc1.weight": 0, "fc2.weight": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_each_layer_has_hidden_neurons_of_its_own(name: str) -> None:
    """Up and down projections of a layer share one space, and no two layers do."""
    graph = made(name)[2]
    spaces = [s for s in graph.spaces if s.size == 20]
    layers = 4 if name == "t5" else 2
    assert len(spaces) == layers
    for space in spaces:
        along = {b.tensor for b in graph.blocks if any(space.id in d for d in b.dims)}
        endings = {e for t in along for e in HIDDEN[name] if t.endswith(e)}
        assert endings == set(HIDDEN[name])
        stem = {t.removesuffix(e) for t in along for e in endings if t.endswith(e)}
        assert len({"".join(c for c in s if c.isdigit()) for s in stem}) == 1, along
        for block in graph.blocks:
            for ending, dim in HIDDEN[name].items():
                if block.tensor in along and block.tensor.endswith(ending):
                    assert block.dims[dim] == (space.id,), block


@pytest.mark.parametrize("name", ["gpt2", "bert", "opt", "vit"])
def test_heads_lead_the_dims_of_queries_keys_and_values(name: str) -> None:
    graph = made(name)[2]
    heads = [s for s in graph.spaces if s.size == 3]
    for head in heads:
        led = [s for s in graph.spaces if s.parents == (head.id,)]
        assert [s.size for s in led] == [4, 4]
        pairs = {d for b in graph.blocks for d in b.dims if head.id in d}
        assert pairs == {(head.id, s.id) for s in led}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spaces", "seconds"),
    # A stream, then heads, two kinds of dims and a hidden layer per layer; two channel counts
    # per bottleneck besides the stem and the four stages.
    [("gpt2_small", 1 + 12 * 4, 5), ("resnet_50", 5 + 16 * 2, 5), ("llama_8b", 1 + 32 * 4, 30)],
)
def test_models_of_real_size_are_traced_without_numbers(
    name: str, spaces: int, seconds: float
) -> None:
    model, inputs = HUB_BY_NAME[name].meta()
    start = time.perf_counter()
    graph = trace(model, **inputs)
    assert time.perf_counter() - start < seconds
    assert len(graph.spaces) == spaces
    assert graph.coverage() > 0.99


def test_every_model_has_its_spaces_derived_by_hand() -> None:
    assert set(NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", ["falcon", "falcon_grouped"])
def test_lists_of_indices_are_followed_without_numbers(name: str) -> None:
    model, inputs = HUB_BY_NAME[name].meta()
    assert trace(model, **inputs) == made(name)[2]
