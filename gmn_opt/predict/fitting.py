"""``fit_predictor``: from networks and numbers about them to a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.predict.losses import Objective, as_targets, objective
from gmn_opt.predict.model import ModelConfig
from gmn_opt.predict.networks import Given, NetworkError, Stack, as_covariates, as_networks, stacked
from gmn_opt.predict.predictor import Predictor
from gmn_opt.predict.process import Process, serves, share_of
from gmn_opt.predict.progress import fit_progress
from gmn_opt.predict.rivals import RIVALS
from gmn_opt.predict.through import common_ends
from gmn_opt.predict.training import MemberFit, Recipe, TrainingState, learned_from
from gmn_opt.predict.trees import TREES, TreePredictor

KINDS = ("graph", "process", *RIVALS, *TREES)
_LEAST, _SLOTS = 8, 64


def fit_predictor(
    networks: Sequence[Given],
    targets: Any,
    *,
    example_inputs: tuple[Any, ...] | Tensor | None = None,
    covariates: Tensor | None = None,
    loss: str = "mse",
    minutes: float | None = None,
    valid: float = 0.15,
    kind: str = "graph",
    seed: int = 0,
    recipe: Recipe | None = None,
    config: ModelConfig | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Predictor | TreePredictor:
    """Learn to predict ``targets`` from the weights of ``networks``.

    Args:
        networks: Modules, pairs of a graph and a state dict, or a `NetworkDataset`; any
            architectures.
        targets: One per network: numbers ``[n]`` or ``[n, k]``, or whole class numbers ``[n]``.
        example_inputs: What the modules are called with when they are traced.
        covariates: Numbers ``[n, .]`` that are known of the networks beside their weights: what
            they say of some inputs, how they were trained. Predictions ask for them as well. Not
            for ``"statnn"``, ``"deepsets"`` and ``"dmc"``.
        loss: ``"mse"``, ``"huber"``, ``"cross_entropy"``, or ``"rank"`` for an order.
        minutes: Stop after this long; by default when all epochs are done.
        valid: Share of the networks by which each member's best epoch is chosen.
        kind: ``"graph"`` for graph metanets beside a Gaussian process, ``"process"`` for the latter
            alone, or what they are compared to: ``"statnn"``, ``"deepsets"``, ``"dmc"``, or
            ``"trees"`` and ``"forest"`` on statistics of the weights (need scikit-learn).
        seed: Of everything random.
        recipe: How to train.
        config: Sizes of the graph metanet.
        out: File to keep the state of training in after every epoch.
        resume: Go on from ``out``, exactly as if nothing had happened.
        device: Where to train.
        progress: Show a bar in a terminal.

    Raises:
        NetworkError: A network that cannot be read.
        ValueError: Targets or covariates of another number or kind, too few networks, an unknown
            loss or kind, covariates for a kind that reads none, a state of training that was
            begun with other settings, networks, targets or covariates.
    """
    recipe, goal_type = recipe or Recipe(), objective(loss)
    count = _counted(networks)
    _check(kind, count, valid, minutes)
    known = _covariates(covariates, count, kind)
    goal = goal_type.fitted(values := as_targets(targets, count))
    stacks = stacked(as_networks(networks, example_inputs), known)
    if kind in TREES:
        return TreePredictor(stacks, values, goal, kind, example_inputs, seed)
    if kind == "process":
        return _process_alone(goal, stacks, values, example_inputs, seed).to(device)
    about = _sizes(kind, config, goal, stacks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = Predictor(about, goal, recipe.members, example_inputs).to(device)
    record = {"seed": seed, "recipe": asdict(recipe), "valid": valid, "networks": count}
    begun = {**record, "model": about, "data": out and learned_from(stacks, values)}
    state = TrainingState(None if out is None else Path(out), begun, resume)
    fits = _trained(predictor, stacks, values, recipe, valid, seed, minutes, state, progress)
    if kind == "graph" and recipe.process and serves(goal):
        _stand_beside(predictor, stacks, goal.encode(values), fits, seed)
    predictor.record = {**record, "members": state.done}
    return predictor.eval()


def _trained(
    predictor: Predictor,
    stacks: list[Stack],
    values: Tensor,
    recipe: Recipe,
    valid: float,
    seed: int,
    minutes: float | None,
    state: TrainingState,
    progress: bool,
) -> list[MemberFit]:
    """Train all members, or take what ``state`` has of them."""
    fits = []
    goal = predictor.objective
    with fit_progress(progress, recipe.members * recipe.epochs) as bar:
        for number, member in enumerate(predictor.each()):
            fit = MemberFit(member, number, goal, stacks, values, recipe, valid, seed, minutes)
            fit.run(state, bar)
            fits.append(fit)
    return fits


def _stand_beside(
    predictor: Predictor,
    stacks: list[Stack],
    encoded: Tensor,
    fits: list[MemberFit],
    seed: int,
) -> None:
    """Give a predictor of trained members a process, and the share that held-out networks say."""
    like = next(predictor.parameters())
    process, alone = Process.fitted(stacks, encoded, predictor.config["ends"], seed)
    total, count = torch.zeros_like(alone), torch.zeros(len(alone), 1)
    for places, out in (fit.held_out() for fit in fits):
        total[places.cpu()] += out.cpu().to(total)
        count[places.cpu()] += 1
    predictor.process = process.to(like.device)
    predictor.share = share_of(total / count, alone, encoded.cpu())


def _process_alone(
    goal: Objective, stacks: list[Stack], values: Tensor, example_inputs: Any, seed: int
) -> Predictor:
    if not serves(goal):
        raise ValueError(
            f"kind='process' predicts numbers (loss='mse' or 'huber'), received {goal.name!r}. "
            "Choose another kind."
        )
    process, _ = Process.fitted(stacks, goal.encode(values), common_ends(stacks), seed)
    about = {
        "kind": "process", "outputs": goal.outputs, "covariates": stacks[0].covariates.shape[1],
    }  # fmt: skip
    record = {"seed": seed, "networks": len(values)}
    return Predictor(about, goal, 0, example_inputs, record, process, 1.0)


def _covariates(covariates: Tensor | None, count: int, kind: str) -> Tensor:
    """``[count, .]``, for a kind that reads them."""
    known = as_covariates(covariates, count)
    if kind in RIVALS and known.shape[1]:
        readers = [k for k in KINDS if k not in RIVALS]
        raise ValueError(f"kind={kind!r} reads no covariates; {', '.join(readers)} do.")
    return known


def _counted(networks: Sequence[Given]) -> int:
    """How many there are; a single module has a length as well, of its layers."""
    if isinstance(networks, nn.Module):
        raise NetworkError("A list of networks is needed, received a single one.")
    return len(networks)


def _check(kind: str, count: int, valid: float, minutes: float | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"Unknown kind {kind!r}; choose one of {', '.join(KINDS)}.")
    if not 0 < valid < 1 or count < _LEAST or (minutes is not None and minutes <= 0):
        raise ValueError(
            f"fit_predictor needs at least {_LEAST} networks, valid between 0 and 1 and minutes "
            f"above 0; received {count} networks, valid={valid}, minutes={minutes}."
        )


def _sizes(
    kind: str, config: ModelConfig | None, goal: Objective, stacks: list[Stack]
) -> dict[str, Any]:
    """What a member is made from, as plain values."""
    if kind == "graph":
        config = config or ModelConfig()
        ends = common_ends(stacks) if config.ends is None else config.ends
        config = replace(
            config, outputs=goal.outputs, ends=ends, covariates=stacks[0].covariates.shape[1]
        )
        return {"kind": kind, **asdict(config)}
    # room for larger networks than those of the training set
    slots = max(_SLOTS, 2 * max(len(s.graph.shapes) for s in stacks))
    return {"kind": kind, "outputs": goal.outputs, "slots": slots}
