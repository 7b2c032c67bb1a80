"""GMNOptimizer keeps what torch.optim promises."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt import GMNOptimizer
from gmn_opt.optim import LearnedRule, save_rule
from gmn_opt.weights import WeightsError
from tests.cases import BY_NAME
from tests.optim.contract.kit import small_rule
from tests.optim.small import assert_same, batches, network, train, weights_of


@pytest.fixture
def rule() -> LearnedRule:
    return small_rule()


def any_settings(**settings: Any) -> GMNOptimizer:
    return GMNOptimizer(network().parameters(), **settings)


def test_trains_and_finds_its_model(rule: LearnedRule) -> None:
    model = network()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    assert opt.graphs == []
    before = weights_of(model)
    train(model, opt, batches(2))
    (graph,) = opt.graphs
    assert set(graph.shapes) == set(before)
    assert len(graph.spaces) == 1
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "resnet", "gpt", "attention", "lstm"])
@pytest.mark.parametrize("total_steps", [None, 30])
def test_default_weights_reduce_the_loss(name: str, total_steps: int | None) -> None:
    model, inputs = BY_NAME[name].make()
    model.train()
    opt = GMNOptimizer(model.parameters(), total_steps=total_steps)

    def loss() -> Tensor:
        out = model(*inputs)
        return F.mse_loss(out, torch.ones_like(out))

    first = float(loss().detach())
    for _ in range(30):
        opt.zero_grad()
        value = loss()
        value.backward()
        opt.step()
    assert float(value.detach()) < 0.5 * first


FORMS: dict[str, Callable[[Any], Any]] = {
    "generator": lambda m: m.parameters(),
    "list": lambda m: list(m.parameters()),
    "named": lambda m: m.named_parameters(),
    "expression": lambda m: (p for p in m.parameters()),
    "filter": lambda m: filter(lambda p: p.requires_grad, m.parameters()),
    "groups": lambda m: [{"params": m[0].parameters()}, {"params": m[2].parameters(), "lr": 1.0}],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_pass_parameters_gives_the_same_training(form: str, rule: LearnedRule) -> None:
    expected, model = network(), network()
    train(expected, GMNOptimizer(expected.parameters(), weights=rule, model=expected), batches(3))
    train(model, GMNOptimizer(FORMS[form](model), weights=rule), batches(3))
    assert_same(expected, model)


def test_partial_list_trains_only_its_part(rule: LearnedRule) -> None:
    model = network()
    before = weights_of(model)
    opt = GMNOptimizer(list(model[2].parameters()), weights=rule, model=model)
    train(model, opt, batches(2))
    assert torch.equal(before["0.weight"], model[0].weight)
    assert not torch.equal(before["2.weight"], model[2].weight)
    assert len(opt.graphs[0].blocks) == 4


def test_closure_and_return_value(rule: LearnedRule) -> None:
    model, expected = network(), network()
    data = batches(2)
    opt = GMNOptimizer(model.parameters(), weights=rule)
    for x, y in data:

        def closure(x: Tensor = x, y: Tensor = y) -> Any:
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        assert float(opt.step(closure).detach()) > 0  # type: ignore[attr-defined]
    train(expected, GMNOptimizer(expected.parameters(), weights=rule), data)
    assert_same(expected, model)


@pytest.mark.parametrize("through_file", [False, True])
def test_resume_is_bitwise_exact(through_file: bool, rule: LearnedRule, tmp_path: Path) -> None:
    data = batches(8)
    whole = network()
    opt = GMNOptimizer(whole.parameters(), weights=rule, total_steps=8)
    train(whole, opt, data)

    first = network()
    opt = GMNOptimizer(first.parameters(), weights=rule, total_steps=8)
    train(first, opt, data[:4])
    state = {"model": first.state_dict(), "opt": opt.state_dict()}
    if through_file:
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    else:
        state = copy.deepcopy(state)
    train(first, opt, data[4:])  # must not disturb what was saved
    assert_same(whole, first)

    second = network(seed=9)
    second.load_state_dict(state["model"])
    opt = GMNOptimizer(second.parameters(), weights=rule)
    opt.load_state_dict(state["opt"])  # before the model's first call
    assert opt.graphs, "the state carries the graph"
    assert opt.param_groups[0]["total_steps"] == 8
    train(second, opt, data[4:])
    assert_same(whole, second)


def test_state_before_the_first_step_loads(rule: LearnedRule) -> None:
    a, b = network(), network()
    opt = GMNOptimizer(b.parameters(), weights=rule)
    opt.load_state_dict(GMNOptimizer(a.parameters(), weights=rule).state_dict())
    train(a, GMNOptimizer(a.parameters(), weights=rule), batches(2))
    train(b, opt, batches(2))
    assert_same(a, b)


def test_foreign_states_are_refused(rule: LearnedRule) -> None:
    model = network()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    with pytest.raises(ValueError, match="not the state of a GMNOptimizer"):
        opt.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())
    wide = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    other = GMNOptimizer(wide.parameters(), weights=rule)
    train(wide, other, batches(1))
    before = weights_of(model)
    with pytest.raises(ValueError, match="Build the same model"):
        opt.load_state_dict(other.state_dict())
    train(model, opt, batches(1))
    assert not torch.equal(before["0.weight"], model[0].weight)


def test_deepcopy_and_pickle_keep_the_state(rule: LearnedRule) -> None:
    model = network()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    train(model, opt, batches(2))
    twin_model, twin = copy.deepcopy((model, opt))
    file = io.BytesIO()
    pickle.dump((model, opt), file)
    third_model, third = pickle.loads(file.getvalue())
    for m, o in ((model, opt), (twin_model, twin), (third_model, third)):
        train(m, o, batches(3, seed=5))
    assert_same(model, twin_model)
    assert_same(model, third_model)


def test_scheduler_scales_the_updates(rule: LearnedRule) -> None:
    model = network()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 0.0 if step == 1 else 1.0)
    data = batches(3)
    train(model, opt, data[:1])
    schedule.step()
    before = weights_of(model)
    train(model, opt, data[1:2])
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    schedule.step()
    train(model, opt, data[2:])
    assert not torch.equal(before["0.weight"], model[0].weight)


def test_lr_and_weight_decay(rule: LearnedRule) -> None:
    start = weights_of(network())
    moved = {}
    for lr, decay in ((1.0, 0.0), (0.5, 0.0), (0.5, 100.0)):
        model = network()
        opt = GMNOptimizer(model.parameters(), lr, weight_decay=decay, weights=rule)
        train(model, opt, batches(1))
        moved[lr, decay] = model[0].weight - start["0.weight"]
    assert torch.allclose(moved[1.0, 0.0], 2 * moved[0.5, 0.0], atol=1e-6)
    shrunk = moved[0.5, 100.0] - moved[0.5, 0.0]
    assert torch.allclose(shrunk, -0.05 * start["0.weight"], atol=1e-6)


def test_add_param_group(rule: LearnedRule) -> None:
    model = network()
    opt = GMNOptimizer(model[0].parameters(), weights=rule, model=model)
    train(model, opt, batches(1))
    opt.add_param_group({"params": model[2].parameters(), "lr": 0.5})
    before = weights_of(model)
    train(model, opt, batches(1))
    assert not torch.equal(before["2.weight"], model[2].weight)
    with pytest.raises(TypeError, match="no 'betas'.*belong to its weights"):
        opt.add_param_group({"params": [torch.zeros(3)], "betas": (0.9, 0.99)})
    assert len(opt.param_groups) == 2


def test_missing_gradients_and_frozen_parameters(rule: LearnedRule) -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    opt = GMNOptimizer(model.parameters(), weights=rule)
    opt.step()  # no gradients at all: nothing happens
    before = weights_of(model)
    train(model, opt, batches(2))
    assert torch.equal(before["0.weight"], model[0].weight)
    assert not torch.equal(before["0.bias"], model[0].bias)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_gradients_skip_the_step_with_one_warning(bad: float, rule: LearnedRule) -> None:
    model, twin = network(), network()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    other = GMNOptimizer(twin.parameters(), weights=rule)
    data = batches(4)
    train(model, opt, data[:2])
    train(twin, other, data[:2])
    before = weights_of(model)
    model(data[0][0]).sum().backward()
    model[0].bias.grad[0] = bad
    with pytest.warns(RuntimeWarning, match="skipped a step"):
        opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()  # says so only once
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    train(model, opt, data[2:])
    train(twin, other, data[2:])
    assert_same(model, twin)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_keep_fine_state(dtype: torch.dtype, rule: LearnedRule) -> None:
    model = network().to(dtype)
    opt = GMNOptimizer(model.parameters(), weights=rule)
    x = torch.randn(5, 4, dtype=dtype)
    for _ in range(2):
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()
    fine = torch.float64 if dtype == torch.float64 else torch.float32
    for name in ("fast", "slow", "second"):
        assert all(opt.state[p][name].dtype == fine for p in model.parameters())
        assert all(opt.state[p][name].shape == p.shape for p in model.parameters())
    assert all(p.dtype == dtype and torch.isfinite(p).all() for p in model.parameters())
    saved = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(saved)
    for index, p in enumerate(model.parameters()):
        for name in ("fast", "slow", "second"):
            assert torch.equal(opt.state[p][name], saved["state"][index][name])


def test_sparse_gradients(rule: LearnedRule) -> None:
    torch.manual_seed(0)
    expected = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3))
    model = copy.deepcopy(expected)
    model[0].sparse = True  # type: ignore[assignment]
    for m in (expected, model):
        opt = GMNOptimizer(m.parameters(), weights=rule)
        for tokens in (torch.tensor([1, 2, 2]), torch.tensor([2, 5, 6])):
            opt.zero_grad()
            m(tokens).square().sum().backward()
            opt.step()
    assert_same(expected, model)


def test_compiled_model(rule: LearnedRule) -> None:
    expected, model = network(), network()
    compiled = torch.compile(model, backend="eager")
    train(expected, GMNOptimizer(expected.parameters(), weights=rule), batches(2))
    opt = GMNOptimizer(compiled.parameters(), weights=rule)  # type: ignore[attr-defined]
    train(compiled, opt, batches(2))  # type: ignore[arg-type]
    assert_same(expected, model)
    assert len(opt.graphs[0].spaces) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GMNOptimizer([]), ValueError, "empty list of parameters"),
        (lambda: GMNOptimizer(iter(())), ValueError, "empty list of parameters"),
        (lambda: GMNOptimizer(network().parameters(), lr=-1.0), ValueError, "lr must be"),
        (lambda: GMNOptimizer(network().parameters(), lr=float("nan")), ValueError, "lr must be"),
        (lambda: GMNOptimizer(network().parameters(), total_steps=0), ValueError, "total_steps"),
        (lambda: GMNOptimizer(network().parameters(), weight_decay=-1), ValueError, "weight_decay"),
        (lambda: any_settings(lr="1e-3"), TypeError, "lr must be a number"),
        (lambda: any_settings(lr=None), TypeError, "lr must be a number"),
        (lambda: GMNOptimizer(network().parameters(), lr=torch.ones(2)), TypeError, "lr must be"),
        (lambda: any_settings(total_steps="x"), ValueError, "total_steps"),
        (lambda: GMNOptimizer(network().parameters(), rho=0.9), TypeError, "one of Adadelta: the"),
        (lambda: GMNOptimizer(network().parameters(), ns_steps=5), TypeError, "one of Muon: the"),
        (lambda: GMNOptimizer(network().parameters(), weights="nope"), WeightsError, "No weights"),
        (
            lambda: GMNOptimizer(network().parameters(), weights="gone.safetensors"),
            WeightsError,
            "no weights file",
        ),
    ],
)
def test_bad_settings(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_damaged_weights_file(rule: LearnedRule, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_rule(path, rule)
    model = network()
    train(model, GMNOptimizer(model.parameters(), weights=path), batches(1))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="cut off or damaged"):
        GMNOptimizer(network().parameters(), weights=path)


@pytest.mark.gpu
def test_on_a_gpu(rule: LearnedRule) -> None:
    model = network().cuda()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    data = [(x.cuda(), y.cuda()) for x, y in batches(3)]
    train(model, opt, data)
    on_cpu = network()
    train(on_cpu, GMNOptimizer(on_cpu.parameters(), weights=rule), batches(3))
    for p, q in zip(model.parameters(), on_cpu.parameters(), strict=True):
        assert torch.allclose(p.cpu(), q, atol=1e-4)
