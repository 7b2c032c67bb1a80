"""Parameter graphs as torch_geometric data, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from gmn_opt.graph import Block, Link, ParameterGraph, trace
from gmn_opt.graph.edges import KINDS, edge_list
from gmn_opt.graph.export.pyg import ACTIVATIONS
from gmn_opt.graph.symmetry import Symmetry
from gmn_opt.graph.tracing.operators import NONLINEAR
from tests.cases import BY_NAME
from tests.graph.graphs import SPREAD, graph_of

#: Far-off corners: shared scales, maxima over pieces, grouped and depthwise kernels, experts.
HARD = [
    *("maxout", "stacked_experts", "depthwise", "mobilenet", "grouped_conv", "shuffle_net"),
    *("convnext", "attention_relative", "vit", "perceiver", "triplane", "attention_gqa"),
    *("swiglu_packed", "attention_interleaved", "lstm", "cnn_3d", "tied_autoencoder"),
]


def bits(t: Tensor) -> Tensor:
    """The bits of a tensor, so that NaN equals NaN and -0 differs from 0."""
    return t.contiguous().view(torch.uint8) if t.numel() else t


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(
        a[k].shape == b[k].shape
        and a[k].dtype == b[k].dtype
        and torch.equal(bits(a[k].reshape(-1)), bits(b[k].reshape(-1)))
        for k in a
    )


def tensors(graph: ParameterGraph, *tail: int, dtype: torch.dtype) -> dict[str, Tensor]:
    out = {n: torch.randn((*s, *tail)).to(dtype) for n, s in graph.shapes.items()}
    for number, t in enumerate(out.values()):
        if t.numel():
            t.view(-1)[0] = [float("nan"), float("-inf"), -0.0][number % 3]
    return out


@pytest.mark.parametrize("name", SPREAD)
def test_round_trip_is_exact(name: str) -> None:
    graph = graph_of(name)
    for tail, dtype in (((), torch.float64), ((3,), torch.bfloat16), ((1,), torch.float32)):
        values = tensors(graph, *tail, dtype=dtype)
        data = graph.to_pyg(values)
        assert data.edge_attr.dtype == dtype
        assert same(graph.from_pyg(data), values)


@pytest.mark.parametrize("name", SPREAD)
def test_one_edge_per_element_between_real_nodes(name: str) -> None:
    graph = graph_of(name)
    data = graph.to_pyg(tensors(graph, dtype=torch.float32))
    assert data.validate(raise_on_error=True)
    assert int(data.edge_mask.sum()) == sum(b.numel for b in graph.blocks)
    assert (data.edge_attr[~data.edge_mask] == 1).all()
    nodes = edge_list(graph).nodes
    ends = data.x[:, 0][data.edge_index]
    for number, block in enumerate(graph.blocks):
        mine = data.edge_block == number
        assert {KINDS[k] for k in data.edge_kind[mine].unique()} == {block.kind}
        for got, want in zip(ends[:, mine], (block.src, block.dst), strict=True):
            (group,) = got.unique().tolist()
            assert group == want or nodes[group].role == "auxiliary"
    links = data.edge_kind >= KINDS.index("residual")
    assert torch.equal(links, ~data.edge_mask)
    plain = [link for link in graph.links if link.kind == "residual"]
    assert bool((data.edge_kind == KINDS.index("residual")).any()) == bool(plain)


def node_permutation(graph: ParameterGraph, symmetry: Symmetry) -> Tensor:
    """Which old node comes to each new place under a symmetry."""
    found = []
    for nodes in edge_list(graph).nodes:
        numbers = torch.arange(nodes.start, nodes.start + nodes.size)
        roles: tuple[Any, ...] = (("dst",) * len(nodes.factors),)
        block = Block("", "other", (range(nodes.size),), (nodes.factors,), roles, 0, 0)
        found.append(symmetry._move(numbers, block, 0) if nodes.factors else numbers)
    return torch.cat(found)


@pytest.mark.parametrize("name", SPREAD)
def test_a_symmetry_makes_an_isomorphic_graph(name: str) -> None:
    """Permuted parameters give the same graph with its nodes renumbered, features and all."""
    graph = graph_of(name)
    symmetry = graph.random_symmetry(torch.Generator().manual_seed(1))
    total = sum(b.numel for b in graph.blocks)
    at, values = 2, {}
    for n, s in graph.shapes.items():
        count = torch.Size(s).numel()
        values[n] = torch.arange(at, at + count, dtype=torch.float64).reshape(s)
        at += count
    old, new = graph.to_pyg(values), graph.to_pyg(graph.permute(values, symmetry))
    where = node_permutation(graph, symmetry)
    assert torch.equal(new.x, old.x[where])
    assert torch.equal(where.sort().values, torch.arange(old.num_nodes))
    columns = []
    for data, ends in ((old, old.edge_index), (new, where[new.edge_index])):
        rows = torch.cat(
            [
                data.edge_attr[None].long(),
                ends,
                data.edge_kind[None],
                data.edge_block[None],
                data.edge_kernel.T,
                data.edge_conv.T,
            ]
        )
        columns.append(rows[:, rows[0].argsort(stable=True)])
    assert torch.equal(columns[0][:, -total:], columns[1][:, -total:])
    # Edges without a parameter have no value to sort by: compare them as sets of rows.
    a, b = ({tuple(r) for r in c[:, :-total].T.tolist()} for c in columns)
    assert a == b


@pytest.mark.parametrize("name", HARD)
def test_parallel_edges_have_positions_of_their_own(name: str) -> None:
    """No two edges of a block agree in ends and kernel position."""
    data = graph_of(name).to_pyg(tensors(graph_of(name), dtype=torch.float32))
    rows = torch.cat([data.edge_index, data.edge_block[None], data.edge_kernel.T])
    rows = rows[:, data.edge_mask]
    assert rows.unique(dim=1).shape == rows.shape


def test_a_depthwise_kernel_stays_in_its_channel() -> None:
    graph = graph_of("depthwise")
    data = graph.to_pyg(tensors(graph, dtype=torch.float32))
    number = next(i for i, b in enumerate(graph.blocks) if b.tensor == "1.weight")
    mine = data.edge_block == number
    src, dst = data.edge_index[:, mine]
    first = [edge_list(graph).nodes[graph.blocks[number].src].start,
             edge_list(graph).nodes[graph.blocks[number].dst].start]  # fmt: skip
    assert torch.equal(src - first[0], dst - first[1])
    assert data.edge_kernel[mine][:9, 1:].tolist() == [[i, j] for i in range(3) for j in range(3)]
    assert data.edge_conv[mine][0].tolist() == [1, 1, 4, 1, 0]


def test_heads_have_nodes_above_their_members() -> None:
    graph = graph_of("attention")
    nx_graph = graph.to_networkx()
    heads = [n for n, d in nx_graph.nodes(data=True) if "heads" in d["group"]]
    assert len(heads) == 2
    members = {h: [d for _, d in nx_graph.out_edges(h)] for h in heads}
    names = [{nx_graph.nodes[m]["group"] for m in ms} for ms in members.values()]
    assert names == [{"q", "k", "v"}] * 2
    assert not set(members[heads[0]]) & set(members[heads[1]])
    assert all(d["role"] == "auxiliary" for n, d in nx_graph.nodes(data=True) if n in heads)


def test_residual_links_are_edges_of_value_one() -> None:
    model, inputs = BY_NAME["residual_mlp"].make()
    graph = trace(model, *inputs)
    found = graph.to_networkx(dict(model.named_parameters()))
    plain = [(s, d, e) for s, d, e in found.edges(data=True) if e["kind"] == "residual"]
    assert len(plain) == 2 * 6
    assert all(e["value"] == 1.0 and "tensor" not in e for _, _, e in plain)
    groups = {(found.nodes[s]["group"], found.nodes[d]["group"]) for s, d, _ in plain}
    assert groups == {("stem", "down.0"), ("down.0", "down.1")}


def test_gradients_flow_both_ways() -> None:
    graph = graph_of("grouped_conv")
    values = {n: torch.randn(s, dtype=torch.float64) for n, s in graph.shapes.items()}
    leaves = {n: v.requires_grad_() for n, v in values.items()}
    again = graph.from_pyg(graph.to_pyg(leaves))
    sum((t**3).sum() for t in again.values()).backward()  # type: ignore[union-attr]
    for t in leaves.values():
        assert t.grad is not None
        torch.testing.assert_close(t.grad, 3 * t.detach() ** 2)


def test_edges_in_another_order_and_new_features() -> None:
    graph = graph_of("attention_gqa")
    values = tensors(graph, dtype=torch.float32)
    data = graph.to_pyg(values)
    order = torch.randperm(data.num_edges)
    shuffled = data.clone()
    for key in ("edge_attr", "edge_mask", "edge_kind", "edge_block", "edge_place", "edge_kernel"):
        shuffled[key] = data[key][order]
    shuffled.edge_index = data.edge_index[:, order]
    assert same(graph.from_pyg(shuffled), values)
    shuffled.edge_attr = torch.stack([shuffled.edge_attr] * 2, 1)
    assert {tuple(t.shape) for t in graph.from_pyg(shuffled).values()} == {
        (*s, 2) for s in graph.shapes.values()
    }


def test_several_dtypes_come_back() -> None:
    graph = graph_of("mlp")
    kinds = (torch.bfloat16, torch.float32, torch.float16, torch.float64)
    values = {n: torch.randn(s).to(kinds[i % 4]) for i, (n, s) in enumerate(graph.shapes.items())}
    data = graph.to_pyg(values)
    assert data.edge_attr.dtype == torch.float64
    assert same(graph.from_pyg(data), values)
    data.edge_attr = data.edge_attr.float()
    assert {t.dtype for t in graph.from_pyg(data).values()} == {torch.float32}


def test_different_networks_in_one_batch() -> None:
    graphs = [graph_of(n) for n in ("mlp", "cnn", "attention_gqa")]
    values = [tensors(g, 2, dtype=torch.float32) for g in graphs]
    batch = Batch.from_data_list([g.to_pyg(v) for g, v in zip(graphs, values, strict=True)])
    assert batch.num_nodes == sum(len(edge_list(g).node_set) for g in graphs)
    for g, v, data in zip(graphs, values, batch.to_data_list(), strict=True):
        assert same(g.from_pyg(data), v)


def test_contracted_and_untraced_graphs() -> None:
    for graph in (
        graph_of("resnet").contract(),
        ParameterGraph.islands({"w": (3, 4), "b": (3,), "k": (2, 3, 5, 5), "s": (), "e": (0, 2)}),
        ParameterGraph.from_json(graph_of("vit").to_json()),
    ):
        values = tensors(graph, dtype=torch.float32)
        assert same(graph.from_pyg(graph.to_pyg(values)), values)


def test_links_between_groups_of_other_factors_join_what_agrees() -> None:
    graph = graph_of("attention_gqa")
    names = {g.name: g.id for g in graph.groups}
    wide = ParameterGraph(
        graph.factors,
        graph.groups,
        graph.blocks,
        (Link(names["k"], names["q"], "product"),),
        graph.shapes,
    )
    found = wide.to_networkx()
    pairs = [(s, d) for s, d, e in found.edges(data=True) if e["kind"] == "product"]
    assert len(pairs) == len(set(pairs)) == 12
    assert {s for s, _ in pairs} == set(edge_list(wide).nodes[names["k"]].numbers)


def test_wrong_tensors_are_refused() -> None:
    graph = graph_of("mlp")
    good = tensors(graph, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"missing \['0.bias'\]"):
        graph.to_pyg({n: t for n, t in good.items() if n != "0.bias"})
    with pytest.raises(ValueError, match=r"unexpected \['more'\]"):
        graph.to_pyg({**good, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"0.bias: expected shape \[6\] or \[6, 'features'\]"):
        graph.to_pyg({**good, "0.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match="different numbers of features"):
        graph.to_pyg({**good, "0.bias": torch.zeros(6, 2)})


def test_wrong_data_are_refused() -> None:
    graph = graph_of("mlp")
    data = graph.to_pyg(tensors(graph, dtype=torch.float32))
    short = data.clone()
    short.edge_attr = short.edge_attr[:-1]
    with pytest.raises(ValueError, match="one row per edge"):
        graph.from_pyg(short)
    twice = data.clone()
    twice.edge_place = twice.edge_place.clone()
    twice.edge_place[0] = 1
    with pytest.raises(ValueError, match="one edge for each of the 83 parameter elements"):
        graph.from_pyg(twice)
    with pytest.raises(ValueError, match="blocks that the graph does not have"):
        graph.from_pyg(graph_of("lstm_two_layers").to_pyg(
            tensors(graph_of("lstm_two_layers"), dtype=torch.float32)))  # fmt: skip
    del data.edge_block
    with pytest.raises(ValueError, match="no 'edge_block'"):
        graph.from_pyg(data)


def test_every_known_nonlinearity_has_a_code() -> None:
    assert set(ACTIVATIONS) >= NONLINEAR
    assert len(set(ACTIVATIONS)) == len(ACTIVATIONS)


def test_a_wide_layer_is_quick() -> None:
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512))
    graph = trace(model, torch.randn(1, 784))
    data = graph.to_pyg({n: p.detach() for n, p in model.named_parameters()})
    assert data.num_edges == sum(p.numel() for p in model.parameters())
