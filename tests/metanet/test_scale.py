"""Metanets that are equivariant to signs and positive scales of neurons."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.metanet import GraphMetanet, GraphReadout
from gmn_opt.metanet.scale import random_scales, rescale, scaled_groups
from tests.cases import BY_NAME, Case
from tests.traced import PLAIN, largest_difference, permute, random_tensors, traced


class Siren(nn.Module):
    """Two sine layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sin(3 * self.first(x))
        return self.last(torch.sin(3 * self.second(x)))


def dense(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3))
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)),
    )


NETWORKS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "siren": (Siren, (7, 2), "sign"),
    "tanh": (lambda: dense(nn.Tanh), (7, 4), "sign"),
    "relu": (lambda: dense(nn.ReLU), (7, 4), "positive"),
    "cnn": (cnn, (3, 1, 8, 8), "positive"),
    "mixed": (
        lambda: nn.Sequential(
            *(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 3))
        ),
        (7, 4),
        "auto",
    ),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def network(name: str) -> tuple[nn.Module, Tensor, ParameterGraph, Any]:
    build, shape, scale = NETWORKS[name]
    model, x = build(), torch.randn(*shape)
    return model.double(), x.double(), trace(model.float(), x), scale


def metanet(scale: Any, outputs: int = 1, **options: Any) -> GraphMetanet:
    """A small one in float64, with nothing left at zero."""
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden": 8, "edge_hidden": 6, "layers": 3}
    net = GraphMetanet(1, outputs, **sizes, scale=scale, **options).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def run(net: GraphMetanet, graph: ParameterGraph, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        out = net(graph, {n: t.unsqueeze(-1) for n, t in tensors.items()})
    return {n: t.squeeze(-1) for n, t in out.items()}


@networks
def test_the_function_stays_as_it_was(name: str) -> None:
    model, x, graph, scale = network(name)
    model.double()
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    scales = random_scales(graph, scale)
    assert sum(kind is not None for kind in scaled_groups(graph, scale)) == 2
    assert int((scales != 1).sum()) > 2
    moved = rescale(graph, parameters, scales)
    assert largest_difference(parameters, moved) > 0.1
    expected = model(x)
    found = torch.func.functional_call(model, moved, (x,))
    assert float((found - expected).detach().norm() / expected.detach().norm()) < 1e-12


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("mlp", 2), ("residual_mlp", 2), ("two_inputs", 1), ("siren", 2), ("low_rank", 1)),
        *(("film", 2), ("cnn", 2), ("unet", 3), ("transposed_conv", 3), ("depthwise", 1)),
        *(("transformer_encoder", 2), ("dropout", 2), ("embedding_mean", 1), ("perceiver", 1)),
        *(("tied_autoencoder", 0), ("shared_layer", 0), ("weight_norm", 0)),
        *(("stacked_residual", 0), ("mlp_batch_norm", 0), ("swiglu", 0)),
    ],
)
def test_only_what_preserves_the_function_is_claimed(name: str, count: int) -> None:
    model, graph = traced(name)
    kinds = scaled_groups(graph, "auto")
    assert sum(kind is not None for kind in kinds) == count
    inputs = [x.double() if x.is_floating_point() else x for x in BY_NAME[name].make()[1]]
    parameters = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    own = {n: parameters[n] for n in graph.shapes}
    moved = parameters | rescale(graph, own, random_scales(graph, "auto"))
    expected = torch.func.functional_call(model, parameters, tuple(inputs))
    found = torch.func.functional_call(model, moved, tuple(inputs))
    assert float((found - expected).norm() / expected.norm()) < 1e-10


@networks
def test_equivariant_to_scales(name: str) -> None:
    _, _, graph, scale = network(name)
    tensors = random_tensors(graph)
    scales = random_scales(graph, scale)
    moved = rescale(graph, tensors, scales)
    net = metanet(scale)
    inside = rescale(graph, run(net, graph, tensors), scales)
    assert largest_difference(inside, run(net, graph, moved)) < 1e-10
    plain = metanet(None)
    inside = rescale(graph, run(plain, graph, tensors), scales)
    assert largest_difference(inside, run(plain, graph, moved)) > 1e-2


