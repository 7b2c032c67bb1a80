"""Tracing leaves everything as it was, and says clearly why it cannot trace."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmn_opt.graph import Block, Factor, ParameterGraph, TraceError, trace
from tests.cases import BY_NAME, CASES
from tests.graph import models as m


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["cnn_batch_norm", "dropout", "lstm", "transformer_encoder"])
def test_tracing_disturbs_nothing(name: str, train: bool) -> None:
    model, inputs = BY_NAME[name].make()
    model.train(train)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    state = copy.deepcopy(model.state_dict())
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    before = [x.clone() for x in inputs]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trace(model, *inputs)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(
        p.grad is not None and torch.equal(p.grad, g)
        for p, g in zip(model.parameters(), grads, strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert all(x.training is train for x in model.modules())
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in model.modules())


def test_training_mode_gives_the_same_graph() -> None:
    for name in ("mlp_batch_norm", "resnet", "dropout", "transformer_encoder"):
        model, inputs = BY_NAME[name].make()
        assert trace(model.train(), *inputs).spaces == trace(model.eval(), *inputs).spaces


def test_grad_mode_and_autocast_do_not_matter() -> None:
    model, inputs = BY_NAME["vit"].make()
    graph = trace(model, *inputs)
    with torch.no_grad():
        assert trace(model, *inputs) == graph
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trace(model, *inputs) == graph


@pytest.mark.parametrize("name", [c.name for c in CASES if c.name.startswith("experts_by_")])
def test_outputs_of_stacked_experts_are_told_apart(name: str) -> None:
    model, inputs = BY_NAME[name].make()
    graph = trace(model, *inputs)
    names = [g.name for g in graph.groups]
    assert len(set(names)) == len(names)
    for block in graph.blocks:
        if block.tensor in ("up", "down"):
            assert graph.groups[block.dst].name == f"{block.tensor}[{block.index[0][0]}]"


def test_small_models_trace_quickly() -> None:
    for name in ("resnet", "gpt", "unet"):
        model, inputs = BY_NAME[name].make()
        trace(model, *inputs, verify=False)
        times = []
        for _ in range(3):
            start = time.process_time()
            trace(model, *inputs, verify=False)
            times.append(time.process_time() - start)
        assert min(times) < 0.3, name


def test_tracing_imports_nothing_heavy() -> None:
    """PyTorch's own ``broadcast_shapes`` would import sympy, half a second."""
    code = """
import sys
from gmn_opt.graph import trace
from tests.cases import BY_NAME
model, inputs = BY_NAME["experts_by_index"].make()
trace(model, *inputs)
print(*{"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules))
"""
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


def test_bfloat16_weights() -> None:
    model, inputs = BY_NAME["resnet"].make()
    graph = trace(model, *inputs)
    assert trace(model.bfloat16(), inputs[0].bfloat16()).spaces == graph.spaces


def test_meta_device() -> None:
    with torch.device("meta"):
        model = m.GPT()
        graph = trace(model, torch.zeros(2, 6, dtype=torch.long), verify=False)
    real, inputs = BY_NAME["gpt"].make()
    assert graph == trace(real, *inputs)


def test_keyword_inputs() -> None:
    model, (x, y) = BY_NAME["two_inputs"].make()
    assert trace(model, x, y=y).spaces == trace(model, x, y).spaces


def test_gradient_inside_of_the_forward_pass() -> None:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = m.mlp(3, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]

    model, x = Energy(), torch.randn(4, 3)
    graph = trace(model, x)
    assert graph.verify(model, x) < 1e-9


