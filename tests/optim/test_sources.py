"""Which calls of which modules give the graphs of an optimizer."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt import GMNOptimizer
from gmn_opt.optim import LearnedRule
from gmn_opt.optim.binding import GraphWarning
from gmn_opt.optim.settings import LearningRateWarning
from gmn_opt.optim.step import StepInputs, StepOutputs
from tests.optim.contract.kit import small_rule


def mlp(sizes: tuple[int, int, int] = (4, 8, 1)) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(*sizes[:2]), nn.Tanh(), nn.Linear(*sizes[1:]))


def optimizer(*models: nn.Module, **settings: Any) -> GMNOptimizer:
    params = [p for m in models for p in m.parameters()]
    return GMNOptimizer(params, **{"weights": small_rule(), **settings})


def steps(opt: GMNOptimizer, loss: Callable[[], Tensor], count: int = 2) -> list[int]:
    """Sizes of the neuron groups that the optimizer sees after some steps, graph by graph."""
    for _ in range(count):
        opt.zero_grad()
        loss().backward()
        opt.step()
    return [len(g.spaces) for g in opt.graphs]


class Forces(nn.Module):
    """An energy, and its derivative by the input, made in the forward pass."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.energy = mlp()
        self.way = way

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_(True)
        energy = self.energy(x)
        if self.way == "vjp":
            (force,) = torch.autograd.grad(energy, x, torch.ones_like(energy), create_graph=True)
        else:
            with torch.set_grad_enabled(self.way == "sum" or torch.is_grad_enabled()):
                (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy, force


class Slope(Forces):
    """The derivative by an input that needs gradients by the caller's wish."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energy = self.energy(x)
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy, force


def test_inputs_that_need_gradients() -> None:
    model = Slope("caller")
    x = torch.randn(5, 4, requires_grad=True)
    assert steps(optimizer(model), lambda: sum(t.square().sum() for t in model(x))) == [1]


@pytest.mark.parametrize("way", ["sum", "vjp", "mode"])
def test_a_model_that_differentiates_in_its_forward(way: str) -> None:
    model = Forces(way)
    x = torch.randn(5, 4)
    assert steps(optimizer(model), lambda: sum(t.square().sum() for t in model(x))) == [1]


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(), mlp((1, 8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def test_parts_that_are_called_instead_of_the_whole() -> None:
    model, x = Halves(), torch.randn(5, 4)
    opt = optimizer(model)
    assert steps(opt, lambda: model.decoder(model.encoder(x)).sum(), 3) == [1, 1]


def test_two_models_of_a_game() -> None:
    maker, judge, x = Halves(), mlp(), torch.randn(5, 4)
    assert steps(optimizer(maker, judge), lambda: judge(maker(x)).sum()) == [2, 1]


class Emptying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, batch: Any) -> Tensor:
        if isinstance(batch, dict):
            return self.inner(batch.pop("x"))
        if isinstance(batch, Holder):
            x, batch.x = batch.x, None
            return self.inner(x)
        return self.inner(batch.pop())


class Holder:
    def __init__(self) -> None:
        self.x: Any = torch.randn(5, 4)


@pytest.mark.parametrize(
    "make", [lambda: {"x": torch.randn(5, 4)}, Holder, lambda: [torch.randn(5, 4)]]
)
def test_a_batch_that_the_forward_pass_empties(make: Callable[[], Any]) -> None:
    model = Emptying()
    assert steps(optimizer(model), lambda: model(make()).sum()) == [1]


def test_a_first_call_that_raised() -> None:
    model = mlp()
    opt = optimizer(model)
    with pytest.raises(RuntimeError, match="shapes"):
        model(torch.randn(5, 3))
    assert steps(opt, lambda: model(torch.randn(5, 4)).sum()) == [1]


@pytest.mark.parametrize("kind", ["script", "trace", "own"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_foreign_modules_in_memory_are_skipped(kind: str) -> None:
    class Broken(nn.Linear):
        def __getattr__(self, name: str) -> Any:
            raise ValueError(name)

    made: dict[str, Callable[[], Any]] = {
        "script": lambda: torch.jit.script(nn.Linear(2, 2)),
        "trace": lambda: torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)),
        "own": lambda: Broken.__new__(Broken),
    }
    alive = made[kind]()
    model = mlp()
    assert steps(optimizer(model), lambda: model(torch.randn(5, 4)).sum()) == [1]
    assert alive is not None


@pytest.mark.parametrize("at", ["forward", "pre", "inner", "all", "all_pre"])
def test_hooks_of_the_user_run_once_for_each_call(at: str) -> None:
    """Those for all modules of the process as well: four modules are called three times."""
    model, calls, everywhere = mlp(), [], nn.modules.module

    def note(*_: Any) -> None:
        calls.append(at)

    registered: dict[str, Callable[[], Any]] = {
        "forward": lambda: model.register_forward_hook(note),
        "pre": lambda: model.register_forward_pre_hook(note),
        "inner": lambda: model[0].register_forward_hook(note),
        "all": lambda: everywhere.register_module_forward_hook(note),
        "all_pre": lambda: everywhere.register_module_forward_pre_hook(note),
    }
    handle = registered[at]()
    try:
        assert steps(optimizer(model), lambda: model(torch.randn(5, 4)).sum(), 3) == [1]
    finally:
        handle.remove()
    assert len(calls) == (12 if at.startswith("all") else 3)


def test_frozen_strangers_are_no_reason_to_complain() -> None:
    """Warnings are errors here."""
    model, stranger = mlp(), nn.Parameter(torch.ones(3), requires_grad=False)
    opt = GMNOptimizer([stranger, *model.parameters()], weights=small_rule())
    steps(opt, lambda: model(torch.randn(5, 4)).sum(), 3)
    assert torch.equal(stranger, torch.ones(3))


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_a_model_that_is_converted_between_steps(dtypes: Any) -> None:
    model: Any = mlp()
    opt = optimizer(model)
    for dtype in dtypes:
        model.to(dtype)
        before = model[0].weight.detach().clone()
        x = torch.randn(5, 4, dtype=dtype)
        assert steps(opt, partial(lambda x: model(x).square().sum(), x), 4) == [1]
        assert not torch.equal(before, model[0].weight)
        assert bool(model[0].weight.isfinite().all())


def test_conjugated_gradients() -> None:
    pair = [nn.Parameter(torch.ones(3, 2, dtype=torch.complex64)) for _ in range(2)]
    grad = torch.randn(3, 2, dtype=torch.complex64)
    pair[0].grad, pair[1].grad = grad.conj(), grad.conj().resolve_conj()
    for p in pair:
        with pytest.warns(GraphWarning):
            GMNOptimizer([p], weights=small_rule()).step()
    assert torch.equal(*pair)
    assert not torch.equal(pair[0], torch.ones_like(pair[0]))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner: Any = mlp()

    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor:
        batch = args[0] if args else kwargs["x"]
        out: Tensor = self.inner(batch["x"] if isinstance(batch, dict) else batch)
        return out


@pytest.mark.parametrize("place", ["alone", "keyword", "dict"])
def test_nested_inputs_fall_back_and_train(place: str) -> None:
    model: Any = Wrapped()
    opt = optimizer(model)
    parts = [torch.randn(2, 4), torch.randn(3, 4)]
    before = model.inner[0].weight.detach().clone()

    def loss() -> Tensor:
        x = torch.nested.nested_tensor(parts, layout=torch.jagged)
        calls = {"alone": ((x,), {}), "keyword": ((), {"x": x}), "dict": (({"x": x},), {})}
        args, kwargs = calls[place]
        out: Tensor = model(*args, **kwargs).values().sum()
        return out

    with pytest.warns(GraphWarning, match="nested tensor") as seen:
        steps(opt, loss, 6)
    assert [w.filename for w in seen] == [__file__]
    assert not torch.equal(before, model.inner[0].weight)


def test_a_skipped_step_is_reported_where_it_was_taken() -> None:
    model = mlp()
    with pytest.warns(RuntimeWarning, match="NaN or infinity") as seen:
        steps(optimizer(model), lambda: model(torch.randn(5, 4)).sum() * float("nan"))
    assert [w.filename for w in seen] == [__file__]


class Counting(LearnedRule):
    """A rule whose thought is how often it was asked, and whose steps grow with it."""

    def flat_update(self, inputs: StepInputs) -> StepOutputs:
        delta, moments, _ = super().flat_update(replace(inputs, thought=None))
        seen = inputs.theta.new_zeros(1) if inputs.thought is None else inputs.thought
        return StepOutputs(delta * (1 + seen), moments, seen + 1)


@pytest.mark.parametrize("way", ["file", "deepcopy", "fresh"])
def test_thoughts_come_back(way: str) -> None:
    model, x = mlp(), torch.randn(5, 4)
    opt = optimizer(model, weights=Counting())
    steps(opt, lambda: model(x).square().sum(), 3)
    if way == "deepcopy":
        other, resumed = copy.deepcopy((model, opt))
    else:
        other = copy.deepcopy(model)
        resumed = optimizer(other, weights=Counting())
        state = opt.state_dict()
        if way == "file":
            torch.save(state, file := io.BytesIO())
            file.seek(0)
            state = torch.load(file)
        if way != "fresh":
            resumed.load_state_dict(state)
    steps(opt, lambda: model(x).square().sum())
    steps(resumed, lambda: other(x).square().sum())
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs) == (way != "fresh")


@pytest.mark.parametrize("lr", [1e-2, 1e-3, torch.tensor(3e-4)])
def test_a_learning_rate_of_another_optimizer_is_reported_where_it_was_written(lr: Any) -> None:
    with pytest.warns(LearningRateWarning, match="factor on the learned step") as seen:
        GMNOptimizer(mlp().parameters(), lr=lr, weights=small_rule())
    assert len(seen) == 1
    assert seen[0].filename == __file__


def factors(opt: GMNOptimizer, rates: list[float]) -> list[Any]:
    """Categories of what is said in a run with these values of ``lr``."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for rate in rates:
            opt.param_groups[0]["lr"] = rate
            opt.param_groups[0]["params"][0].grad = torch.ones_like(
                opt.param_groups[0]["params"][0]
            )
            opt.step()
    return [w.category for w in seen if w.category is LearningRateWarning]


def test_a_slow_warmup_is_never_reported_and_a_low_plateau_is() -> None:
    slow = [i / 20_000 for i in range(1, 140)]
    assert factors(optimizer(nn.Linear(2, 2)), slow) == []
    low = [1e-3 * min(1.0, i / 10) for i in range(1, 140)]
    assert factors(optimizer(nn.Linear(2, 2)), low) == [LearningRateWarning]
    assert factors(optimizer(nn.Linear(2, 2)), [*slow[:10], 1e-5]) == [LearningRateWarning]


@pytest.mark.parametrize("peak", [1e-2, 1e-3, 1.0])
def test_a_scheduler_is_judged_by_its_peak_and_never_by_its_decay(peak: float) -> None:
    model = mlp()
    opt = optimizer(model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        opt, max_lr=peak, total_steps=20, cycle_momentum=False
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(20):
            steps(opt, lambda: model(torch.randn(5, 4)).square().sum(), 1)
            schedule.step() if schedule.last_epoch < 19 else None
    assert [w.category for w in seen] == [LearningRateWarning] * (peak < 0.02)