def compare_executions(graph: ParameterGraph, scale: Any) -> None:
    """Values and gradients of both backends, over networks that share the graph."""
    tensors = random_tensors(graph, 2, features=1)
    outs, grads = [], []
    for backend in ("blocked", "sparse"):
        net = metanet(scale, backend=backend)
        out = net(graph, tensors)
        loss = torch.stack([(t.square() * (1 + t)).sum() for t in out.values()]).sum()
        found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        outs.append(out)
        grads.append([torch.zeros(1).double() if g is None else g for g in found])
    assert largest_difference(*outs) < 1e-12
    largest = max(float(g.norm()) for g in grads[0])
    assert largest > 0
    assert all(float((a - b).norm()) < 1e-12 * largest for a, b in zip(*grads, strict=True))


@networks
def test_blocked_equals_edge_list(name: str) -> None:
    _, _, graph, scale = network(name)
    compare_executions(graph, scale)


@pytest.mark.parametrize("name", ["resnet", "unet", "attention_gqa", "lstm", "transformer_encoder"])
def test_blocked_equals_edge_list_with_links_norms_and_heads(name: str) -> None:
    compare_executions(traced(name)[1], "auto")


@pytest.mark.long
@pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)
def test_blocked_equals_edge_list_on_all_cases(case: Case) -> None:
    compare_executions(traced(case.name)[1], "auto")


@networks
def test_readouts_are_invariant_to_scales(name: str) -> None:
    _, _, graph, scale = network(name)
    tensors = random_tensors(graph)
    moved = rescale(graph, tensors, random_scales(graph, scale))
    torch.manual_seed(2)
    for kind in (scale, None):
        readout = GraphReadout(metanet(kind, 0), 3).double()
        with torch.no_grad():
            a, b, other = (
                readout(graph, {n: t.unsqueeze(-1) for n, t in ts.items()})
                for ts in (tensors, moved, random_tensors(graph, seed=3))
            )
        change = float((a - b).norm() / a.norm())
        assert change < 1e-10 if kind else change > 1e-5
        assert float((a - other).norm() / a.norm()) > 1e-5


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "attention", "unet", "siren", "lstm"])
def test_equivariant_to_permutations(name: str) -> None:
    graph = traced(name)[1]
    tensors = random_tensors(graph)
    net = metanet("auto")
    inside = permute(graph, run(net, graph, tensors))
    assert largest_difference(inside, run(net, graph, permute(graph, tensors))) < 1e-10


def test_every_weight_is_read_and_every_parameter_trained() -> None:
    _, _, graph, scale = network("relu")
    tensors = {n: t.requires_grad_() for n, t in random_tensors(graph, features=1).items()}
    net = metanet(scale)
    out = net(graph, tensors)
    last = list(out)[-2]
    grads = torch.autograd.grad(out[last].sum(), list(tensors.values()), retain_graph=True)
    assert all(bool(g.abs().max() > 1e-9) for g in grads)
    sum(t.square().sum() for t in out.values()).backward()
    idle = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    of_last = {n for n in idle if n.startswith("layers.2")}
    # no convolution, no link; the last round's other states are not read
    assert all("kernel" in n or "link" in n or n in of_last or "graph" in n for n in idle), idle


def test_leading_dimensions_batch_networks() -> None:
    _, _, graph, scale = network("cnn")
    tensors = random_tensors(graph, 2, 3)
    net = metanet(scale)
    together = run(net, graph, tensors)
    alone = run(net, graph, {n: t[1, 2] for n, t in tensors.items()})
    assert largest_difference(alone, {n: t[1, 2] for n, t in together.items()}) < 1e-12
    zero = run(net, graph, {n: 0 * t[0, 0] for n, t in tensors.items()})
    assert all(bool(t.isfinite().all()) for t in zero.values())


def test_links_and_norms_fix_scales() -> None:
    for name in ("resnet", "residual_mlp", "mlp_batch_norm", "swiglu", "attention"):
        graph = traced(name)[1]
        linked = {g for link in graph.links for g in (link.src, link.dst)}
        kinds = scaled_groups(graph, "auto")
        assert all(kinds[g] is None for g in linked)
    assert not any(scaled_groups(traced("mlp_batch_norm")[1], "auto"))


def test_bad_scale() -> None:
    with pytest.raises(ValueError, match="'sign', 'positive'"):
        GraphMetanet(1, 1, scale="any")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="node_inputs"):
        GraphMetanet(1, 1, scale="sign", node_inputs=2)
    graph = traced("mlp")[1]
    net = metanet("auto")
    edges = net.edge_features(graph, random_tensors(graph, features=1))
    with pytest.raises(ValueError, match="edge_scale"):
        net.states(graph, edges, edge_scale=torch.ones(6, 1).double())
