"""Models whose graph cannot be had, or not at once, and what stays untouched by finding it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from gmn_opt import GMNOptimizer
from gmn_opt.optim import GraphWarning, LearnedRule
from tests.optim.contract.kit import small_rule
from tests.optim.small import batches, network, weights_of


@pytest.fixture
def rule() -> LearnedRule:
    return small_rule()


def test_works_without_structure_and_says_so_once(rule: LearnedRule) -> None:
    loose = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]
    opt = GMNOptimizer(loose, weights=rule)
    before = [p.detach().clone() for p in loose]
    for p in loose:
        p.grad = torch.randn_like(p)
    with pytest.warns(GraphWarning, match="without their graph: no module"):
        opt.step()
    opt.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, loose, strict=True))


class Raises(nn.Module):
    """A model whose forward cannot be traced on the inputs that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("only once")
        return self.linear(x)


def test_a_forward_that_raises_falls_back(rule: LearnedRule) -> None:
    model = Raises()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    model(torch.randn(2, 4)).sum().backward()
    before = weights_of(model)
    opt.step()  # another call may do
    with contextlib.suppress(RuntimeError):
        model(torch.randn(2, 4))
    with pytest.warns(GraphWarning, match="tracing Raises failed.*only once"):
        opt.step()
    assert not torch.equal(before["linear.weight"], model.linear.weight)


def test_forward_called_without_hooks(rule: LearnedRule) -> None:
    model = network()
    opt = GMNOptimizer(model.parameters(), weights=rule)
    model.forward(torch.randn(2, 4)).sum().backward()
    opt.step()  # a call may still come
    with pytest.warns(GraphWarning, match="was not called before the step"):
        opt.step()
    other = network()
    opt = GMNOptimizer(other.parameters(), weights=rule, example_inputs=torch.randn(2, 4))
    other.forward(torch.randn(2, 4)).sum().backward()
    opt.step()
    assert len(opt.graphs[0].spaces) == 1


def test_training_mode_buffers_and_randomness_are_untouched(rule: LearnedRule) -> None:
    def run(with_opt: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        opt = GMNOptimizer(model.parameters(), lr=0.0, weights=rule) if with_opt else None
        for x, _ in batches(3):
            loss = model(x).sum()
            loss.backward()
            if opt is not None:
                opt.step()
        assert model.training
        return loss.detach(), model.get_buffer("1.running_mean")

    for a, b in zip(run(False), run(True), strict=True):
        assert torch.equal(a, b)
