"""The rule before learning: Muon on matrices, Adam on the rest, by role."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from gmn_opt import trace
from gmn_opt.inr import Siren, SirenConfig
from gmn_opt.metanet import blocked
from gmn_opt.optim import LearnedRule
from gmn_opt.optim.base import (
    ADAM_STEP,
    KERNEL_DECAY,
    LATE_FALL,
    MATRIX_DECAY,
    MATRIX_REACH,
    MATRIX_STEP,
    OUTPUT_DECAY,
    SHORTEST,
    SINE_REACH,
    SINE_SHORTEST,
    base_constants,
    schedule,
)
from tests.cases import CASES
from tests.optim.named import NamedState, named_step
from tests.optim.test_orthogonalize import plain_damped
from tests.traced import random_tensors, traced

FAST, SECOND = 0.9, 0.99


class Tied(nn.Module):
    """Token and position tables, one hidden layer, and the token table again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(11, 6)
        self.place = nn.Embedding(5, 6)
        self.hidden = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.token(x) + self.place(torch.arange(x.shape[1]))
        return self.norm(torch.relu(self.hidden(h))) @ self.token.weight.T


def orthogonal_by_tensor(model: nn.Module, *inputs: Tensor) -> dict[str, bool]:
    """Which tensors the base orthogonalizes."""
    layout = blocked(trace(model, *inputs).contract())
    flags = base_constants(layout, torch.zeros(1)).is_orthogonal.tolist()
    return {b.block.tensor: flag for b, flag in zip(layout.blocks, flags, strict=True)}


def test_hidden_matrices_and_kernels_are_orthogonalized_and_nothing_else() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    found = orthogonal_by_tensor(model, torch.randn(2, 1, 6, 6))
    assert {n for n, flag in found.items() if flag} == {"0.weight", "3.weight", "6.weight"}


def test_a_table_that_is_the_output_layer_as_well_takes_the_careful_step() -> None:
    found = orthogonal_by_tensor(Tied(), torch.randint(11, (2, 5)))
    assert {n for n, flag in found.items() if flag} == {"hidden.weight"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_thin_matrices_take_the_adam_step(shape: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Linear(shape[1], shape[0]), nn.Tanh(), nn.Linear(shape[0], 2))
    assert not any(orthogonal_by_tensor(model, torch.randn(3, shape[1])).values())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_case_model_has_a_base(case: object) -> None:
    graph = traced(case.name, contracted=True)[1]  # type: ignore[attr-defined]
    base = base_constants(blocked(graph), torch.zeros(1))
    assert base.roles.any(-1).all()
    assert torch.isfinite(base.sizes).all()
    assert (base.sizes > 0).all()


def test_it_equals_muon_and_adam_written_out() -> None:
    """An MLP, thirty steps, tensor by tensor without any package code."""
    graph = traced("mlp", contracted=True)[1]
    rule = LearnedRule().double().requires_grad_(False)
    params = random_tensors(graph, seed=1)
    state = NamedState.initial(rule, params)
    first, *_, last = sorted(n for n, shape in graph.shapes.items() if len(shape) == 2)
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in params.items()}
    horizon = 40
    for step in range(30):
        grads = random_tensors(graph, seed=2 + step)
        delta, state = named_step(rule, graph, params, grads, state, horizon)
        early = late = min((step + 1) / 2, 1.0)  # five percent of the run
        if step >= 2:
            early = 1 - (step - 2) / (horizon - 2)
            late = min(1.0, early / 0.7)
        for name, g in grads.items():
            m, v = moments[name]
            m, v = FAST * m + (1 - FAST) * g, SECOND * v + (1 - SECOND) * g.square()
            moments[name] = m, v
            ahead = FAST * m / (1 - FAST ** (step + 1)) + (1 - FAST) * g
            factor = late
            if g.dim() == 2 and name != last:
                factor = early
                rows, columns = g.shape
                taller = 1.0 if name == first else max(1.0, rows / columns)
                expected = MATRIX_STEP * math.sqrt(taller) * plain_damped(ahead)
                reach = MATRIX_REACH * params[name].norm() / math.sqrt(min(rows, columns))
                assert reach > MATRIX_STEP * math.sqrt(taller), "the trust ratio is another test's"
                expected += MATRIX_DECAY * MATRIX_STEP * math.sqrt(taller) * params[name]
            else:
                expected = ADAM_STEP * ahead / (v / (1 - SECOND ** (step + 1))).sqrt()
                if name == last:
                    expected += OUTPUT_DECAY * ADAM_STEP * params[name]
            assert torch.allclose(-delta[name], factor * expected, rtol=1e-7, atol=1e-10)


