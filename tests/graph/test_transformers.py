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
from tests.transformer_cases import EXPECTED, HUB, HUB_BY_NAME, Inputs

pytest.importorskip("transformers")
NAMES = [c.name for c in HUB]


@cache
def made(name: str) -> tuple[nn.Module, Inputs, ParameterGraph, float]:
    model, inputs = HUB_BY_NAME[name].make()
    start = time.process_time()
    graph = trace(model, verify=False, **inputs)
    return model, inputs, graph, time.process_time() - start


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
    start = time.process_time()
    graph = trace(model, **inputs)
    assert time.process_time() - start < seconds
    assert len(graph.spaces) == spaces
    assert graph.coverage() > 0.99


def test_every_model_has_its_spaces_derived_by_hand() -> None:
    assert set(NAMES) == set(EXPECTED)


@pytest.mark.parametrize("name", ["falcon", "falcon_grouped"])
def test_lists_of_indices_are_followed_without_numbers(name: str) -> None:
    model, inputs = HUB_BY_NAME[name].meta()
    assert trace(model, **inputs) == made(name)[2]
