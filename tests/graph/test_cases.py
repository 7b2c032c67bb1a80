"""Every model of the case table: its graph is whole, and its symmetries change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.graph.draw.table import table
from gmn_opt.graph.symmetry import Symmetry
from gmn_opt.graph.verify import TOLERANCE, Checker, repair
from tests.cases import BY_NAME, CASES, Case
from tests.graph.graphs import SPREAD

NAMES = [c.name for c in CASES]
HONEST = [c.name for c in CASES if "adversarial" not in c.tags]


@cache
def made(name: str) -> tuple[Case, nn.Module, tuple[Any, ...], ParameterGraph]:
    case = BY_NAME[name]
    model, inputs = case.make()
    return case, model, inputs, trace(model, *inputs)


@cache
def checker_of(name: str) -> Checker:
    """Its outputs do not depend on what it was asked before."""
    _, model, inputs, _ = made(name)
    return Checker(model, inputs, {}, seed=5)


def values(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    """Distinct numbers in the shapes of a model's parameters and running statistics."""
    g = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(v.shape, generator=g, dtype=torch.float64)
        for k, v in model.state_dict().items()
        if v.is_floating_point()
    }


@pytest.mark.parametrize("name", NAMES)
def test_symmetries_leave_the_outputs_as_they_are(name: str) -> None:
    graph, checker = made(name)[-1], checker_of(name)
    assert checker.repeats()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        assert checker.change(graph.random_symmetry(generator)) < 1e-9


@pytest.mark.parametrize("name", HONEST)
def test_rules_alone_find_what_the_check_confirms(name: str) -> None:
    """Outside of the traps, the numerical check has nothing to repair."""
    _, model, inputs, graph = made(name)
    assert trace(model, *inputs, verify=False) == graph


@pytest.mark.parametrize("name", [c.name for c in CASES if c.spaces is not None])
def test_number_of_spaces(name: str) -> None:
    case, _, _, graph = made(name)
    assert len(graph.spaces) == case.spaces, str(graph)


@pytest.mark.parametrize("name", HONEST)
def test_leaving_a_tensor_behind_breaks_the_outputs(name: str) -> None:
    """The check has power: each tensor of a space matters, unless it is known to be inert."""
    case, _, _, graph = made(name)
    checker = checker_of(name)
    generator = torch.Generator().manual_seed(3)
    for space in graph.spaces:
        symmetry = moving(graph, space.id, generator)
        before = {**checker.plain, **checker.drawn}
        moved = symmetry.apply(before)
        along = tensors_along(graph, space.id)
        for tensor in along:
            # A single tensor's order alone may not matter (latents that are averaged).
            if tensor in case.inert or len(along) == 1:
                continue
            state = {**moved, tensor: before[tensor]}
            change = checker._change(checker._outputs(state))
            assert change > 1e-7, f"{tensor} may be left behind along {space}"


def moving(graph: ParameterGraph, space: int, generator: torch.Generator) -> Symmetry:
    """A symmetry of one space in which every row of its permutations moves something."""
    return Symmetry.random(graph, generator, moving=True).only(space)


#: Fixed by caution, though any order of theirs would do, by name and size of the index set: tensors
#: that such a model does not use (``gain``, ``codes``), channels that are read out of sight yet
#: move as a whole, rows of a codebook of which the nearest is taken, two halves that are summed.
IN_VAIN = {
    "trap_weight_data": {("gain", 6), ("codes", 5), ("codes", 6), ("a", 6)},
    "trap_argmax_embedding": {("a", 6)},
    "trap_list_of_data": {("a", 6)},
    "trap_vq_codebook": {("codes", 5)},
    "trap_two_views": {("a", 2)},
}
UNREAD = "not read by the traced pass"