def test_no_matrix_moves_by_more_than_a_share_of_itself() -> None:
    """Weights of any size: the step follows them down, and no further than to a fifth."""
    model = nn.Sequential(
        nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 2)
    )
    layout = blocked(trace(model, torch.randn(2, 40), verify=False).contract())
    base = base_constants(layout, torch.zeros(1, dtype=torch.float64))
    for size in (0.0, 1e-4, 0.01, 0.05, 0.1, 1.0):
        found = base.trusted(torch.full((len(layout.blocks),), size, dtype=torch.float64))
        for block, full, given in zip(layout.blocks, base.sizes, found, strict=True):
            if block.block.tensor not in ("0.weight", "2.weight"):
                assert given == full
                continue
            # the singular values of a square matrix whose entries are +-size, as a mean square
            longest = MATRIX_REACH * size * math.sqrt(40)
            assert given == pytest.approx(float(full) * min(1.0, max(SHORTEST, longest / full)))


class Waves(nn.Module):
    """A sine of a scaled layer, one with a residual, and a layer before what is no sine."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 6), nn.Linear(6, 6)
        self.third, self.last = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sin(30 * self.first(x))
        x = x + torch.sin(self.second(x))
        return self.last(torch.tanh(self.third(x)))


class Cosines(nn.Module):
    """Random features that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(2, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x).cos())


@pytest.mark.parametrize(
    ("model", "sines"),
    [
        (Waves(), {"first.weight", "second.weight"}),
        (Siren(SirenConfig(2, 1, (6, 6))), {"layers.0.weight", "layers.1.weight"}),
        (Cosines(), {"layer.weight"}),
        (nn.Sequential(nn.Linear(2, 6), nn.GELU(), nn.Linear(6, 1)), set()),
    ],
)
def test_before_a_sine_steps_are_shorter(model: nn.Module, sines: set[str]) -> None:
    layout = blocked(trace(model, torch.randn(5, 2), verify=False).contract())
    base = base_constants(layout, torch.zeros(1, dtype=torch.float64))
    for size in (0.0, 0.02, 10.0):
        found = base.trusted(torch.full((len(layout.blocks),), size, dtype=torch.float64))
        for i in base.orthogonal:
            block, full = layout.blocks[i], float(base.sizes[i])
            is_sine = block.block.tensor in sines
            reach = SINE_REACH if is_sine else MATRIX_REACH
            least = SINE_SHORTEST if is_sine else SHORTEST
            longest = reach * size * math.sqrt(max(block.dst.size, block.fan_in))
            assert found[i] == pytest.approx(min(full, max(least * full, longest)))


