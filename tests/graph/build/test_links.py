"""Identity edges between groups: which there are, which there are not, and what they join."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from gmn_opt.graph import Block, Link, ParameterGraph, trace
from gmn_opt.graph.build import assembly
from gmn_opt.graph.edges import KINDS, edge_list
from gmn_opt.graph.symmetry import Symmetry
from tests.cases import BY_NAME
from tests.graph.graphs import SPREAD, graph_of
from tests.transformer_cases import HUB_BY_NAME

LINKED = ["attention_gqa", "attention_multi_query", "hard_moe", "ssm", "mixed_heads", "gpt"]
Named = tuple[str, str, str]


def named(graph: ParameterGraph) -> set[Named]:
    groups = graph.groups
    return {(x.kind, groups[x.src].name, groups[x.dst].name) for x in graph.links}


def sizes(graph: ParameterGraph, group: str) -> list[int]:
    (found,) = (g for g in graph.groups if g.name == group)
    return [graph.factors[f].size for f in found.factors]


def hub(name: str, **settings: Any) -> ParameterGraph:
    pytest.importorskip("transformers")
    model, inputs = HUB_BY_NAME[name].make()
    return trace(model, verify=False, **inputs)


def test_values_that_several_query_heads_read() -> None:
    graph = graph_of("attention_gqa")
    assert sizes(graph, "v") == [2, 3]
    assert sizes(graph, "o.weight in") == [2, 2, 3]
    assert named(graph) == {
        ("residual", "v", "o.weight in"),
        ("product", "q", "k"),
        ("residual", "enter", "o"),
    }


def test_one_key_and_value_for_all_heads() -> None:
    graph = graph_of("attention_multi_query")
    assert sizes(graph, "qkv[q]") == sizes(graph, "o.weight in") == [3, 4]
    assert named(graph) == {
        ("residual", "qkv[v]", "o.weight in"),
        ("product", "qkv[q]", "qkv[k]"),
        ("residual", "enter", "o"),
    }


def test_experts_write_to_the_residual_stream() -> None:
    expected = {("residual", "enter", "experts.1.2"), ("residual", "experts.0.2", "experts.1.2")}
    for name in ("hard_moe", "mask_moe"):
        assert expected <= named(graph_of(name)), name


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "mixtral"])
def test_grouped_heads_of_transformers(name: str) -> None:
    graph = hub(name)
    found = named(graph)
    for i in range(2):
        at = f"model.layers.{i}.self_attn"
        assert ("residual", f"{at}.v_proj", f"{at}.o_proj.weight in") in found
        assert ("product", f"{at}.q_proj", f"{at}.k_proj") in found


def test_mixture_of_experts_of_transformers() -> None:
    found = named(hub("mixtral"))
    stream = [
        "model.embed_tokens", "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.experts.down_proj", "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.experts.down_proj",
    ]  # fmt: skip
    for a, b in pairwise(stream):
        assert ("residual", a, b) in found, (a, b)


def test_groups_that_only_share_their_heads_are_not_linked() -> None:
    for name in ("attention", "attention_gqa", "attention_relative", "transformer_encoder"):
        graph = graph_of(name)
        for link in graph.links:
            a, b = (set(graph.groups[g].factors) for g in (link.src, link.dst))
            assert a <= b or b <= a, link
        assert not any(
            graph.groups[x.src].name == "k" and graph.groups[x.dst].name == "v" for x in graph.links
        )


@pytest.mark.parametrize("name", sorted({*LINKED, *SPREAD}))
def test_links_between_equal_groups_are_all_kept(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain definition: groups of the same factors at sites that met."""
    wanted: list[Link] = []
    real = assembly.find_links

    def spy(record: Any, groups: Any, at_site: Any, joins: Any, factors: Any) -> list[Link]:
        listed = list(at_site)
        for (src, dst, kind), (s, i), (d, j) in product(
            record.links,
            [((site, at), n) for site, at, n in listed],
            [((site, at), n) for site, at, n in listed],
        ):
            if s[0] != src.site.id or d[0] != dst.site.id or i == j or kind == "cat":
                continue
            if s[1] - src.offset == d[1] - dst.offset and groups[i].factors == groups[j].factors:
                wanted.append(Link(i, j, kind))
        return real(record, groups, listed, joins, factors)

    monkeypatch.setattr(assembly, "find_links", spy)
    model, inputs = BY_NAME[name].make()
    graph = trace(model, *inputs, verify=False)
    assert set(wanted) <= set(graph.links)


def link_edges(graph: ParameterGraph) -> list[tuple[int, int, str]]:
    edges = edge_list(graph)
    kinds = [KINDS[k] for k in edges.kind.tolist()]
    found = zip(edges.ends.T.tolist(), kinds, strict=True)
    return [(a, b, kind) for (a, b), kind in found if kind in ("residual", "product")]


@pytest.mark.parametrize("name", LINKED)
def test_edges_join_the_nodes_that_agree(name: str) -> None:
    """One by one, from the definition in ``structure.Link``."""
    graph = graph_of(name)
    nodes = edge_list(graph).nodes

    def places(group: int) -> list[tuple[int, dict[int, int]]]:
        factors = graph.groups[group].factors
        every = product(*(range(graph.factors[f].size) for f in factors))
        return [
            (nodes[group].start + n, dict(zip(factors, index, strict=True)))
            for n, index in enumerate(every)
        ]

    expected = [
        (a, b, link.kind)
        for link in graph.links
        for a, at in places(link.src)
        for b, to in places(link.dst)
        if all(at[f] == to[f] for f in at.keys() & to.keys())
    ]
    assert sorted(link_edges(graph)) == sorted(expected)


def moved(graph: ParameterGraph, symmetry: Symmetry) -> Tensor:
    """Which node comes to stand where each node stands, group by group."""
    nodes = edge_list(graph).nodes
    out = []
    for group in graph.groups:
        size = nodes[group.id].size
        roles = (("dst",) * len(group.factors),)
        block = Block("", "other", (range(size),), (group.factors,), roles, group.id, group.id)  # type: ignore[arg-type]
        numbers = torch.arange(size) + nodes[group.id].start
        out.append(symmetry._move(numbers, block, 0) if group.factors else numbers)
    return torch.cat(out)


@pytest.mark.parametrize("name", LINKED)
def test_symmetries_map_links_to_themselves(name: str) -> None:
    graph = graph_of(name)
    before = sorted(link_edges(graph))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        at: Sequence[int] = moved(graph, graph.random_symmetry(generator)).tolist()
        assert sorted((at[a], at[b], kind) for a, b, kind in before) == before


def test_contraction_keeps_links_of_different_groups() -> None:
    small = graph_of("attention_gqa").contract()
    assert named(small) == {("residual", "v", "o.weight in"), ("product", "q", "k")}
