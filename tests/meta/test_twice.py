"""Second derivatives of networks under vmap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from gmn_opt.meta.twice import twice_differentiable

NORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "batch": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "batch, no weights": lambda x, w, b: F.batch_norm(x, None, None, training=True) * b[0] + w[0],
    "batch, evaluation": lambda x, w, b: F.batch_norm(
        x, torch.ones(4).double(), torch.ones(4).double(), w, b
    ),
    "instance": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    "layer": lambda x, w, b: F.layer_norm(x, (4,), w, b),
    "layer over two axes": lambda x, w, b: F.layer_norm(x, (4, 4), torch.outer(w, b)),
    "group": lambda x, w, b: F.group_norm(x, 2, w, b),
    "attention": lambda x, w, b: F.scaled_dot_product_attention(x, x * w, x + b),
}


@pytest.mark.parametrize("name", NORMS)
def test_second_derivatives_under_vmap_are_those_of_plain_autograd(name: str) -> None:
    """The reference runs network by network, where PyTorch's own formulas are right."""
    count = 3
    x = 0.3 * torch.randn(count, 6, 4, 4, 4, dtype=torch.float64)
    w, b = torch.randn(2, count, 4, dtype=torch.float64)
    probes = [torch.randn_like(t) for t in (x, w, b)]

    def loss(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        out = torch.tanh(NORMS[name](x, w, b))
        return (out * torch.arange(out.numel()).view_as(out).cos()).sum()

    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    with twice_differentiable():
        first = vmap(grad(loss, (0, 1, 2)))(*leaves)
    value = torch.stack([(g * p).sum() for g, p in zip(first, probes, strict=True)]).sum()
    second = torch.autograd.grad(value, leaves)
    for k in range(count):
        own = [t[k].clone().requires_grad_() for t in (x, w, b)]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            one = torch.autograd.grad(loss(*own), own, create_graph=True)
        value = torch.stack([(g * p[k]).sum() for g, p in zip(one, probes, strict=True)]).sum()
        two = torch.autograd.grad(value, own)
        for found, expected in zip((*first, *second), (*one, *two), strict=True):
            assert torch.allclose(found[k], expected, rtol=1e-9, atol=1e-11)