class Joined(nn.Module):
    """A kernel, norms, a hidden layer and an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)
        self.hidden, self.last = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(torch.relu(self.norm(self.kernel(x))).flatten(1))))


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        (
            Joined().eval(),
            torch.randn(2, 3, 4),
            {"kernel.weight": KERNEL_DECAY, "hidden.weight": MATRIX_DECAY,
             "last.weight": OUTPUT_DECAY},
        ),
        (Tied(), torch.randint(11, (2, 5)), {"hidden.weight": MATRIX_DECAY}),
        (Waves(), torch.randn(5, 2), {}),
        (Siren(SirenConfig(2, 3, (6, 6))), torch.randn(5, 2), {}),
        (nn.Linear(1, 1), torch.randn(5, 1), {}),
        (nn.Linear(4, 3), torch.randn(5, 4), {"weight": OUTPUT_DECAY}),
    ],
    ids=["conv", "tied", "waves", "siren", "number", "logistic"],
)  # fmt: skip
def test_matrices_decay_and_nothing_else(
    model: nn.Module, given: Tensor, expected: dict[str, float]
) -> None:
    layout = blocked(trace(model, given, verify=False).contract())
    decays = base_constants(layout, torch.zeros(1, dtype=torch.float64)).decays.tolist()
    found = {b.block.tensor: d for b, d in zip(layout.blocks, decays, strict=True) if d}
    assert found == expected


@pytest.mark.parametrize(("width", "share"), [(64, 1.0), (128, 1.0), (256, 0.5), (4096, 1 / 3)])
def test_the_output_layer_of_a_wide_network_takes_smaller_steps(width: int, share: float) -> None:
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))
    layout = blocked(trace(model, torch.randn(2, 3), verify=False).contract())
    sizes = base_constants(layout, torch.zeros(1)).sizes.tolist()
    by_name = {b.block.tensor: size for b, size in zip(layout.blocks, sizes, strict=True)}
    assert by_name["2.weight"] == pytest.approx(share * ADAM_STEP)
    assert by_name["0.bias"] == pytest.approx(ADAM_STEP)
    assert by_name["0.weight"] == pytest.approx(MATRIX_STEP)


def test_the_schedule_warms_up_and_comes_down() -> None:
    known = [schedule(step, 200) for step in range(200)]
    assert known[0] == pytest.approx(0.1)
    assert max(known) == pytest.approx(1.0)
    assert known.index(max(known)) in (9, 10)
    assert known[-1] < 0.01
    assert schedule(500, 200) == pytest.approx(0.0)
    assert all(a >= b for a, b in itertools.pairwise(known[10:]))
    assert schedule(0, 1) > 0


def test_a_late_fall_stays_at_the_peak_and_ends_at_zero_as_well() -> None:
    early, late = ([schedule(step, 200, fall) for step in range(201)] for fall in (1.0, 0.7))
    assert late[:10] == early[:10]
    assert late[10:67] == [1.0] * 57  # 30 % of the 190 steps after the warmup
    assert all(a > b for a, b in itertools.pairwise(late[67:]))
    assert late[105] == pytest.approx(early[105] / 0.7)
    assert late[200] == early[200] == 0.0
    assert schedule(123, None, 0.7) == schedule(123, None)


@pytest.mark.parametrize(
    ("model", "given", "early"),
    [
        (Joined().eval(), torch.randn(2, 3, 4), {"hidden.weight"}),
        (Tied(), torch.randint(11, (2, 5)), {"hidden.weight"}),
        (
            Siren(SirenConfig(2, 3, (6, 6))),
            torch.randn(5, 2),
            {"layers.0.weight", "layers.1.weight"},
        ),
        (nn.Linear(4, 3), torch.randn(5, 4), set()),
    ],
    ids=["conv", "tied", "siren", "logistic"],
)
def test_only_dense_matrices_fall_from_the_warmup_on(
    model: nn.Module, given: Tensor, early: set[str]
) -> None:
    layout = blocked(trace(model, given, verify=False).contract())
    constants = base_constants(layout, torch.zeros(1))
    middle = dict(
        zip((b.block.tensor for b in layout.blocks), constants.schedules(105, 200), strict=True)
    )
    assert {name for name, factor in middle.items() if factor == schedule(105, 200)} == early
    assert {middle[name] for name in middle.keys() - early} <= {schedule(105, 200, LATE_FALL)}
    assert set(constants.schedules(105, None)) == {schedule(105, None)}


def test_the_open_schedule_never_ends() -> None:
    open_ended = [schedule(step, None) for step in range(3000)]
    assert open_ended[0] == pytest.approx(1 / 20)
    assert all(a >= b for a, b in itertools.pairwise(open_ended[20:]))
    assert 0.15 < open_ended[-1] < 0.25