def test_checkpoint_and_functional_call() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = m.mlp(4, 6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.utils.checkpoint.checkpoint(self.a, x, use_reentrant=False)
            assert isinstance(y, Tensor)
            state: dict[str, Tensor] = dict(self.b.named_parameters())
            out: Tensor = torch.func.functional_call(self.b, state, (torch.relu(y),))
            return out

    model, x = Checkpointed(), torch.randn(3, 4)
    assert len(trace(model, x).spaces) == 2


def test_running_statistics_move_with_their_channels() -> None:
    model, inputs = BY_NAME["cnn_batch_norm"].make()
    graph = trace(model, *inputs)
    assert {b.tensor for b in graph.buffer_blocks} == {
        f"{i}.running_{s}" for i in (1, 4) for s in ("mean", "var")
    }
    state = model.state_dict()
    moved = graph.permute(state, graph.random_symmetry())
    assert torch.equal(moved["1.num_batches_tracked"], state["1.num_batches_tracked"])


def test_optimizer_state_and_batches_are_permuted_too() -> None:
    model, inputs = BY_NAME["mlp"].make()
    graph = trace(model, *inputs)
    symmetry = graph.random_symmetry()
    state = {n: torch.randn(p.shape) for n, p in model.named_parameters()}
    nested = {n: {"step": torch.tensor(3.0), "exp_avg": t} for n, t in state.items()}
    batched = {n: torch.stack([t, 2 * t]) for n, t in state.items()}
    plain = graph.permute(state, symmetry)
    for n, t in plain.items():
        assert torch.equal(graph.permute(nested, symmetry)[n]["exp_avg"], t)
        assert torch.equal(graph.permute(batched, symmetry)[n][1], 2 * t)
    assert graph.permute({"other": 3}, symmetry) == {"other": 3}
    with pytest.raises(ValueError, match="expected shape"):
        graph.permute({"0.weight": torch.zeros(2, 2)}, symmetry)


def test_unread_parameters_are_fixed_with_a_reason() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.spare = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)))

    graph = trace(Lazy(), torch.randn(2, 3))
    assert graph.fixed_reasons["spare.weight"] == ("not read by the traced pass",) * 2
    assert len(graph.spaces) == 1


