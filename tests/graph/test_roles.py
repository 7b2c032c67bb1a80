"""Roles of parameters: derived by hand for many models, and sane for all others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.graph import ParameterGraph, Role, trace
from gmn_opt.graph.roles import block_roles, block_uses, roles_of
from tests.cases import CASES
from tests.graph.graphs import graph_of
from tests.transformer_cases import HUB_BY_NAME

WORDS = {
    "in": Role.INPUT, "out": Role.OUTPUT, "mat": Role.MATRIX, "conv": Role.CONVOLUTION,
    "emb": Role.EMBEDDING, "pos": Role.POSITION, "scale": Role.SCALE, "shift": Role.SHIFT,
    "bias": Role.BIAS, "q": Role.QUERY, "k": Role.KEY, "v": Role.VALUE,
    "o": Role.ATTENTION_OUTPUT, "gate": Role.GATE, "router": Role.ROUTER, "expert": Role.EXPERT,
}  # fmt: skip
Expected = dict[str, str]
QKV = ["mat q 2x4", "mat k 2x4", "mat v 2x4"]


def told(uses: Any) -> set[tuple[frozenset[Role], int, int]]:
    return {(u.roles, u.heads, u.head_dim) for u in uses}


def meant(text: str) -> set[tuple[frozenset[Role], int, int]]:
    """``"emb | out"``: two uses; ``"mat q 2x4"``: a matrix of queries, two heads of four dims."""
    out = set()
    for use in text.split(" | "):
        words = use.split()
        heads = [w for w in words if w[0].isdigit()]
        h, d = map(int, heads[0].split("x")) if heads else (0, 0)
        out.add((frozenset(WORDS[w] for w in words if w not in heads), h, d))
    return out


def check(graph: ParameterGraph, expected: dict[str, str | list[str]]) -> None:
    roles = roles_of(graph)
    for name, text in expected.items():
        parts = roles[name]
        texts = [text] if isinstance(text, str) else text
        assert len(parts) == len(texts), (name, str(roles))
        for part, wanted in zip(parts, texts, strict=True):
            assert told(part.uses) == meant(wanted), (name, str(roles))


BY_HAND: dict[str, dict[str, str | list[str]]] = {
    "linear": {"weight": "in out", "bias": "bias"},
    "mlp": {"0.weight": "in", "2.weight": "mat", "4.weight": "out", "2.bias": "bias"},
    "mlp_width_one": {"2.weight": "mat", "4.weight": "mat", "6.weight": "out"},
    "mlp_batch_norm": {"1.weight": "scale", "1.bias": "shift", "3.weight": "mat"},
    "residual_mlp": {"stem.weight": "in", "up.0.weight": "mat", "down.1.weight": "mat",
                     "head.weight": "out"},
    "dense_mlp": {"b.weight": ["in", "mat"], "c.weight": ["in out", "out", "out"]},
    "tied_autoencoder": {"weight": "in | out"},
    "two_outputs": {"trunk.weight": "in", "a.weight": "out", "b.weight": "out"},
    "weight_norm": {"b.parametrizations.weight.original0": "scale",
                    "b.parametrizations.weight.original1": "mat"},
    "spectral_norm": {"a.parametrizations.weight.original": "in", "b.weight": "out"},
    "swiglu": {"gate.weight": "in gate", "up.weight": "in", "down.weight": "out"},
    "swiglu_packed": {"up.weight": ["in gate", "in"], "up.bias": "bias"},
    "soft_moe": {"router.weight": "in router", "experts.0.2.weight": "mat expert"},
    "hard_moe": {"router.weight": "mat router", "experts.1.0.weight": "mat expert",
                 "experts.1.2.weight": "mat expert", "enter.weight": "in", "head.weight": "out"},
    "experts_by_list": {"up": "mat expert", "bias": "bias", "down": "mat expert"},
    "cnn": {"0.weight": "conv in", "3.weight": "conv", "6.weight": "out"},
    "resnet": {"stem.weight": "conv in", "two.skip.weight": "conv", "norm.weight": "scale",
               "norm.bias": "shift", "head.weight": "out"},
    "depthwise": {"0.weight": "conv in", "1.weight": "conv"},
    "transposed_conv": {"4.weight": "conv", "7.weight": "conv out"},
    "unet": {"up.weight": "conv", "out.weight": "conv out"},
    "squeeze_excite": {"down.weight": "conv", "up.weight": "conv gate"},
    "convnext": {"depth.weight": "conv", "up.weight": "mat", "down.weight": "mat"},
    "shuffle_net": {"c.weight": "conv", "c.bias": "bias"},
    "attention": {"q.weight": "mat q 2x4", "k.weight": "mat k 2x4", "v.weight": "mat v 2x4",
                  "o.weight": "mat o 2x4", "q.bias": "bias"},
    "attention_mha": {"attention.in_proj_weight": QKV, "attention.in_proj_bias": "bias",
                      "attention.out_proj.weight": "mat o 2x4"},
    "attention_packed": {"qkv.weight": QKV, "qkv.bias": "bias", "o.weight": "mat o 2x4"},
    "attention_interleaved": {"qkv.weight": QKV},
    "attention_gqa": {"q.weight": "mat q 4x3", "k.weight": "mat k 2x3", "v.weight": "mat v 2x3",
                      "o.weight": "mat o 4x3"},
    "attention_multi_query_groups": {"qkv.weight": ["mat q 6x4", "mat k 2x4", "mat v 2x4"]},
    "attention_rope": {"q.weight": "mat q 2x4", "k.weight": "mat k 2x4"},
    "attention_relative": {"table": "pos"},
    "linear_attention": {"q.weight": "mat q 2x4", "k.weight": "mat k 2x4",
                         "v.weight": "mat v 2x4"},
    "gpt_tied": {"tokens.weight": "emb | out", "positions.weight": "pos",
                 "blocks.1.qkv.weight": QKV, "blocks.1.up.weight": "mat"},
    "vit": {"patch.weight": "conv in", "positions": "pos", "cls": "emb", "head.weight": "out"},
    "positional": {"positions": "pos", "enter.weight": "in"},
    "rnn": {"rnn.weight_ih_l0": "in", "rnn.weight_hh_l0": "mat", "out.weight": "out"},
    "lstm": {"rnn.weight_ih_l0": ["in gate", "in gate", "in", "in gate"],
             "rnn.weight_hh_l0": ["mat gate", "mat gate", "mat", "mat gate"],
             "rnn.bias_hh_l0": "bias"},
    "embedding_mean": {"table.weight": "emb", "out.weight": "out"},
    "fourier_features": {"net.0.weight": "in", "net.2.weight": "mat"},
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_roles_are_those_derived_by_hand(name: str) -> None:
    check(graph_of(name), BY_HAND[name])


GATED = {"mlp.gate_proj.weight": "mat gate", "mlp.up_proj.weight": "mat",
         "mlp.down_proj.weight": "mat"}  # fmt: skip
GROUPED = {"self_attn.q_proj.weight": "mat q 4x4", "self_attn.k_proj.weight": "mat k 2x4",
           "self_attn.v_proj.weight": "mat v 2x4", "self_attn.o_proj.weight": "mat o 4x4",
           "input_layernorm.weight": "scale"}  # fmt: skip
THREE = ["mat q 3x4", "mat k 3x4", "mat v 3x4"]
PROJECTIONS = dict(zip(("q", "k", "v", "o"), (*THREE, "mat o 3x4"), strict=True))


def under(prefix: str, rows: dict[str, Any], ending: str = "") -> dict[str, Any]:
    return {f"{prefix}{name}{ending}": text for name, text in rows.items()}


HUB_BY_HAND: dict[str, dict[str, str | list[str]]] = {
    "gpt2": {"transformer.wte.weight": "emb | out", "transformer.wpe.weight": "pos",
             "transformer.h.1.attn.c_attn.weight": THREE, "transformer.ln_f.bias": "shift",
             "transformer.h.1.attn.c_proj.weight": "mat o 3x4",
             "transformer.h.0.mlp.c_fc.weight": "mat", "transformer.h.0.mlp.c_fc.bias": "bias"},
    "llama": {"model.embed_tokens.weight": "emb", "lm_head.weight": "out",
              **under("model.layers.1.", {**GROUPED, **GATED})},
    "mixtral": {"lm_head.weight": "out", **under("model.layers.0.", {
                **GROUPED, "mlp.gate.weight": "mat router",
                "mlp.experts.gate_up_proj": ["mat expert gate", "mat expert"],
                "mlp.experts.down_proj": "mat expert"})},
    "t5": {"shared.weight": "emb | out",
           **under("decoder.block.1.layer.0.SelfAttention.", PROJECTIONS, ".weight"),
           **under("decoder.block.1.layer.1.EncDecAttention.", PROJECTIONS, ".weight"),
           "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "pos",
           "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "mat gate",
           "encoder.block.0.layer.1.DenseReluDense.wi_1.weight": "mat"},
    "bert": {"bert.embeddings.word_embeddings.weight": "emb | out",
             "bert.embeddings.position_embeddings.weight": "pos",
             "bert.embeddings.token_type_embeddings.weight": "emb",
             "bert.encoder.layer.0.attention.self.query.weight": "mat q 3x4",
             "bert.encoder.layer.0.attention.self.value.weight": "mat v 3x4",
             "cls.predictions.transform.dense.weight": "mat"},
    "roberta": {"roberta.embeddings.position_embeddings.weight": "pos",
                "classifier.out_proj.weight": "out"},
    "whisper": {"model.encoder.conv1.weight": "conv in", "model.encoder.conv2.weight": "conv",
                "model.encoder.embed_positions.weight": "pos",
                "model.decoder.embed_tokens.weight": "emb | out",
                "model.decoder.layers.0.encoder_attn.k_proj.weight": "mat k 3x4"},
    "falcon_grouped": {"transformer.h.0.self_attention.query_key_value.weight":
                       ["mat q 4x4", "mat k 2x4", "mat v 2x4"]},
    "swin": {"swin.embeddings.patch_embeddings.projection.weight": "conv in",
             "swin.encoder.layers.0.blocks.1.attention.q_proj.weight": "mat q 2x3"},
}  # fmt: skip


@pytest.mark.parametrize("name", HUB_BY_HAND)
def test_roles_of_transformers_are_those_derived_by_hand(name: str) -> None:
    pytest.importorskip("transformers")
    model, inputs = HUB_BY_NAME[name].make()
    check(trace(model, verify=False, **inputs), HUB_BY_HAND[name])


# ---------------------------------------------------------------- models made for this


class Tied(nn.Module):
    """A language model whose table is the output layer too, in one of three layouts."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.table, self.mix = how, nn.Embedding(11, 6), nn.Linear(6, 6)
        if how == "module":
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = torch.relu(self.mix(self.table(ids)))
        if self.how == "module":
            out: Tensor = self.head(h)
            return out
        return F.linear(h, self.table.weight) if self.how == "linear" else h @ self.table.weight.T


