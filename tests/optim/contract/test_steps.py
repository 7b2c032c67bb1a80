"""Closures, hooks, modes, and everything around a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.optim.contract.kit import New, batches, close, finite, network, same, train, weights_of


def test_without_a_closure_a_step_returns_none(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    assert opt.step() is None


@pytest.mark.parametrize("as_float", [False, True])
def test_a_closure_is_the_same_as_a_loop(new: New, as_float: bool) -> None:
    model, expected = network(), network()
    opt, calls = new(model.parameters()), []
    for x, y in batches(3):

        def closure(x: Tensor = x, y: Tensor = y) -> Any:
            calls.append(torch.is_grad_enabled())
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return float(loss.detach()) if as_float else loss

        with torch.no_grad():
            loss = opt.step(closure)
        assert isinstance(loss, float if as_float else Tensor)
    train(expected, new(expected.parameters()))
    assert same(model, expected)
    assert calls == [True] * 3


def test_a_closure_that_raises_changes_nothing(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    model(torch.randn(2, 4)).sum().backward()

    def closure() -> float:
        raise KeyError("no data")

    with pytest.raises(KeyError, match="no data"):
        opt.step(closure)
    assert same(model, network())
    assert len(opt.state) == 0


def test_hooks_around_a_step(new: New) -> None:
    model, seen = network(), []
    opt = new(model.parameters())
    before = opt.register_step_pre_hook(lambda o, a, k: seen.append(("pre", o is opt)))
    after = opt.register_step_post_hook(lambda o, a, k: seen.append(("post", o is opt)))
    train(model, opt, 1)
    before.remove()
    after.remove()
    train(model, opt, 1)
    assert seen == [("pre", True), ("post", True)]


def test_hooks_of_all_optimizers(new: New) -> None:
    model, seen = network(), []
    opt = new(model.parameters())
    handles = [
        register_optimizer_step_pre_hook(lambda o, a, k: seen.append("pre")),
        register_optimizer_step_post_hook(lambda o, a, k: seen.append("post")),
    ]
    try:
        train(model, opt, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["pre", "post"]


def test_a_hook_that_changes_gradients(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    opt.register_step_pre_hook(lambda o, a, k: o.zero_grad())
    train(model, opt)
    assert same(model, network())


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad(new: New, to_none: bool) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    opt.zero_grad(set_to_none=to_none)
    grads = [p.grad for p in model.parameters()]
    assert all(g is None if to_none else not g.any() for g in grads)
    opt.step()
    assert finite(*model.parameters())


def test_under_a_profiler(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(model, opt, 1)
    assert any(type(opt).__name__ in event.key for event in profile.key_averages())


def test_under_anomaly_detection(new: New) -> None:
    model, expected = network(), network()
    train(expected, new(expected.parameters()))
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        train(model, new(model.parameters()))
    assert same(model, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_mode_around_a_step_does_not_matter(new: New, mode: Any) -> None:
    model, expected = network(), network()
    train(expected, new(expected.parameters()))
    opt = new(model.parameters())
    for i, (x, y) in enumerate(batches(3)):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        # AdamW's state would be of no use outside, were it made in inference mode
        with torch.no_grad() if mode is torch.inference_mode and i == 0 else mode():
            opt.step()
    assert same(model, expected)


def test_no_history_is_recorded(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    with torch.enable_grad():
        train(model, opt)
    assert all(p.grad_fn is None and p.is_leaf for p in model.parameters())
    tensors = [t for s in opt.state.values() for t in s.values()]
    assert not any(t.requires_grad for t in tensors)


def test_another_default_dtype(new: New) -> None:
    model, expected = network(), network()
    train(expected, new(expected.parameters()))
    opt, data = new(model.parameters()), batches(3)
    torch.set_default_dtype(torch.float64)
    try:
        for x, y in data:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(model, expected)


def test_deterministic_algorithms(new: New) -> None:
    model, expected = network(), network()
    train(expected, new(expected.parameters()))
    torch.use_deterministic_algorithms(True)
    try:
        train(model, new(model.parameters()))
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(model, expected)


def test_random_numbers_are_left_alone(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    train(model, opt)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_same_training_twice(new: New) -> None:
    one, two = network(), network()
    train(one, new(one.parameters()))
    train(two, new(two.parameters()))
    assert same(one, two)


def test_gradients_are_left_alone(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    model(torch.randn(2, 4)).sum().backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    opt.step()
    assert all(torch.equal(before[n], p.grad) for n, p in model.named_parameters())


def test_parameters_stay_where_they_are(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    places = [(id(p), p.data_ptr(), p.stride()) for p in model.parameters()]
    train(model, opt)
    assert places == [(id(p), p.data_ptr(), p.stride()) for p in model.parameters()]


def test_a_changed_weight_is_noticed_by_autograd(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    loss = model(torch.randn(2, 4)).square().sum()
    loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- models


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.table(x)))


def parametrized() -> nn.Module:
    model = network()
    nn.utils.parametrizations.weight_norm(model[0])
    nn.utils.parametrizations.orthogonal(model[2])
    return model


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    model = network()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def spectral() -> nn.Module:
    model = network()
    nn.utils.spectral_norm(model[0])
    return model


MODELS = {
    "tied": (Tied, lambda: torch.tensor([1, 2, 2, 5])),
    "parametrized": (parametrized, lambda: torch.randn(5, 4)),
    "pruned": (pruned, lambda: torch.randn(5, 4)),
    "spectral_norm": (spectral, lambda: torch.randn(5, 4)),
    "data_parallel": (lambda: nn.DataParallel(network()), lambda: torch.randn(5, 4)),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)),
        lambda: torch.randn(5, 4),
    ),
    "lstm": (lambda: nn.LSTM(4, 5, batch_first=True), lambda: torch.randn(3, 6, 4)),
    "channels_last": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3)).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        ),
        lambda: torch.randn(2, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_train(new: New, name: str) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model: nn.Module = make()
    opt = new(model.parameters())
    before, x = weights_of(model), inputs()
    losses = []
    for _ in range(15):
        opt.zero_grad()
        out = model(x)
        loss = (out[0] if isinstance(out, tuple) else out).square().mean()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters())
    if name != "batch_norm":
        assert losses[-1] < losses[0]


def test_moving_averages_of_the_weights(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    average = torch.optim.swa_utils.AveragedModel(model)
    for seed in range(3):
        train(model, opt, 1, seed)
        average.update_parameters(model)
    assert finite(*average.parameters())
    assert not same(average.module, model)


def test_virtual_gradients_per_example(new: New) -> None:
    """Gradients that come from torch.func instead of backward."""
    model, expected = network(), network()
    x, y = batches(1)[0]
    named = dict(model.named_parameters())
    found = torch.func.grad(
        lambda p: F.cross_entropy(torch.func.functional_call(model, p, (x,)), y)
    )(named)
    opt = new(model.parameters())
    model(x)
    for name, p in named.items():
        p.grad = found[name].detach()
    opt.step()
    train(expected, new(expected.parameters()), 1)
    assert close(model, expected)
