"""Widening: the function stays, sizes follow, and what cannot be widened is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gmn_opt
from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.widening import WidenError, plan_widening, widen
from tests.cases import BY_NAME
from tests.graph import models as m

#: Every space of these can be widened alone.
WHOLE = (
    "mlp", "mlp_batch_norm", "mlp_layer_norm", "mlp_prelu", "residual_mlp", "dense_mlp", "siren",
    "shared_layer", "swiglu", "swiglu_packed", "mixer", "cnn", "cnn_1d", "cnn_batch_norm", "resnet",
    "instance_norm", "depthwise", "mobilenet", "grouped_conv", "group_norm", "squeeze_excite",
    "densenet", "unet", "transposed_conv", "convnext", "embedding_mean", "perceiver", "rnn", "gru",
    "lstm", "gcn",
)  # fmt: skip
#: Of these, spaces that have to be widened together, by size.
TOGETHER = {
    "attention": (8, 2), "attention_sdpa": (8, 4), "attention_mha": (8, 2),
    "transformer_encoder": (8, 2), "transformer_decoder": (8, 4), "attention_cross": (8, 2),
    "attention_einops": (4,), "lstm_two_layers": (5,),
}  # fmt: skip


def doubled(name: str) -> tuple[nn.Module, tuple[Any, ...], ParameterGraph]:
    """A case in float64, with weights and statistics that are all different."""
    model, inputs = BY_NAME[name].make()
    graph = trace(model, *inputs, verify=False)
    model = model.double()
    with torch.no_grad():
        for n, x in (*model.named_parameters(), *model.named_buffers()):
            if x.is_floating_point():
                x += 0.1 * torch.rand_like(x) if "var" in n else 0.1 * torch.randn_like(x)
    return model, tuple(x.double() if x.is_floating_point() else x for x in inputs), graph


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    out: Tensor = model(*inputs)
    return out


def assert_same(model: nn.Module, wide: nn.Module, inputs: tuple[Any, ...]) -> None:
    expected, found = (outputs(x, inputs).detach() for x in (model, wide))
    assert (found - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


def groups_of(graph: ParameterGraph, name: str) -> list[list[int]]:
    if name in WHOLE:
        return [[s.id] for s in graph.spaces]
    return [[s.id for s in graph.spaces if s.size in TOGETHER[name]]]


@pytest.mark.parametrize("name", [*WHOLE, *TOGETHER])
def test_outputs_gradients_and_graph(name: str) -> None:
    model, inputs, graph = doubled(name)
    outputs(model, inputs).square().sum().backward()
    for spaces in groups_of(graph, name):
        plan = plan_widening(model, graph, spaces, 2, *inputs)
        wide = plan.apply(model)
        assert_same(model, wide, inputs)
        assert sum(p.numel() for p in wide.parameters()) > sum(
            p.numel() for p in model.parameters()
        )
        again = trace(wide, *inputs, verify=False)
        assert [f.size for f in again.factors] == [f.size for f in plan.graph.factors]
        assert [b.index for b in again.blocks] == [b.index for b in plan.graph.blocks]
        wide.zero_grad()
        outputs(wide, inputs).square().sum().backward()
        for n, p in wide.named_parameters():
            old = model.get_parameter(n).grad
            if old is not None:
                for growth in plan.growths:
                    old = growth.moments(n, old)
                torch.testing.assert_close(p.grad, old, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "mlp_bilinear", "lstm", "unet", "gpt"])
def test_noise_cancels_and_parts_the_copies(name: str) -> None:
    model, inputs, graph = doubled(name)
    space = graph.spaces[-1]
    generator = torch.Generator().manual_seed(0)
    wide = gmn_opt.widen(model, graph, space, 3, *inputs, noise=0.5, generator=generator)
    assert_same(model, wide, inputs)
    plain = gmn_opt.widen(model, graph, space, 3, *inputs)
    assert any(
        not torch.equal(p, q) for p, q in zip(wide.parameters(), plain.parameters(), strict=True)
    )


@pytest.mark.parametrize(("factor", "size"), [(1.2, 7), (1.5, 9), (2.9, 17), (7, 42)])
def test_factors_that_are_not_whole(factor: float, size: int) -> None:
    model, inputs, graph = doubled("mlp_batch_norm")
    wide = widen(model, graph, graph.spaces[0], factor, *inputs)
    assert wide[0].weight.shape == (size, 4)  # type: ignore[index]
    assert_same(model, wide, inputs)


def test_several_times_and_one_after_the_other() -> None:
    model, inputs, graph = doubled("resnet")
    plan = plan_widening(model, graph, [s.id for s in graph.spaces], 2, *inputs)
    wide = plan.apply(model)
    assert_same(model, wide, inputs)
    wider = widen(wide, plan.graph, plan.graph.spaces[0], 1.5, *inputs)
    assert_same(model, wider, inputs)


def test_sizes_of_modules_follow() -> None:
    model, inputs, graph = doubled("mobilenet")
    wide: Any = widen(model, graph, [s.id for s in graph.spaces], 2, *inputs)
    assert (wide.depth[0].in_channels, wide.depth[0].groups, wide.depth[1].num_features) == (
        16, 16, 16,
    )  # fmt: skip
    model, inputs, graph = doubled("attention_mha")
    wide = widen(model, graph, [s for s in graph.spaces if not s.parents], 2, *inputs)
    attention = wide.attention
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (16, 4, 4)
    assert (wide.out.in_features, wide.out.out_features) == (16, 3)
    model, inputs, graph = doubled("attention")
    wide = widen(model, graph, [s for s in graph.spaces if not s.parents], 2, *inputs)
    assert wide.heads == 4


def test_the_model_stays_as_it_is() -> None:
    model, inputs, graph = doubled("resnet")
    before = {n: x.clone() for n, x in model.state_dict().items()}
    widen(model, graph, graph.spaces[0], 2, *inputs)
    assert all(torch.equal(x, before[n]) for n, x in model.state_dict().items())
    assert model.stem.out_channels == 4  # type: ignore[union-attr]


def test_shared_parameters_stay_shared() -> None:
    model, inputs, graph = doubled("gpt_tied")
    space = next(s for s in graph.spaces if s.size == 16)
    wide: Any = widen(model, graph, space, 2, *inputs)
    assert wide.head.weight is wide.tokens.weight
    assert_same(model, wide, inputs)


# ---------------------------------------------------------------------- refusals


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).softmax(-1).square())


class Literal(Softmax):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.layer_norm(self.a(x), (6,)))


class Gram(Softmax):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h) * (h @ h.T).sum()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Softmax, "outputs changed"),
        (Gram, "outputs changed"),
        (Literal, "normalized_shape"),
        (m.SpectralNorm, "outputs changed"),
    ],
)
def test_what_the_outputs_refuse(build: Any, message: str) -> None:
    model, x = build().eval(), torch.randn(3, 4)
    graph = trace(model, x)
    with pytest.raises(WidenError, match=f"does not keep the function.*{message}"):
        widen(model, graph, graph.spaces[0], 2, x)


def test_settings_that_cannot_be() -> None:
    model, inputs, graph = doubled("mlp_layer_norm")
    (space,) = graph.spaces
    with pytest.raises(WidenError, match="'1' takes means over this space.*only a whole factor"):
        widen(model, graph, space, 1.5, *inputs)
    for factor in (1, 0.5, float("nan"), float("inf")):
        with pytest.raises(WidenError, match="does not make 6 neurons more"):
            widen(model, graph, space, factor, *inputs)
    fixed = next(f for f in graph.factors if f.fixed)
    with pytest.raises(WidenError, match=rf"{fixed.id} is no space of this graph \({fixed.fixed}"):
        widen(model, graph, fixed, 2, *inputs)
    with pytest.raises(WidenError, match="99 is no space of this graph; there are"):
        widen(model, graph, 99, 2, *inputs)
    with pytest.raises(WidenError, match="each space to be widened once"):
        widen(model, graph, [space, space], 2, *inputs)
    with pytest.raises(WidenError, match="The graph is not of this model"):
        widen(m.mlp(4, 6, 3), graph, space, 2, *inputs)


def test_without_inputs() -> None:
    model, inputs, graph = doubled("cnn")
    with pytest.warns(UserWarning, match="nothing checks that the outputs stay the same"):
        wide = widen(model, graph, graph.spaces[0], 2)
    assert_same(model, wide, inputs)
    model, inputs, graph = doubled("perceiver")
    scores = next(s for s in graph.spaces if s.size == 7)
    with pytest.raises(WidenError, match="No parameter leads away.*Pass example inputs"):
        widen(model, graph, scores, 2)