class LoRA(nn.Module):
    """A frozen matrix and a low-rank one beside it, as queries of an attention of one head."""

    def __init__(self, merged: bool = False) -> None:
        super().__init__()
        self.merged, self.enter, self.base = merged, nn.Linear(4, 6), nn.Linear(6, 6)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))
        self.k, self.v, self.o = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.merged:
            q = F.linear(x, self.base.weight + 2.0 * self.b @ self.a, self.base.bias)
        else:
            q = self.base(x) + F.linear(F.linear(x, self.a), self.b) * 2.0
        y = F.scaled_dot_product_attention(q[:, None], self.k(x)[:, None], self.v(x)[:, None])
        return self.o(x + y[:, 0])


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(11, 6), nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.out(self.bag(ids))
        return out


TIED = {"table.weight": "emb | out", "mix.weight": "mat"}
MADE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], dict[str, Any]]] = {
    **{f"tied_{how}": (partial(Tied, how), lambda: torch.randint(11, (2, 5)), TIED)
       for how in ("module", "linear", "matmul")},
    "lora": (LoRA, lambda: torch.randn(2, 5, 4),
             {"base.weight": "mat q 1x6", "b": "mat q 1x6", "a": "mat", "k.weight": "mat k 1x6"}),
    "lora_merged": (partial(LoRA, True), lambda: torch.randn(2, 5, 4),
                    {"base.weight": "mat q 1x6", "b": "mat q 1x6", "a": "mat"}),
    "bag": (Bag, lambda: torch.randint(11, (3, 4)), {"bag.weight": "emb", "out.weight": "out"}),
    "one_by_one": (lambda: nn.Sequential(nn.Linear(1, 1)), lambda: torch.randn(3, 1),
                   {"0.weight": "in out", "0.bias": "bias"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_ties_adapters_bags_and_single_numbers(name: str) -> None:
    build, inputs, expected = MADE[name]
    torch.manual_seed(0)
    check(trace(build().eval(), inputs(), verify=False), expected)


# ---------------------------------------------------------------- all graphs


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_block_has_roles_in_every_form_of_the_graph(case: Any) -> None:
    graph = graph_of(case.name)
    roles = block_roles(graph)
    assert len(roles) == len(graph.blocks)
    assert all(roles)
    assert block_roles(graph.contract()) == roles
    assert block_uses(ParameterGraph.from_json(graph.to_json())) == block_uses(graph)
    assert list(graph.roles()) == list(graph.shapes)
    assert str(graph.roles()).count("\n") >= len(graph.shapes)


def test_names_do_not_matter() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.bias = nn.Linear(4, 6), nn.Linear(6, 5)
            self.norm = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(torch.relu(self.bias(torch.relu(self.embedding(x)))))
            return out

    roles = trace(Odd(), torch.randn(2, 4)).roles()
    assert roles.of("embedding.weight") == {Role.INPUT}
    assert roles.of("bias.weight") == {Role.MATRIX}
    assert roles.of("norm.weight") == {Role.OUTPUT}


def test_a_graph_without_structure_is_judged_by_shapes() -> None:
    shapes = {"a": (6, 4), "b": (6,), "c": (), "d": (8, 3, 3, 3), "e": (50000, 64), "f": (1, 5)}
    roles = ParameterGraph.islands(shapes).roles()
    assert [roles.of(n) for n in shapes] == [
        {Role.MATRIX}, {Role.BIAS}, {Role.BIAS}, {Role.CONVOLUTION},
        {Role.EMBEDDING, Role.OUTPUT}, {Role.OTHER},
    ]  # fmt: skip
    assert all(part.assumed for parts in roles.values() for part in parts)


def test_graphs_saved_before_there_were_roles_still_load() -> None:
    import json

    data = json.loads(graph_of("mlp").to_json())
    for block in data["blocks"]:
        del block["uses"]
    roles = ParameterGraph.from_json(json.dumps(data)).roles()
    assert roles.of("2.weight") == {Role.MATRIX}
    assert roles["2.weight"][0].assumed


def test_unknown_names_are_refused_and_aliases_known() -> None:
    roles = trace(Tied("module"), torch.randint(11, (2, 5)), verify=False).roles()
    assert roles["head.weight"] == roles["table.weight"]
    assert roles.having(Role.EMBEDDING) == ["table.weight"]
    with pytest.raises(KeyError, match="No parameter 'nothing'"):
        roles["nothing"]


def test_the_table_names_slices_and_uses() -> None:
    text = str(graph_of("gpt_tied").roles())
    assert "blocks.0.qkv.weight[8:16, :]" in text
    assert "hidden matrix, key (2 x 4)" in text
    assert "embedding | output layer" in text
