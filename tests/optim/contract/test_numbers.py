"""Dtypes, odd shapes, odd gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.optim.contract.kit import (
    New,
    batches,
    close,
    finite,
    network,
    same,
    train,
    weights_of,
    with_gradient,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def skip_where_eps_is_zero(new: New, dtype: torch.dtype) -> None:
    if dtype == torch.float16 and new.lr < 1:
        pytest.skip("AdamW divides by an eps of 1e-8, which is zero in float16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(new: New, dtype: torch.dtype) -> None:
    skip_where_eps_is_zero(new, dtype)
    model = network().to(dtype)
    opt = new(model.parameters(), lr=10 * new.lr if new.lr < 1 else 1.0)
    x = torch.randn(5, 4, dtype=dtype)
    losses = []
    for _ in range(20):
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(p.dtype == dtype for p in model.parameters())
    assert finite(*model.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_of_dtypes_come_back(new: New, dtype: torch.dtype) -> None:
    skip_where_eps_is_zero(new, dtype)
    one, two = network().to(dtype), network().to(dtype)
    opt, other = new(one.parameters()), new(two.parameters())
    x = torch.randn(5, 4, dtype=dtype)

    def step(model: Any, opt: torch.optim.Optimizer) -> None:
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()

    for _ in range(3):
        step(one, opt)
    two.load_state_dict(one.state_dict())
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        for name, t in opt.state[p].items():
            assert t.dtype == other.state[q][name].dtype
            assert torch.equal(t, other.state[q][name])
    step(one, opt)
    step(two, other)
    assert same(one, two)


def test_dtypes_beside_one_another(new: New) -> None:
    dtypes = DTYPES[:3]
    params = [with_gradient([[0.01, 0.02]], dtype=dtype) for dtype in dtypes]
    new(params, lr=10 * new.lr if new.lr < 1 else 1.0).step()
    assert [p.dtype for p in params] == dtypes
    assert finite(*params)
    assert all(float(p.detach()[0, 0]) < 0.0099 for p in params)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_a_complex_parameter_is_a_pair_of_reals(
    new: New, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape, dtype=dtype)
    whole = nn.Parameter(start.clone())
    pair = nn.Parameter(torch.view_as_real(start).clone())
    opt, other = new([whole]), new([pair])
    for step in range(4):
        grad = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(step))
        whole.grad, pair.grad = grad, torch.view_as_real(grad)
        opt.step()
        other.step()
    # the same sums, but maybe in another order
    torch.testing.assert_close(torch.view_as_real(whole), pair)
    assert whole.dtype == dtype
    for name, t in opt.state[whole].items():
        assert name == "step" or (t.shape == whole.shape and t.is_complex())


def test_a_complex_model_trains(new: New) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6, dtype=torch.complex64), nn.Linear(6, 2, dtype=torch.complex64)
    )
    opt, x = new(model.parameters()), torch.randn(5, 4, dtype=torch.complex64)
    losses = []
    for _ in range(20):
        opt.zero_grad()
        loss = model(x).abs().square().mean()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    saved = opt.state_dict()
    opt.load_state_dict(saved)
    opt.step()
    assert finite(*model.parameters())


@pytest.mark.parametrize(
    "shape", [(), (1,), (1, 1), (5, 1), (1, 5), (2, 3, 4), (2, 1, 3, 2), (2, 2, 2, 2, 2), (1000,)]
)
def test_shapes(new: New, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    p = with_gradient(torch.rand(shape) + 1)
    before = p.detach().clone()
    opt = new([p])
    for _ in range(3):
        opt.step()
    assert p.shape == before.shape
    assert finite(p)
    assert p.norm() < before.norm()  # an orthogonalized step raises single entries


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_parameters_without_elements(new: New, shape: tuple[int, ...]) -> None:
    empty, other = with_gradient(torch.zeros(shape)), with_gradient(torch.ones(2, 3))
    opt = new([empty, other])
    for _ in range(2):
        opt.step()
    assert empty.shape == shape
    assert not torch.equal(other, torch.ones(2, 3))
    opt.load_state_dict(opt.state_dict())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_layers_without_elements(new: New, sizes: tuple[int, int]) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.extra = network(), nn.Linear(*sizes)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + self.extra(x[:, : sizes[0]]).sum(-1, keepdim=True)

    torch.manual_seed(0)
    model = Padded()
    train(model, new(model.parameters()))
    assert finite(*model.parameters())
    assert not torch.equal(model.body[0].weight, network()[0].weight)


@pytest.mark.parametrize(
    "layout", ["transposed", "strided", "expanded_gradient", "sliced_gradient"]
)
def test_layouts_in_memory(new: New, layout: str) -> None:
    torch.manual_seed(0)
    values, grad = torch.randn(4, 3), torch.randn(4, 3)
    if layout == "expanded_gradient":
        grad = torch.randn(3).expand(4, 3)
    if layout == "sliced_gradient":
        grad = torch.randn(8, 6)[::2, ::2]
    plain = nn.Parameter(values.clone())
    if layout == "transposed":
        odd = nn.Parameter(values.t().contiguous().t())
    elif layout == "strided":
        odd = nn.Parameter(torch.empty_strided((4, 3), (6, 2)).copy_(values))
    else:
        odd = nn.Parameter(values.clone())
    opt, other = new([odd]), new([plain])
    for _ in range(3):
        odd.grad, plain.grad = grad, grad.contiguous()
        opt.step()
        other.step()
    assert torch.equal(odd, plain)


# ---- gradients


def test_no_gradients_at_all(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    opt.step()
    assert same(model, network())
    assert len(opt.state) == 0


def test_some_parameters_without_gradients(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    for x, y in batches(3):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        model[0].weight.grad = None
        opt.step()
    start = weights_of(network())
    assert torch.equal(start["0.weight"], model[0].weight)
    assert not torch.equal(start["2.weight"], model[2].weight)
    assert model[0].weight not in opt.state


def test_gradients_of_zero(new: New) -> None:
    p = with_gradient(torch.ones(3, 4), torch.zeros(3, 4))
    opt = new([p])
    for _ in range(5):
        opt.step()
    assert finite(p)
    assert float((p - 1).detach().abs().max()) < 0.1


@pytest.mark.parametrize("size", [1e15, 1e19, 1e25, 3e38])
@pytest.mark.parametrize("whole", [False, True])
def test_huge_finite_gradients(new: New, size: float, whole: bool) -> None:
    model = network()
    opt = new(model.parameters())
    for step, (x, y) in enumerate(batches(8)):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if step == 2:
            grad = model[0].weight.grad
            if whole:
                grad.copy_(grad.sign() * size)
            else:
                grad[0, 0] = size
        opt.step()
        assert finite(*model.parameters())
    opt.load_state_dict(opt.state_dict())
    start = weights_of(network())
    assert not torch.equal(start["2.weight"], model[2].weight)


@pytest.mark.parametrize("size", [1e-10, 1e-25, 1e-42])
def test_tiny_gradients(new: New, size: float) -> None:
    p = with_gradient(torch.ones(3, 4), torch.full((3, 4), size))
    opt = new([p])
    for _ in range(3):
        opt.step()
    assert finite(p)


@pytest.mark.parametrize("size", [1e20, 1e30])
def test_huge_weights(new: New, size: float) -> None:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = size
    opt = new(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    assert finite(*model.parameters())
    assert not torch.equal(model[2].weight, network()[2].weight)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_frozen_parameters_that_are_not_finite(new: New, value: float) -> None:
    """A mask kept as a parameter, say."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()
            self.mask = nn.Parameter(torch.tensor([0.0, value, 0.0]), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) + torch.nan_to_num(self.mask, 0.0, 0.0, 0.0)

    model = Masked()
    train(model, new(model.parameters()))
    assert finite(*model.body.parameters())
    assert not same(model.body, network())