def checkers(name: str) -> Iterator[Checker]:
    """The usual one, and then some on other inputs, on which another branch may be taken."""
    yield checker_of(name)
    _, model, inputs, _ = made(name)
    for seed in range(4):
        torch.manual_seed(seed)
        drawn = tuple(torch.randn_like(x) if x.is_floating_point() else x for x in inputs)
        yield Checker(model, drawn, {}, seed=seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrongly_freed_axis_is_caught(name: str) -> None:
    """The check has power: every axis that is fixed for a reason changes the outputs when moved.

    But for those that are known to be fixed in vain, of which none does.
    """
    graph = made(name)[-1]
    generator = torch.Generator().manual_seed(4)
    used = {f for b in graph.blocks for dim in b.dims for f in dim}
    tried, vain = 0, set()
    for factor in graph.factors:
        if factor.id not in used or factor.size < 2 or factor.fixed in (None, UNREAD):
            continue
        tried += 1
        factors = tuple(replace(f, fixed=None) if f is factor else f for f in graph.factors)
        freed = replace(graph, factors=factors)
        changes = (c.change(moving(freed, factor.id, generator)) for c in checkers(name))
        if not any(change > TOLERANCE for change in changes):
            vain.add((factor.name, factor.size))
    assert vain == IN_VAIN.get(name, set())
    assert tried or all(1 in shape for shape in graph.shapes.values() if len(shape) > 1)


def tensors_along(graph: ParameterGraph, space: int) -> list[str]:
    blocks = (*graph.blocks, *graph.buffer_blocks)
    return list(dict.fromkeys(b.tensor for b in blocks if any(space in d for d in b.dims)))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_tile_every_parameter(name: str) -> None:
    _, model, _, graph = made(name)
    counts = {n: torch.zeros(p.shape, dtype=torch.int) for n, p in model.named_parameters()}
    for block in graph.blocks:
        if block.index:
            counts[block.tensor][np.ix_(*block.index)] += 1
        else:
            counts[block.tensor] += 1
    assert all((c == 1).all() for c in counts.values())
    assert graph.shapes == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert 0 <= graph.coverage() <= 1
    for name_, reasons in graph.fixed_reasons.items():
        assert len(reasons) == len(graph.shapes[name_])


@pytest.mark.parametrize("name", NAMES)
def test_parallel_edges_are_told_apart_by_fixed_positions_only(name: str) -> None:
    """A kernel position is a feature of an edge, so a permutation must never move it."""
    graph = made(name)[-1]
    for block in graph.blocks:
        for dim, roles in zip(block.dims, block.roles, strict=True):
            for factor, role in zip(dim, roles, strict=True):
                assert role != "kernel" or not graph.factors[factor].is_free, (block, str(graph))


@pytest.mark.parametrize("name", SPREAD)
def test_json_round_trip(name: str) -> None:
    graph = made(name)[-1]
    assert ParameterGraph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize("name", HONEST)
def test_permutations_form_a_group(name: str) -> None:
    _, model, _, graph = made(name)
    generator = torch.Generator().manual_seed(2)
    a, b, c = (graph.random_symmetry(generator) for _ in range(3))
    state = values(model)

    def same(x: dict[str, Tensor], y: dict[str, Tensor]) -> bool:
        return all(torch.equal(x[k], y[k]) for k in state)

    assert same((a @ b).apply(state), a.apply(b.apply(state)))
    assert same(((a @ b) @ c).apply(state), (a @ (b @ c)).apply(state))
    assert same(a.inverse().apply(a.apply(state)), state)
    assert same(a.apply(a.inverse().apply(state)), state)
    assert same((a @ a.inverse()).apply(state), state)
    assert same((a @ b).inverse().apply(state), (b.inverse() @ a.inverse()).apply(state))
    if graph.spaces:
        assert not same(a.apply(state), state) or prod(s.size for s in graph.spaces) <= 8


@pytest.mark.parametrize("name", SPREAD)
def test_contraction_keeps_the_edges(name: str) -> None:
    graph = made(name)[-1]
    small = graph.contract()
    assert len(small.groups) <= len(graph.groups)
    for link in small.links:
        a, b = (small.groups[g].factors for g in (link.src, link.dst))
        assert link.kind != "residual" or a != b
    assert [b.dims for b in small.blocks] == [b.dims for b in graph.blocks]
    assert small.spaces == graph.spaces


@pytest.mark.parametrize("name", HONEST)
def test_every_group_has_an_edge(name: str) -> None:
    graph = made(name)[-1]
    used = {end for b in (*graph.blocks, *graph.buffer_blocks) for end in (b.src, b.dst)}
    assert used == {g.id for g in graph.groups}


COVERED = [n for n in HONEST if BY_NAME[n].spaces and "partial" not in BY_NAME[n].tags]


@pytest.mark.parametrize("name", COVERED)
def test_coverage_is_high(name: str) -> None:
    assert made(name)[-1].coverage() > 0.85


@pytest.mark.parametrize("name", SPREAD)
def test_the_table_fits_the_terminal(name: str) -> None:
    text = table(made(name)[-1], width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "coverage" in text


@pytest.mark.parametrize("name", ["mlp", "cnn_1d", "attention_gqa"])
def test_repair_takes_back_what_is_wrong(name: str) -> None:
    """All axes freed at once: what comes back is at most what the rules found, and holds."""
    _, model, inputs, graph = made(name)
    wild = replace(graph, factors=tuple(replace(f, fixed=None) for f in graph.factors))
    mended = repair(wild, model, inputs, {})
    kept = {f.id for f in mended.spaces}
    assert kept == {f.id for f in graph.spaces}
    assert mended.verify(model, *inputs) < 1e-9
