"""``fit_generator``: flow matching in weight space.

Between noise and a network runs a straight line; the field learns its direction at a point of it
from the point and the time alone, and so the mean over all lines through the point, which carries
noise to the distribution of networks (Lipman et al. 2023, arXiv 2210.02747, with the optimal
transport path). Noise is paired up to the symmetries of the graph, see
:mod:`gmn_opt.generate.pairing`.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from gmn_opt.generate.behaviour import GAPS, Behaviour, Gap
from gmn_opt.generate.conditions import Conditions
from gmn_opt.generate.generator import Generator
from gmn_opt.generate.pairing import paired
from gmn_opt.generate.paths import MOST_ROUNDS
from gmn_opt.generate.training_set import Graphs, Networks, training_sets
from gmn_opt.generate.units import Units
from gmn_opt.generate.velocity import FieldConfig, VelocityField
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.optim import GMNOptimizer
from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.digest import digest
from gmn_opt.weights.plain import is_count

CHECKPOINT = "generator-checkpoint.pt"


@dataclass(frozen=True)
class FlowConfig:
    """How a generator is fitted.

    Attributes:
        steps: Of the optimizer.
        batch: Networks per step.
        optimizer: ``"adamw"``, or ``"gmn"`` for :class:`gmn_opt.GMNOptimizer`, which has no rate to
            tune; its step costs more.
        lr: Of AdamW: peak learning rate, after ``warmup`` of the steps; then a half cosine to 0.
        warmup: Of AdamW: share of the steps.
        clip: Largest norm of a gradient.
        average: Of the weights that are kept, an exponential moving average.
        drop: Share of networks whose condition is left out, so that it can be left out later.
        pair: Whether noise is paired with networks up to symmetries.
        shared_order: Whether the networks have their neurons in one order, as those fitted from
            one start; see :mod:`gmn_opt.generate.units`.
        rank: With ``shared_order``, noise is drawn from the Gaussian of the training networks in
            so many directions, per class where there are classes; 0 for white noise.
        neurons: Whether noise is made of neurons with the mean and covariance of those of the
            training networks; see :mod:`gmn_opt.generate.neurons`.
        balance: How much the loss makes up for the sizes of tensors: 0 counts every weight alike, 1
            every tensor.
        function: How networks are compared in what they do, as a part of the loss: ``"mse"`` of
            outputs, ``"kl"`` of logits, or None for weights alone; see
            :mod:`gmn_opt.generate.behaviour`. Needs ``model`` and ``inputs``.
        function_weight: Of that part.
        corrections: Rounds of correction that the field learns to make, at most, and that samples
            get; needs ``function``, whose part counts the more. See :meth:`Generator.sample`.
        unsure: Share of inputs that are drawn by the entropy of what networks say there on average;
            needs logits, ``function="kl"``.
        check_every: Steps between checkpoints.

    Raises ValueError for settings with which nothing could be fitted.
    """

    steps: int = 2000
    batch: int = 32
    optimizer: Literal["adamw", "gmn"] = "adamw"
    lr: float = 2e-3
    warmup: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    drop: float = 0.1
    pair: bool = True
    shared_order: bool = False
    rank: int = 0
    neurons: bool = False
    balance: float = 0.0
    function: Gap | None = None
    function_weight: float = 2.0
    corrections: int = 0
    unsure: float = 0.0
    check_every: int = 500

    def __post_init__(self) -> None:
        """See the class."""
        if min(self.steps, self.batch, self.check_every) < 1 or not self.lr > 0 or self.rank < 0:
            raise ValueError(
                f"steps, batch and check_every must be at least 1 and lr positive, received {self}."
            )
        if self.optimizer not in ("adamw", "gmn"):
            raise ValueError(f'optimizer is "adamw" or "gmn", received {self.optimizer!r}.')
        if self.rank and not self.shared_order:
            raise ValueError(
                "rank > 0 takes the covariance of networks in a shared order: set "
                "shared_order=True, or rank=0."
            )
        if self.neurons and self.shared_order:
            raise ValueError("neurons=True is for networks in no order; set shared_order=False.")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance must be from 0 to 1, received {self.balance}.")
        if self.function is not None and self.function not in GAPS:
            raise ValueError(
                f"function is one of {list(GAPS)}, or None; received {self.function!r}."
            )
        most = 0 if self.function is None else MOST_ROUNDS
        if not is_count(self.corrections, 0, most):
            raise ValueError(
                f"corrections={self.corrections} must be a whole number up to {MOST_ROUNDS:,}, and "
                "0 without function=: what is corrected is what networks do."
            )
        if not 0 <= self.unsure < 1 or (self.unsure and self.function != "kl"):
            raise ValueError(
                f'unsure={self.unsure} must be in [0, 1), and 0 unless function="kl": only logits '
                "say how sure a network is."
            )
        if not self.function_weight > 0:
            raise ValueError(f"function_weight must be positive, received {self.function_weight}.")
        if not (0 <= self.drop < 1 and 0 <= self.average < 1):
            raise ValueError(f"drop and average must be in [0, 1), received {self}.")


def fit_generator(
    networks: Networks | Sequence[Networks],
    graph: Graphs,
    *,
    conditions: Tensor | None = None,
    field: FieldConfig | None = None,
    flow: FlowConfig | None = None,
    model: nn.Module | None = None,
    example: Tensor | None = None,
    inputs: Tensor | None = None,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    stop: int | None = None,
    progress: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> Generator:
    """Fit a generator to networks.

    Args:
        networks: State dicts or modules, or stacked parameters ``{name: [N, *shape]}``. With
            several graphs, one such set per graph.
        graph: Their parameter graph, from :func:`gmn_opt.trace`; a list for several widths.
        conditions: int64 ``[N]`` classes, or floating point ``[N]`` or ``[N, k]``; of all sets one
            after the other.
        field: Sizes of the velocity field.
        flow: Settings of the fit.
        model, example: A network and inputs ``[batch, ...]``, for probes and anchors, which begin
            as these inputs; INRs need no example.
        inputs: What networks are called with where ``flow.function`` compares them, ``[n, ...]``.
        seed: Of everything random.
        out: Folder for checkpoints.
        resume: Go on with the checkpoint in ``out``.
        stop: End after so many steps, on the schedule of all of them.
        progress: Show a bar.
        on_step: Called with the number of steps done and the loss.

    Raises:
        ValueError: Networks that do not fit the graph, NaN or infinite weights, fewer than two
            networks, conditions of other shapes, a checkpoint of another fit.
        RuntimeError: The loss is no longer finite.
        ImportError: scipy is missing, which pairing needs.
    """
    sets = training_sets(networks, graph)
    run = _Run(
        sets, conditions, field or FieldConfig(), flow or FlowConfig(), seed, model, example, inputs
    )
    if resume:
        if out is None:
            raise ValueError("resume=True needs out=, the folder of the checkpoint.")
        run.restore(Path(out) / CHECKPOINT)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    end = run.flow.steps if stop is None else min(stop, run.flow.steps)
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("generator", total=end, completed=run.done)
        while run.done < end:
            loss = run.step()
            last = run.done == end
            if out is not None and (last or run.done % run.flow.check_every == 0):
                run.keep(Path(out) / CHECKPOINT)
            bar.update(task, completed=run.done, description=f"generator, loss {loss:.3f}")
            if on_step is not None:
                on_step(run.done, loss)
    return run.generator()


def shares(graph: ParameterGraph, balance: float) -> Tensor:
    """``[P]``, of mean 1: what each weight counts where a tensor counts ``size^(1 - balance)``."""
    counts = torch.tensor([float(n) for n in blocked(graph).edge_counts])
    each = counts**-balance
    each = each * counts.sum() / (counts * each).sum()
    return each.repeat_interleave(counts.long())


class _Run:
    """A fit in progress."""

    def __init__(
        self,
        sets: list[tuple[ParameterGraph, Tensor]],
        conditions: Tensor | None,
        field: FieldConfig,
        flow: FlowConfig,
        seed: int,
        model: nn.Module | None,
        example: Tensor | None,
        inputs: Tensor | None,
    ) -> None:
        if flow.shared_order and len(sets) > 1:
            raise ValueError("Networks in a shared order have one graph, received several.")
        self.sets, self.flow, self.seed = sets, flow, seed
        counts = [len(flat) for _, flat in sets]
        self.conditions = Conditions.of(conditions, sum(counts))
        known = self.conditions.encode(conditions, sum(counts))
        self.known = known.split(counts)
        labels = None
        if flow.rank and self.conditions.classes:
            labels = known[:, :-1].argmax(1)
        self.labels = labels
        units = Units.of(sets, flow.shared_order, flow.rank, labels, flow.neurons)
        self.values = [units.into(g, flat) for g, flat in sets]
        self.generator_state = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.field = VelocityField(
                field, units, self.conditions.size,
                model=model, graph=sets[0][0], example=example,
            )  # fmt: skip
        self.behaviours = self._behaviours(model, inputs) if flow.function else []
        self.average = copy.deepcopy(self.field).requires_grad_(False)
        self.optimizer: torch.optim.Optimizer
        if flow.optimizer == "gmn":
            self.optimizer = GMNOptimizer(self.field.parameters(), total_steps=flow.steps)
        else:
            self.optimizer = torch.optim.AdamW(
                self.field.parameters(), lr=flow.lr, weight_decay=0.0
            )
        self.done = 0

    def _behaviours(self, model: nn.Module | None, inputs: Tensor | None) -> list[Behaviour]:
        kind = self.flow.function
        if kind is None or model is None or inputs is None or not len(inputs):
            raise ValueError(
                f"function={kind!r} compares what networks say: pass model=, a module of the "
                "architecture, and inputs=, a tensor [n, ...] of what it reads."
            )
        units = self.field.units
        return [
            Behaviour(
                model, graph, units, values, known, self.labels, inputs, kind,
                self.flow.corrections, self.flow.unsure,
            )
            for (graph, _), values, known in zip(self.sets, self.values, self.known, strict=True)
        ]  # fmt: skip

    def step(self) -> float:
        """One step; the loss."""
        flow, random = self.flow, self.generator_state
        weights = torch.tensor([float(len(v)) for v in self.values])
        which = int(torch.multinomial(weights, 1, generator=random))
        graph, values, known = self.sets[which][0], self.values[which], self.known[which]
        chosen = torch.randint(len(values), (flow.batch,), generator=random)
        data, condition = values[chosen], known[chosen]
        labels = None if self.labels is None else self.labels[chosen]
        noise = self.field.units.noise(graph, flow.batch, random, labels)
        if flow.pair and not flow.shared_order:
            noise = self._paired(graph, noise, data)
        drop = 0.0 if self.field.classes else flow.drop  # its noise says the class anyway
        kept = torch.rand(flow.batch, 1, generator=random) >= drop
        # every part of the way in every batch
        shift = torch.rand(1, generator=random)
        time = (torch.arange(flow.batch) / flow.batch + shift) % 1
        at = noise + time.unsqueeze(1) * (data - noise)
        velocity = self.field(graph, at, time, condition * kept)
        units = self.field.units
        apart = units.colored(graph, velocity - units.within(data - noise), shift=False)
        loss = (apart.square() * shares(graph, flow.balance)).mean()
        if self.behaviours:
            behaviour = self.behaviours[which]
            ends = at + (1 - time).unsqueeze(1) * velocity
            gap = behaviour.on_the_way(ends, data, time, random)
            gap = gap + behaviour.on_its_own(self.field, flow.batch, random)
            loss = loss + flow.function_weight * gap
        if not bool(loss.isfinite()):
            cure = "Lower lr" if flow.optimizer == "adamw" else 'Try optimizer="adamw"'
            raise RuntimeError(
                f"The loss is {loss.item()} at step {self.done} of {flow.steps}. {cure}."
            )
        if flow.optimizer == "adamw":
            for group in self.optimizer.param_groups:
                group["lr"] = flow.lr * self._schedule()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.field.parameters(), flow.clip)
        self.optimizer.step()
        self.done += 1
        weight = min(flow.average, self.done / (self.done + 10))
        with torch.no_grad():
            for averaged, own in zip(
                self.average.parameters(), self.field.parameters(), strict=True
            ):
                averaged.lerp_(own, 1 - weight)
        return loss.item()

    def _paired(self, graph: ParameterGraph, noise: Tensor, data: Tensor) -> Tensor:
        if self.field.units.neurons is None:
            return paired(graph, noise, data)
        # near in weights, of which white neurons show the many that are noise as large as the few
        # that matter
        units, layout = self.field.units, blocked(graph)
        moved = paired(graph, units.colored(graph, noise), units.colored(graph, data))
        assert units.neurons is not None
        return layout.flatten(units.neurons.whiten(graph, layout.unflatten(moved)))

    def _schedule(self) -> float:
        begun = max(1.0, self.flow.warmup * self.flow.steps)
        if self.done < begun:
            return (self.done + 1) / begun
        return 0.5 * (1 + math.cos(math.pi * (self.done - begun) / (self.flow.steps - begun + 1)))

    def generator(self) -> Generator:
        """With the averaged weights."""
        field = copy.deepcopy(self.average).eval()
        about = {"flow": asdict(self.flow), "seed": self.seed, "networks": len(self.values[0])}
        about["steps"] = self.done
        return Generator(self.sets[0][0], field, self.conditions, about)

    def _settings(self) -> dict[str, Any]:
        settings = asdict(self.flow) | asdict(self.field.config)
        return settings | {"seed": self.seed} | self._data

    @cached_property
    def _data(self) -> dict[str, str]:
        """Digests of what is learned from."""
        return {
            "networks": digest(flat for _, flat in self.sets),
            "conditions": digest(self.known),
            "inputs": digest(b.inputs for b in self.behaviours),
        }

    def keep(self, path: Path) -> None:
        """Write all that is needed to go on, whole or not at all."""
        state = {
            "settings": self._settings(),
            "field": self.field.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self.generator_state.get_state(),
            "paths": [b.paths.state() for b in self.behaviours],
            "done": self.done,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(path, lambda p: p.write_bytes(buffer.getbuffer()))

    def restore(self, path: Path) -> None:
        """Go on where :meth:`keep` was; raises ValueError for no checkpoint of this fit."""
        if not path.is_file():
            raise ValueError(f"No checkpoint at {path}. Fit without resume, or name its folder.")
        try:
            state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is no whole checkpoint ({error}). Begin again.") from error
        mine = self._settings()
        other = sorted(n for n in mine if settings.get(n) != mine[n])
        if other:
            raise ValueError(
                f"The checkpoint {path} is of a fit with other {other}; resume with the same "
                "networks and settings, or begin in another folder."
            )
        self.field.load_state_dict(state["field"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator_state.set_state(state["random"])
        for behaviour, paths in zip(self.behaviours, state["paths"], strict=True):
            behaviour.paths.restore(paths)
        self.done = state["done"]


__all__ = ["FlowConfig", "fit_generator"]
