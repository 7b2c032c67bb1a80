"""Check a graph's symmetries on the real model, in float64, and drop those that fail.

The check runs on a deep copy in evaluation mode whose parameters and running statistics are drawn
anew: norm scales of one, zero biases and tiny initial weights would hide a wrong symmetry. Casts
to lower precision inside of the model are raised to float64, so that the error of a correct
symmetry is only that of summing in another order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gmn_opt.graph.calls import (
    Call,
    Exchange,
    copy_inputs,
    double_copy,
    mode_matters,
    tensors_in,
    undisturbed,
)
from gmn_opt.graph.results import results_of
from gmn_opt.graph.structure import BlockGraph, Factor
from gmn_opt.graph.symmetry import Symmetry

TOLERANCE = 1e-7
G = TypeVar("G", bound=BlockGraph)
_HIGH = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_SEED = 20231204


class _Double(TorchDispatchMode):
    """Raise every request for a lower floating-point precision to float64."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _HIGH:
            kwargs["dtype"] = _HIGH[kwargs["dtype"]]
        if func is torch.ops.aten._grouped_mm.default and args[0].dtype == torch.float64:
            return _grouped_mm(*args, **kwargs)
        return func(*args, **kwargs)


def _grouped_mm(
    a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, **_: Any
) -> Tensor:
    """The products of consecutive rows with one matrix each, where the kernel has no float64."""
    if a.dim() != 2 or b.dim() != 3 or offs is None or bias is not None:
        raise NotImplementedError("this form of grouped_mm has no float64 version")
    rows = a.tensor_split(offs.cpu().long()[:-1])
    return torch.cat([x @ w for x, w in zip(rows, b, strict=True)])


class Run(NamedTuple):
    """One call of the checked copy: inputs, modules that change places, and the mode."""

    inputs: Any
    exchange: Exchange
    training: bool = False


