"""Native sines against torch's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gmn_opt.inr import SirenConfig, stack
from gmn_opt.inr.sine import sine
from gmn_opt.metanet import native

BUILT = pytest.mark.skipif(native.kernel() is None, reason=f"native kernel: {native.status()}")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What native code is called with."""
    kernel = native.kernel()
    assert kernel is not None
    calls: list[Tensor] = []
    forward = kernel.sine.forward

    def noted(x: Tensor) -> Tensor:
        calls.append(x)
        return forward(x)

    monkeypatch.setattr(kernel.sine, "forward", noted)
    return calls


@BUILT
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 255, 256, 257, 5000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 3000.0, 1e5])
def test_values_and_gradients(count: int, scale: float) -> None:
    random = torch.Generator().manual_seed(count)
    x = (scale * torch.randn(count, generator=random)).requires_grad_()
    weights = torch.randn(count, generator=random)
    out = sine(x)
    (grad,) = torch.autograd.grad((out * weights).sum(), x)
    exact = x.detach().double()
    assert torch.allclose(out.double(), exact.sin(), rtol=0, atol=1.5e-7)
    assert torch.allclose(grad.double(), weights.double() * exact.cos(), rtol=3e-7, atol=5e-7)


@BUILT
def test_small_arguments_keep_their_digits() -> None:
    x = torch.logspace(-30, -3, 400)
    assert torch.allclose(sine(x), torch.sin(x), rtol=2e-7, atol=0)


@BUILT
def test_what_is_not_finite() -> None:
    x = torch.linspace(-3, 3, 300)
    x[7], x[100], x[299] = math.inf, math.nan, -math.inf
    assert torch.allclose(sine(x), torch.sin(x), atol=2e-7, equal_nan=True)
    assert sine(torch.tensor([math.nan] * 17)).isnan().all()


@BUILT
def test_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    x = torch.linspace(-9, 9, 101, requires_grad=True)
    (first,) = torch.autograd.grad(sine(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    z = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(torch.sin(z).square().sum(), z, create_graph=True)
    (expected,) = torch.autograd.grad(expected.square().sum(), z)
    assert len(calls) == 1
    assert torch.allclose(second.double(), expected, atol=2e-5)


@BUILT
def test_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    alone = sine(x)
    monkeypatch.setattr("gmn_opt.metanet.native.sine_calls.PART", 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.allclose(sine(x), alone, rtol=0, atol=1e-7)


@BUILT
def test_where_native_code_cannot_see(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.func.vmap(sine)(x), torch.sin(x))
    assert torch.equal(sine(x.double()), torch.sin(x.double()))
    assert torch.equal(sine(x.bfloat16()), torch.sin(x.bfloat16()))
    compiled = torch.compile(sine, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), torch.sin(x))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(sine(dual)).tangent
    assert tangent is not None
    assert torch.allclose(tangent, torch.cos(x))
    assert len(calls) == 1
    assert torch.allclose(sine(x.T), torch.sin(x.T), atol=2e-7)


@pytest.mark.parametrize("built", [True, False])
def test_a_siren_is_the_same(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not built:
        monkeypatch.setattr(native, "kernel", lambda: None)
    elif native.kernel() is None:
        pytest.skip(f"native kernel: {native.status()}")
    config = SirenConfig()
    nets = [config.build() for _ in range(3)]
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    many = config.build().batched(stack(nets), points)
    for one, net in zip(many, nets, strict=True):
        assert torch.allclose(one, net(points), atol=1e-5)
