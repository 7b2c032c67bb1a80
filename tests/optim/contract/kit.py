"""What every check of the contract shares: the two optimizers, small models and data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from gmn_opt import GMNOptimizer
from gmn_opt.optim import LearnedRule, RuleConfig

Params: TypeAlias = Any


class New(Protocol):
    """A kind of optimizer: ``new(params, **settings)``; ``lr`` is its customary learning rate."""

    lr: float

    def __call__(self, params: Params, **settings: Any) -> Optimizer: ...


@cache
def small_rule() -> LearnedRule:
    """A small float32 rule whose metanet does something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        rule = LearnedRule(RuleConfig(hidden=8, edge_hidden=4, layers=1))
        with torch.no_grad():
            for p in rule.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return rule.requires_grad_(False)


class NewAdamW:
    """torch's own, the measure of what is expected."""

    lr = 1e-3

    def __call__(self, params: Params, **settings: Any) -> Optimizer:
        return AdamW(params, **{"weight_decay": 0.0, **settings})


class NewGMN:
    """Ours. (The rule is a small one, for speed.)"""

    lr = 1.0

    def __call__(self, params: Params, **settings: Any) -> Optimizer:
        return GMNOptimizer(params, **{"weights": small_rule(), **settings})


KINDS: dict[str, New] = {"AdamW": NewAdamW(), "GMNOptimizer": NewGMN()}


def network(seed: int = 0) -> Any:
    """A small classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Random data for :func:`network`."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator))
        for _ in range(count)
    ]


def train(
    model: Callable[..., Any], opt: Optimizer, steps: int = 3, seed: int = 0, scheduler: Any = None
) -> None:
    """A plain training loop."""
    for x, y in batches(steps, seed):
        opt.zero_grad()
        F.cross_entropy(model(x), y).backward()
        opt.step()
        if scheduler is not None:
            scheduler.step()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a: Any, b: Any) -> bool:
    """Whether two models, or two dicts of tensors, hold the same numbers bit by bit."""
    one = weights_of(a) if isinstance(a, nn.Module) else a
    two = weights_of(b) if isinstance(b, nn.Module) else b
    return one.keys() == two.keys() and all(torch.equal(t, two[n]) for n, t in one.items())


def with_gradient(values: Any, grad: Any = None, **settings: Any) -> nn.Parameter:
    """A loose parameter whose gradient is ``grad``, or its own values."""
    p = nn.Parameter(torch.as_tensor(values, **settings))
    p.grad = p.detach().clone() if grad is None else torch.as_tensor(grad, **settings)
    return p


def finite(*tensors: Tensor) -> bool:
    """Whether there is neither NaN nor infinity."""
    return all(bool(torch.isfinite(torch.view_as_real(t) if t.is_complex() else t).all())
               for t in tensors)  # fmt: skip


def close(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models agree up to how sums are rounded."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(p, q, atol=1e-5) for p, q in pairs)