class Checker:
    """A randomized float64 copy of a model, and its outputs on two sets of inputs.

    A model whose code asks for the mode is run in training mode too, if it is deterministic there.

    Raises:
        ValueError: If the outputs hold nothing to compare.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        seed: int = _SEED,
        more: Sequence[Call] = (),
        swaps: Sequence[Exchange] = (),
        every: bool = False,
        modes: bool | None = None,
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        self.every = every
        with undisturbed(model):
            self.model = double_copy(model)
        first = copy_inputs((args, kwargs), double=True)
        further = [copy_inputs(call, double=True) for call in more]
        self.inputs = [first, self._other(first), *further]
        self.runs = [Run(inputs, {}) for inputs in self.inputs]
        self.runs += [Run(inputs, swapped) for swapped in swaps for inputs in self.inputs[:2]]
        self.plain = {k: v.detach().clone() for k, v in self._tensors()}
        self.drawn: dict[str, Tensor] = {}
        self.reference: list[list[Tensor]] = []
        self.again: dict[int, bool] = {}
        for gentle in (False, True):
            self._write(self._draw(gentle))
            # Of tensors that share memory, the last one written counts.
            self.drawn = {k: v.detach().clone() for k, v in self._tensors() if _has_numbers(v)}
            self.reference = self._outputs(self.drawn)
            if all(torch.isfinite(x).all() for out in self.reference for x in out):
                break
        if mode_matters(model) if modes is None else modes:
            self._add_training()
        if not any(torch.isfinite(x).any() for out in self.reference for x in out):
            raise ValueError(
                f"{type(model).__name__} gave no finite number on these inputs, so there is "
                "nothing to compare. Pass inputs that are not empty, on which it is finite."
            )

    def _add_training(self) -> None:
        """Runs in training mode, where they can be had and are not random."""
        runs = [Run(inputs, {}, True) for inputs in self.inputs[:2]]
        try:
            found = [self._outputs_of(runs, seed) for seed in (self.seed, self.seed + 1)]
        except Exception:  # a batch too small for training, targets that are not there
            return
        if largest_change(*found) == 0.0:
            self.runs += runs
            self.reference += found[0]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.model.named_parameters()
        yield from self.model.named_buffers()

    def _other(self, value: Any) -> Any:
        """A second set of inputs: other numbers in floating-point tensors."""
        again = copy_inputs(value)
        for t in tensors_in(again):
            if _has_numbers(t) and t.numel():
                noise = torch.randn(t.shape, generator=self.generator, dtype=t.dtype)
                spread = float(t.std()) if t.numel() > 1 else 1.0
                t.copy_(t * 0.5 + noise * (spread or 1.0))
        return again

    def _draw(self, gentle: bool) -> dict[str, Tensor]:
        """New values for all parameters and running statistics."""
        out: dict[str, Tensor] = {}
        parameters = {name for name, _ in self.model.named_parameters()}
        for name, old in self.plain.items():
            leaf = name.rpartition(".")[2]
            if not _has_numbers(old):
                continue
            noise = torch.randn(old.shape, generator=self.generator, dtype=old.dtype)
            if leaf == "running_var":
                out[name] = 0.5 + torch.rand(old.shape, generator=self.generator).double()
            elif leaf == "running_mean":
                out[name] = 0.3 * noise
            elif name in parameters:
                spread = float(old.std()) if old.numel() > 1 else 0.0
                center = old.mean() if old.numel() else 0.0
                if gentle:
                    out[name] = old + 0.1 * (spread + 0.1) * noise
                elif old.dim() < 2:
                    out[name] = center + 0.3 * noise
                else:
                    fan_in = max(1, prod(old.shape[1:]))
                    scale = max(spread, 0.7 / math.sqrt(fan_in))
                    out[name] = center + min(scale, 1.0) * noise
        return out

    def _write(self, tensors: dict[str, Tensor]) -> None:
        state = {k: v for k, v in self.plain.items() if k not in tensors} | tensors
        with torch.no_grad():
            for name, target in self._tensors():
                if 0 in target.stride():  # expanded: its elements have no memory of their own
                    target.data = state[name].clone()
                else:
                    target.copy_(state[name])

    def _outputs(self, tensors: dict[str, Tensor]) -> list[list[Tensor]]:
        self._write(tensors)
        return self._outputs_of(self.runs, self.seed)

    def _outputs_of(self, runs: Sequence[Run], seed: int) -> list[list[Tensor]]:
        found = []
        for run in runs:
            inputs, exchange, training = run
            args, kwargs = copy_inputs(inputs)
            with (
                undisturbed(self.model) as memory,
                default_double(),
                exchanged(self.model, exchange),
            ):
                self.model.train(training)
                memory.begin()
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                with _Double():
                    out = self.model(*args, **kwargs)
                    results = results_of(out, self.model, memory.stored, self.every)
                    numbers = results.every()
                    # The next call may do something else. What the first model does counts: it is
                    # the one that was traced, and another may only have had to set itself up.
                    if self.again.setdefault(id(run), memory.changed()):
                        args, kwargs = copy_inputs(inputs)
                        out = self.model(*args, **kwargs)
                        results = results_of(out, self.model, memory.stored, self.every)
                        numbers += results.every()
                found.append(numbers)
        return found

    def repeats(self) -> bool:
        """Whether the model gives the same outputs twice."""
        return self._change(self._outputs(self.drawn)) == 0.0

    def change(self, symmetry: Symmetry) -> float:
        """Largest relative change of any output under a symmetry."""
        return self._change(self._outputs(symmetry.apply({**self.plain, **self.drawn})))

    def _change(self, outputs: list[list[Tensor]]) -> float:
        return largest_change(self.reference, outputs)


def _has_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def largest_change(reference: list[list[Tensor]], outputs: list[list[Tensor]]) -> float:
    """Largest relative change of any tensor; infinite where the numbers are of another kind."""
    worst = 0.0
    for before, after in zip(reference, outputs, strict=True):
        if len(before) != len(after):
            return math.inf
        for x, y in zip(before, after, strict=True):
            if x.shape != y.shape:
                return math.inf
            if x.numel() == 0:
                continue
            if not _has_numbers(x):
                worst = max(worst, 0.0 if torch.equal(x, y) else math.inf)
                continue
            finite = torch.isfinite(x)
            if not torch.equal(finite, torch.isfinite(y)):
                return math.inf
            if finite.any():
                difference = (x - y)[finite].abs().max()
                worst = max(worst, float(difference / (x[finite].abs().max() + 1e-30)))
    return worst


@contextmanager
def exchanged(model: nn.Module, exchange: Exchange) -> Iterator[None]:
    """Some modules in the places of others, and those in theirs."""
    found = {path: model.get_submodule(path) for pair in exchange.items() for path in pair}
    places = {**exchange, **{b: a for a, b in exchange.items()}}
    for path, module in found.items():
        model.set_submodule(places[path], module)
    try:
        yield
    finally:
        for path, module in found.items():
            model.set_submodule(path, module)


@contextmanager
def default_double() -> Iterator[None]:
    """float64 as the default type of new tensors."""
    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(old)


def verify(
    graph: BlockGraph,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    symmetries: int = 2,
) -> float:
    """Largest relative change of the outputs over rounds of symmetries; see ``graph.verify``."""
    checker = Checker(model, args, kwargs)
    return max(map(checker.change, trials(graph, checker.generator, symmetries)), default=0.0)


def trials(graph: BlockGraph, generator: torch.Generator, rounds: int = 1) -> Iterator[Symmetry]:
    """Symmetries by which a graph is judged, three per round.

    One is uniform. The other two move every space, one half of them each: a uniform draw leaves
    half of the pairs where they are, and a graph that is wrong because two spaces ought to be one
    would pass if both always moved.
    """
    spaces = [f.id for f in graph.spaces]
    for _ in range(rounds):
        yield Symmetry.random(graph, generator)
        moving = Symmetry.random(graph, generator, moving=True)
        order = torch.randperm(len(spaces), generator=generator).tolist()
        half = {spaces[k] for k in order[: len(order) // 2]}
        yield moving.only(*half)
        yield moving.only(*(set(spaces) - half))


def repair(
    graph: G,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    more: Sequence[Call] = (),
    swaps: Sequence[Exchange] = (),
    every: bool = False,
    modes: bool | None = None,
) -> G:
    """The graph with every space fixed that changes the outputs of the model.

    ``swaps`` put modules that were not read in the places of siblings.

    Raises:
        Exception: Of any kind. Some models cannot be checked: they cannot be copied, run in one
            precision only, are random in evaluation mode, or give nothing to compare.
    """
    if not graph.spaces:
        return graph
    checker = Checker(model, args, kwargs, more=more, swaps=swaps, every=every, modes=modes)
    if _holds(graph, checker):
        return graph
    if not checker.repeats():
        raise ValueError("the model gives different outputs for the same seed and inputs")
    for conditional in (True, False):
        symmetry = Symmetry.random(graph, checker.generator, moving=True)
        wrong = {
            f.id
            for f in graph.spaces
            if (f.parents or not conditional) and checker.change(symmetry.only(f.id)) > TOLERANCE
        }
        graph = _without(graph, wrong, drop=not conditional)
        if _holds(graph, checker):
            return graph
    return _without(graph, {f.id for f in graph.spaces}, drop=True)


def _holds(graph: BlockGraph, checker: Checker) -> bool:
    """Whether symmetries of a graph leave the outputs as they are."""
    return all(checker.change(s) <= TOLERANCE for s in trials(graph, checker.generator))


def _without(graph: G, wrong: set[int], drop: bool) -> G:
    """Fix spaces, or only make them unconditional."""
    reason = "permuting it changed the outputs in the numerical check"

    def change(f: Factor) -> Factor:
        if f.id not in wrong:
            return f
        return replace(f, fixed=reason, parents=()) if drop else replace(f, parents=())

    factors = tuple(change(f) for f in graph.factors)
    reasons = dict(graph.fixed_reasons)
    free = {f.id for f in factors if f.is_free}
    for block in graph.blocks:
        row = list(reasons.get(block.tensor, ("",) * len(block.dims)))
        for d, dim in enumerate(block.dims):
            if not row[d] and not free.intersection(dim):
                row[d] = reason
        reasons[block.tensor] = tuple(row)
    return replace(graph, factors=factors, fixed_reasons=reasons)