def test_accumulated_gradients_are_sums(new: New) -> None:
    one, two = network(), network()
    x, y = batches(1)[0]
    opt, other = new(one.parameters()), new(two.parameters())
    for half in (slice(0, 8), slice(8, 16)):
        (F.cross_entropy(one(x[half]), y[half]) / 2).backward()
    F.cross_entropy(two(x), y).backward()
    opt.step()
    other.step()
    assert close(one, two)


@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_clipped_gradients(new: New, clip: Any) -> None:
    model = network()
    opt = new(model.parameters())
    for x, y in batches(3):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        clip(model.parameters(), 0.1)
        opt.step()
    assert not same(model, network())


def test_one_gradient_for_two_parameters(new: New) -> None:
    p, q = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    p.grad = q.grad = torch.ones(3)
    new([p, q]).step()
    assert torch.equal(p, q)


# ---- weight decay


@pytest.mark.parametrize("decay", [0.1, 1.0, 1e3, 1e6])
def test_weight_decay_never_makes_weights_grow_without_bound(new: New, decay: float) -> None:
    if new.lr < 1 and decay * new.lr > 1:
        pytest.skip("AdamW multiplies by a negative number")
    p = with_gradient(torch.ones(4, 3))
    opt = new([p], weight_decay=decay)
    for _ in range(50):
        opt.step()
    assert float(p.detach().abs().max()) < 50
