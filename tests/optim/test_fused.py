"""Steps between two thoughts give the numbers of the reference, and leave alone what they may."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gmn_opt import GMNOptimizer
from gmn_opt.metanet.native import kernel
from gmn_opt.metanet.native.parts import PART
from gmn_opt.optim import LearnedRule, RuleConfig, fused, optimizer
from tests.cases import BY_NAME

#: A dense net, kernels, norms, packed attention, tied weights, stacked experts, a gate.
MODELS = ("mlp", "cnn_batch_norm", "resnet", "attention_packed", "gpt_tied", "stacked_experts")


@pytest.fixture
def rule() -> LearnedRule:
    """A rule that uses all of its directions."""
    torch.manual_seed(3)
    made = LearnedRule(RuleConfig(8, 2, 1, every=4, mixture="all")).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made.requires_grad_(False)


def trained(model: nn.Module, inputs: tuple[Any, ...], rule: LearnedRule, **kwargs: Any) -> Any:
    """The optimizer and the weights after some steps on random gradients."""
    opt = GMNOptimizer(
        model.parameters(), model=model, example_inputs=inputs, weights=rule, **kwargs
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(11):
        for p in model.parameters():
            if p.requires_grad:
                p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        opt.step()
    moments = [m for s in opt.state.values() for n, m in s.items() if n != "step"]
    return opt, [p.detach() for p in model.parameters()], moments


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each fused step was given."""
    calls: list[int] = []

    def advance(layout: Any, thought: Tensor, tensors: Any, *rest: Any) -> dict[str, Tensor]:
        calls.append(len(tensors))
        return fused.advance(layout, thought, tensors, *rest)

    monkeypatch.setattr(optimizer, "advance", advance)
    return calls


@pytest.mark.parametrize(("horizon", "compiled"), [(None, True), (30, True), (30, False)])
@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_are_the_references(
    name: str,
    horizon: int | None,
    compiled: bool,
    rule: LearnedRule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not compiled:
        monkeypatch.setattr(fused, "kernel", lambda: None)
    model, inputs = BY_NAME[name].make()
    doubled = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    calls = counted(monkeypatch)
    _, fast, fast_moments = trained(
        model.double(), doubled, rule, total_steps=horizon, weight_decay=0.1
    )
    assert len(calls) == 6, "steps 3, 5, 6, 7, 9 and 10 come between two thoughts"
    monkeypatch.setattr(optimizer, "is_sliced", lambda layout: False)
    again, _ = BY_NAME[name].make()
    _, slow, slow_moments = trained(
        again.double(), doubled, rule, total_steps=horizon, weight_decay=0.1
    )
    assert len(calls) == 6
    for a, b in zip(fast + fast_moments, slow + slow_moments, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_frozen_tensors_are_no_part_of_it(
    rule: LearnedRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = BY_NAME["mlp"].make()
    first = next(iter(model.parameters())).requires_grad_(False)
    before, calls = first.clone(), counted(monkeypatch)
    trained(model, inputs, rule.float())
    assert set(calls) == {len(list(model.parameters())) - 1}
    assert torch.equal(first, before)


def test_half_precision_weights_are_rounded_once(
    rule: LearnedRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments stay float32, and the weights are within half a unit of the float32 reference."""
    model, inputs = BY_NAME["mlp"].make()
    halves = tuple(x.bfloat16() for x in inputs)
    calls = counted(monkeypatch)
    opt, weights, moments = trained(model.bfloat16(), halves, rule.float())
    assert calls
    assert {m.dtype for m in moments} == {torch.float32}
    assert all(w.dtype == torch.bfloat16 and w.isfinite().all() for w in weights)
    assert opt.graphs


@pytest.mark.skipif(kernel() is None, reason="needs the native kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_native_pass_is_torchs(
    dtype: torch.dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = kernel()
    assert native is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(1)
    count = 2 * PART + 13
    value, grad, *moments = torch.randn(5, count, generator=generator, dtype=dtype).unbind(0)
    moments[2].abs_()
    before = [m.clone() for m in moments]
    row, bias = [0.3, -0.2, 0.5, 0.7, 0.0], [2.0, 3.0, 4.0]
    piece = fused._Piece(0, value, grad, before, torch.zeros_like(grad))
    (look,) = fused._advance_plain([piece], [row], bias)
    ahead, delta = torch.empty_like(grad), torch.empty_like(grad)
    arrays = [value, grad, *moments, ahead, delta]
    assert native.step.serves(arrays)
    native.step.advance([(arrays, fused._factors(row, bias))])
    pairs = zip([*moments, ahead, delta], [*before, look, piece.delta], strict=True)
    for made, expected in pairs:
        torch.testing.assert_close(made, expected)


def test_pieces_side_by_side_are_those_one_by_one() -> None:
    """Some directions rest in some pieces: they are left out there, and only there."""
    generator = torch.Generator().manual_seed(2)
    rows = [[0.3, 0.0, 0.5, 0.7, 0.1], [0.0, 0.2, 1.0, 0.0, 0.0], [0.1, 0.1, 0.0, 0.0, 0.2]]

    def pieces() -> list[fused._Piece]:
        generator.manual_seed(2)
        made = []
        for size in (7, 1, 12):
            value, grad, *moments = torch.randn(5, size, generator=generator).double().unbind(0)
            moments[2].abs_()
            made.append(fused._Piece(0, value, grad, moments, torch.zeros_like(grad)))
        return made

    together, alone = pieces(), pieces()
    looks = fused._advance_plain(together, rows, [2.0, 3.0, 4.0])
    for piece, other, look, row in zip(together, alone, looks, rows, strict=True):
        (expected,) = fused._advance_plain([other], [row], [2.0, 3.0, 4.0])
        torch.testing.assert_close(look, expected, rtol=0, atol=0)
        torch.testing.assert_close(piece.delta, other.delta, rtol=0, atol=0)
        for mine, theirs in zip(piece.moments, other.moments, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.skipif(kernel() is None, reason="needs the native kernel")
def test_native_pieces_side_by_side_are_those_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two dtypes, small ones and one that is worth two threads."""
    native = kernel()
    assert native is not None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    generator = torch.Generator().manual_seed(3)
    together, alone = [], []
    for number, size in enumerate((5, 2 * PART + 1, 0, 64, 1)):
        dtype = (torch.float32, torch.float64)[number % 2]
        arrays = list(torch.rand(7, size, generator=generator, dtype=dtype).unbind(0))
        factors = torch.rand(11, generator=generator).tolist()
        together.append((arrays, factors))
        alone.append(([a.clone() for a in arrays], factors))
    native.step.advance(together)
    for (made, _), (expected, factors) in zip(together, alone, strict=True):
        native.step.advance([(expected, factors)])
        for a, b in zip(made, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    native.step.advance([])


@pytest.mark.skipif(kernel() is None, reason="needs the native kernel")
def test_weights_that_play_no_part_may_be_infinite() -> None:
    native = kernel()
    assert native is not None
    value = torch.full((5,), float("inf"))
    arrays = [value, *(torch.ones(5) for _ in range(6))]
    factors = fused._factors([0.0, 0.1, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    native.step.advance([(arrays, factors)])
    assert arrays[-1].isfinite().all()


def test_what_is_not_contiguous_is_left_to_torch() -> None:
    native = kernel()
    if native is not None:
        assert not native.step.serves([torch.ones(4, 4).mT[:2], torch.ones(2, 4)])