class Branches(nn.Module):
    """One of several branches around a residual stream, chosen by the sign of the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
        self.branches = nn.ModuleList(m.mlp(6, 5, 6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(h + self.branches[int(x[0, 0] > 0)](h))


def test_more_inputs_read_more_parameters() -> None:
    torch.manual_seed(0)
    model, up, down = Branches(), torch.ones(2, 3), -torch.ones(2, 3)
    # Equal numbers stay equal when they are drawn anew around their mean.
    alone = trace(model, up)
    assert [s.size for s in alone.spaces] == [6, 5]
    assert alone.fixed_reasons["branches.0.0.weight"][0] == "not read by the traced pass"
    for more in ([down], [(down,)], [{"x": down}]):
        graph = trace(model, up, more_inputs=more)
        assert [s.size for s in graph.spaces] == [6, 5, 5]
        assert graph.verify(model, up) < 1e-9
        assert graph.verify(model, down) < 1e-9
    names = [g.name for g in graph.groups]
    assert len(names) == len(set(names)), "passes share their node groups"
    dst = {b.tensor: b.dst for b in graph.blocks}
    src = {b.tensor: b.src for b in graph.blocks}
    assert src["branches.0.0.weight"] == src["branches.1.0.weight"] == dst["stem.weight"]


def test_other_numbers_are_tried_when_parameters_are_left_unread() -> None:
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(2, 3)
    graph = trace(model, x)
    assert [s.size for s in graph.spaces] == [6, 5, 5]
    assert graph.verify(model, x) < 1e-9


def test_tied_weights_are_one_tensor() -> None:
    model, inputs = BY_NAME["gpt_tied"].make()
    graph = trace(model, *inputs)
    assert graph.aliases == {"head.weight": "tokens.weight"}
    state = model.state_dict()
    moved = graph.permute(state, graph.random_symmetry())
    assert torch.equal(moved["head.weight"], moved["tokens.weight"])
    assert not torch.equal(moved["head.weight"], state["head.weight"])


def test_groups_and_links_of_a_residual_network() -> None:
    model, inputs = BY_NAME["residual_mlp"].make()
    graph = trace(model, *inputs)
    names = {g.name: g for g in graph.groups}
    assert names["input"].role == "input"
    assert names["head"].role == "output"
    assert names["up.0"].activation == "relu"
    links = {(graph.groups[x.src].name, graph.groups[x.dst].name) for x in graph.links}
    assert links == {("stem", "down.0"), ("down.0", "down.1")}
    assert len(graph.contract().groups) == len(graph.groups) - 2


def test_query_key_and_value_are_different_groups() -> None:
    kinds = ("packed", "packed_chunk", "mha", "einops", "interleaved", "strided")
    for name in (f"attention_{kind}" for kind in kinds):
        model, inputs = BY_NAME[name].make()
        graph = trace(model, *inputs)
        packed = [b for b in graph.blocks if b.numel == 64 and b.shape != model_shape(graph, b)]
        assert len(packed) == len({b.dst for b in packed}) == 3, name
        assert {b.src for b in graph.blocks if graph.shapes[b.tensor] == (8, 8)} & {
            b.dst for b in packed
        }, name
        kinds_of_links = [link.kind for link in graph.links]
        assert kinds_of_links.count("product") == 1, name


def model_shape(graph: ParameterGraph, block: Block) -> tuple[int, ...]:
    return graph.shapes[block.tensor]


def test_convolution_attributes_and_roles() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, dilation=2), nn.Flatten(), nn.Linear(16, 2))
    graph = trace(model, torch.randn(1, 3, 8, 8))
    conv, dense = graph.blocks[0], graph.blocks[2]
    assert conv.attributes["stride"] == conv.attributes["dilation"] == 2
    assert conv.attributes["fan_in"] == 27
    assert conv.roles == (("dst",), ("src",), ("kernel",), ("kernel",))
    assert dense.roles == (("dst",), ("src", "kernel", "kernel"))


def test_islands() -> None:
    graph = ParameterGraph.islands({"w": (3, 4), "b": (3,), "k": (2, 3, 5, 5), "s": ()})
    assert not graph.spaces
    assert graph.coverage() == 0
    assert ParameterGraph.from_json(graph.to_json()) == graph
    assert graph.blocks[2].roles == (("dst",), ("src",), ("kernel",), ("kernel",))


def test_contradictory_graphs_are_refused() -> None:
    graph = ParameterGraph.islands({"w": (3, 4)})
    with pytest.raises(ValueError, match="its blocks have 0"):
        ParameterGraph(graph.factors, graph.groups, (), shapes=graph.shapes)
    wrong = tuple(Factor(f.id, 7 - f.size) for f in graph.factors)
    with pytest.raises(ValueError, match="dim 0 has 3 indices"):
        ParameterGraph(wrong, graph.groups, graph.blocks, shapes=graph.shapes)
    with pytest.raises(ValueError, match="format"):
        ParameterGraph.from_json('{"format": 99}')
    with pytest.raises(ValueError, match="not the JSON"):
        ParameterGraph.from_json("nonsense")


def test_errors_say_what_was_received() -> None:
    with pytest.raises(TraceError, match="needs an nn.Module, received function"):
        trace(lambda x: x, torch.zeros(1))  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="no parameters"):
        trace(nn.ReLU(), torch.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = nn.Sequential(nn.Linear(2, 3), torch.ao.nn.quantized.dynamic.Linear(3, 2))
    with pytest.raises(TraceError, match="Module '1'.*quantized"):
        trace(packed, torch.zeros(1, 2))
    with pytest.raises(TraceError, match="uninitialized"):
        trace(nn.LazyLinear(3), torch.zeros(2, 3))
    with pytest.raises(TraceError, match=r"module '2' \(Linear\).*\n.*float32\[3, 5\]") as caught:
        trace(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(6, 2)), torch.zeros(3, 5))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(TraceError, match="missing 1 required positional argument"):
        trace(nn.Linear(2, 2))


def test_every_name_is_unique() -> None:
    assert len({c.name for c in CASES}) == len(CASES)


def test_caches_of_keys_and_values_are_no_results() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, object]:
            key = self.key(x)
            return {"logits": self.out(torch.relu(key)), "past_key_values": (key,)}

    graph = trace(Cached(), torch.randn(2, 3))
    assert [s.size for s in graph.spaces] == [4]


class Joined(nn.Module):
    """Two layers side by side, joined in one of several ways, and one that reads both."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(9, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.a(x)), torch.tanh(self.b(x))
        if self.how == "cat":
            return self.head(torch.cat([a, b], 1))
        joined = torch.zeros(len(x), 9)
        if self.how == "slices":
            joined[:, :4], joined[:, 4:] = a, b
        else:
            joined.narrow(1, 0, 4).copy_(a)
            joined.narrow(1, 4, 5).add_(b)
        return self.head(joined.clone())


@pytest.mark.parametrize("how", ["cat", "slices", "narrow"])
def test_joined_activations_keep_their_sources(how: str) -> None:
    model, x = Joined(how), torch.randn(2, 3)
    graph = trace(model, x)
    heads = [b for b in graph.blocks if b.tensor == "head.weight"]
    assert [graph.groups[b.src].name for b in heads] == ["a", "b"]
    assert [b.index[1] for b in heads] == [range(4), range(4, 9)]
    assert len(graph.spaces) == 2


@pytest.mark.parametrize(
    ("name", "tensor", "sources"),
    [("dense_mlp", "c.weight", 3), ("inception", "head.weight", 3)],
)
def test_blocks_after_a_concatenation_come_from_its_parts(
    name: str, tensor: str, sources: int
) -> None:
    model, inputs = BY_NAME[name].make()
    graph = trace(model, *inputs)
    found = {b.src for b in graph.blocks if b.tensor == tensor}
    assert len(found) == sources
    assert all(graph.groups[g].name in ("input", *dict(model.named_modules())) for g in found)
