"""Meta-gradients against finite differences and against a slow loop over networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from gmn_opt.meta import InnerState, Unrolled, Window, unroll
from gmn_opt.metanet import blocked
from gmn_opt.optim import LearnedRule
from tests.meta.small_tasks import NOISY, SMALL, Float64, ZeroInputs, busy_rule, double_state
from tests.optim.named import NamedState, named_step

STEPS, COUNT, HORIZON = 3, 2, 9
tasks = pytest.mark.parametrize("task", SMALL.values(), ids=SMALL.keys())


def window(
    rule: LearnedRule,
    task: Float64,
    state: InnerState,
    second_order: bool = True,
    steps: int = STEPS,
    horizon: int | None = HORIZON,
) -> Unrolled:
    generator = torch.Generator().manual_seed(11)
    return unroll(rule, Window(task, state, steps, generator, horizon, 3.0), second_order)


def objective(losses: Tensor) -> Tensor:
    """The meta-loss from ``losses`` [steps + 1, count]: the mean log of what is judged."""
    weights = torch.ones(len(losses) - 1, dtype=losses.dtype)
    weights[-1] = 3.0
    weights = weights / weights.sum()
    return (losses[1:] * weights[:, None]).sum(0).log().mean()


def moved(rule: LearnedRule, start: list[Tensor], direction: list[Tensor], by: float) -> None:
    with torch.no_grad():
        for p, p0, d in zip(rule.parameters(), start, direction, strict=True):
            p.copy_(p0 + by * d)


def gradients_of(rule: LearnedRule, out: Unrolled) -> list[Tensor]:
    found = torch.autograd.grad(out.meta_loss, list(rule.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(found, rule.parameters(), strict=True)
    ]


def dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))


def worst_disagreement(task: Float64, horizon: int | None) -> float:
    """Largest relative error of directional derivatives against fourth-order differences.

    Along the meta-gradient and two random directions; steps are short, so that no maximum of a
    pooling window changes place between them.
    """
    rule, state = busy_rule(), double_state(task, COUNT)
    out = window(rule, task, state, horizon=horizon)
    assert math.isclose(float(out.meta_loss.detach()), float(objective(out.losses)))
    grads = gradients_of(rule, out)
    start = [p.detach().clone() for p in rule.parameters()]
    assert math.sqrt(dot(grads, grads)) > 1e-4
    directions = [grads]
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        directions.append([torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start])
    worst = 0.0
    for direction in directions:
        values = {}
        eps = 2e-5 / math.sqrt(dot(direction, direction))
        for k in (-2, -1, 1, 2):
            moved(rule, start, direction, k * eps)
            with torch.no_grad():
                losses = window(rule, task, state, horizon=horizon).losses
            values[k] = float(objective(losses))
        numeric = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * eps)
        exact = dot(grads, direction)
        worst = max(worst, abs(numeric - exact) / abs(exact))
    return worst


@pytest.mark.parametrize(
    ("name", "horizon"), [*((name, HORIZON) for name in SMALL), ("residual", None)]
)
def test_second_order_meta_gradients_agree_with_finite_differences(
    name: str, horizon: int | None
) -> None:
    assert worst_disagreement(SMALL[name], horizon) < 1e-5


def test_noise_gradients_in_front_of_batch_norm_do_little_harm() -> None:
    """Rounding noise, brought to unit size, bounds how far two computations can agree."""
    rule, state = busy_rule(), double_state(NOISY, COUNT)
    out = window(rule, NOISY, state, second_order=False)
    _, losses = first_order_reference(rule, NOISY, state, STEPS)
    assert torch.allclose(out.losses, losses, rtol=1e-6, atol=0)


@tasks
def test_every_part_of_the_rule_has_a_second_order_meta_gradient(task: Float64) -> None:
    rule, state = busy_rule(), double_state(task, COUNT)
    grads = gradients_of(rule, window(rule, task, state))
    idle = {n for (n, _), g in zip(rule.named_parameters(), grads, strict=True) if not g.any()}
    # after the last round nothing reads the graph state; and these nets have no links
    expected = {"metanet.layers.1.graph_mlp", "along_link", "against_link"}
    if task.kind == "mlp":
        expected |= {"from_kernel"}
    assert {n for n in idle if not any(e in n for e in expected)} == set()
    assert len(idle) == sum(any(e in n for e in expected) for n, _ in rule.named_parameters())


def first_order_reference(
    rule: LearnedRule, task: Float64, state: InnerState, steps: int
) -> tuple[list[Tensor], Tensor]:
    """First-order meta-gradients and losses ``[steps + 1, count]``, network by network.

    No vmap, no flat vectors, no functional transforms: torch.autograd on each network alone, in
    which gradients and moments are constants, and the chain rule by hand.
    """
    layout = blocked(task.graph)
    generator = torch.Generator().manual_seed(11)
    batches = [task.batch("inner_train", COUNT, generator) for _ in range(steps + 1)]
    weights = torch.ones(steps, dtype=torch.float64)
    weights[-1] = 3.0
    weights = weights / weights.sum()
    meta = [torch.zeros_like(p) for p in rule.parameters()]
    columns = []
    for k in range(COUNT):
        params = layout.unflatten(state.theta[k])
        rows = zip(rule.moment_names, state.moments[k], strict=True)
        inner = NamedState(state.step, {name: layout.unflatten(row) for name, row in rows})
        reach = {n: torch.zeros_like(p) for n, p in params.items()}  # sum of the updates so far
        pieces, losses = [], []
        for t in range(steps + 1):
            leaves = {n: p.detach().requires_grad_() for n, p in params.items()}
            batch = {n: b[k] for n, b in batches[t].items()}
            loss = task.judge(functional_call(task.template, leaves, (batch["x"],)), batch)
            grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            losses.append(loss.detach())
            if t:
                pieces.append(sum(((grads[n] * reach[n]).sum() for n in grads), torch.zeros(())))
            if t < steps:
                delta, inner = named_step(rule, task.graph, params, grads, inner, HORIZON)
                moments = {
                    name: {n: m.detach() for n, m in moment.items()}
                    for name, moment in inner.moments.items()
                }
                inner = NamedState(inner.step, moments, inner.thought)
                reach = {n: reach[n] + delta[n] for n in reach}
                params = {n: (params[n] + delta[n]).detach() for n in params}
        column = torch.stack(losses)
        judged = (column[1:] * weights).sum()
        surrogate = (torch.stack(pieces) * weights).sum() / judged / COUNT
        for m, g in zip(
            meta,
            torch.autograd.grad(surrogate, list(rule.parameters()), allow_unused=True),
            strict=True,
        ):
            if g is not None:
                m += g
        columns.append(column)
    return meta, torch.stack(columns, 1)


@tasks
def test_first_order_meta_gradients_equal_a_slow_loop(task: Float64) -> None:
    rule, state = busy_rule(), double_state(task, COUNT)
    out = window(rule, task, state, second_order=False)
    fast = gradients_of(rule, out)
    slow, losses = first_order_reference(rule, task, state, STEPS)
    assert torch.allclose(out.losses, losses, rtol=1e-10, atol=0)
    difference = [a - b for a, b in zip(fast, slow, strict=True)]
    size = math.sqrt(dot(slow, slow))
    assert size > 1e-4
    assert math.sqrt(dot(difference, difference)) < 1e-10 * size


@tasks
def test_both_orders_compute_the_same_losses(task: Float64) -> None:
    rule, state = busy_rule(), double_state(task, COUNT)
    first, second = (window(rule, task, state, order) for order in (False, True))
    assert torch.allclose(first.losses, second.losses, rtol=1e-10, atol=0)
    assert torch.allclose(first.state.theta, second.state.theta, rtol=1e-10, atol=1e-12)
    one, two = gradients_of(rule, first), gradients_of(rule, second)
    # they are estimates of one quantity, but not the same
    cosine = dot(one, two) / math.sqrt(dot(one, one) * dot(two, two))
    assert cosine < 1 - 1e-9


def test_with_one_step_both_orders_agree() -> None:
    """After a single step the meta-gradient has no second-order terms."""
    task = SMALL["residual"]
    rule, state = busy_rule(), double_state(task, COUNT)
    one, two = (gradients_of(rule, window(rule, task, state, o, steps=1)) for o in (False, True))
    difference = [a - b for a, b in zip(one, two, strict=True)]
    assert math.sqrt(dot(difference, difference)) < 1e-10 * math.sqrt(dot(two, two))


def test_gradients_at_exactly_zero_inputs_stay_finite() -> None:
    """Zero inputs have zero gradients at every step; second derivatives must not be NaN."""
    task = ZeroInputs("mnist", 8, (3,), activation="tanh", batch_size=4)
    rule = busy_rule()
    state = InnerState.initial(task, 1, torch.Generator().manual_seed(0))
    state = InnerState(state.theta.double(), state.moments.double())
    out = window(rule, task, state, steps=2)
    first_layer = next(i for i, b in enumerate(blocked(task.graph).blocks) if b.fan_in == 64)
    moments = blocked(task.graph).blocks_of_flat(out.state.moments[0, 2])[first_layer]
    assert float((moments == 0).double().mean()) >= 0.5
    assert all(bool(g.isfinite().all()) for g in gradients_of(rule, out))
