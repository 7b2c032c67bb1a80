"""How well is a network's test accuracy read off its weights? Regimes, rivals, seeds.

    python -m experiments.accuracy_prediction --zoo DIR --out DIR [--resume]

On a zoo of `experiments.model_zoo`, after Lim et al. 2023 (arXiv 2312.04501, section 4):

- *all*: 80 % of the networks to learn from, the rest to judge by;
- *tenth*: a tenth of these 80 %;
- *wider*: learn from narrow networks, judge by strictly wider ones of the same kind;
- *half*: as *all*, but from the weights half way through training: will this run be good?

Beside graph metanets and what they are compared to stand *settings*, trees on how a network was
trained and built, which never see a weight; *process_scaled* and *graph_scaled*, for which neurons
of ReLU are brought to one scale (`experiments.zoo.scales`); *process_settings*, which sees weights
and settings; and three that have function access, which weights alone do not have, what the
network says of unlabelled images: *answers*, trees on it and on statistics of weights,
*process_answers* and *graph_answers*, Gaussian processes and graph metanets with it.
``result.json`` is written after every fit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from experiments import frame
from experiments.spread import spread
from experiments.zoo.answers import Answers, features
from experiments.zoo.scales import in_one_scale
from gmn_opt.predict import NetworkDataset, Recipe, fit_predictor, kendall_tau, r2_score
from gmn_opt.predict.fitting import KINDS
from gmn_opt.predict.networks import stacked
from gmn_opt.predict.trees import statistics_of

REGIMES = ("all", "tenth", "wider", "half")
TARGET = "test_accuracy"
#: Networks used at most, seeds, members, epochs of graph metanets, epochs of the other networks.
PRESETS = {"smoke": (64, 1, 1, 2, 2), "cpu": (4000, 3, 1, 20, 40), "gpu": (30000, 5, 3, 40, 80)}
_SETTINGS = (
    "rate", "weight_decay", "steps", "dropout", "label_noise", "init_scale", "data_share",
    "width", "depth", "kernel", "stride", "heads",
)  # fmt: skip
_CHOICES = ("optimizer", "data", "kind", "norm", "activation")


def parts(zoo: NetworkDataset, regime: str, seed: int) -> tuple[NetworkDataset, NetworkDataset]:
    """Networks to learn from, and to judge by; a network is on one side only."""
    data = zoo.where(lambda row: row["at"] == (0.5 if regime == "half" else 1.0))
    if regime == "wider":
        widths: dict[str, list[int]] = {}
        for row in data.table:
            widths.setdefault(row["kind"], []).append(row["width"])
        middle = {kind: statistics.median_low(found) for kind, found in widths.items()}
        train = data.where(lambda row: row["width"] <= middle[row["kind"]])
        # seeds differ in which part of the narrow networks is learnt from
        return train.split(0.9, seed=seed)[0], data.where(
            lambda row: row["width"] > middle[row["kind"]]
        )
    train, test = data.split(0.8, seed=seed)
    return (train.split(0.1, seed=seed)[0] if regime == "tenth" else train), test


def settings_matrix(data: NetworkDataset, known: NetworkDataset) -> np.ndarray:
    """What is known of every network without its weights; choices as in ``known``, one by one."""
    columns = [[float(row.get(n) or 0) for row in data.table] for n in _SETTINGS]
    columns += [[row["init_scale"] != 1.0 for row in data.table]]
    for name in _CHOICES:
        for option in sorted({str(row.get(name)) for row in known.table}):
            columns.append([str(row.get(name)) == option for row in data.table])
    return np.array(columns, dtype=float).T


def _boosted(x: np.ndarray, y: Tensor, x_test: np.ndarray, seed: int) -> Tensor:
    """What trees that learned ``y`` from ``x`` say of ``x_test``."""
    from sklearn.ensemble import GradientBoostingRegressor

    trees = GradientBoostingRegressor(n_estimators=300, random_state=seed).fit(x, y.numpy())
    return torch.tensor(trees.predict(x_test))


class Fit(NamedTuple):
    """What is learned from, judged by, and how."""

    train: NetworkDataset
    test: NetworkDataset
    seed: int
    recipe: Recipe
    answers: Answers


def by_settings(fit: Fit) -> Tensor:
    """Predictions of trees that never see a weight."""
    x, x_test = (settings_matrix(part, fit.train) for part in (fit.train, fit.test))
    return _boosted(x, fit.train.column(TARGET), x_test, fit.seed)


def _said(fit: Fit) -> tuple[Tensor, Tensor]:
    """What the networks of both parts say, as numbers, see `experiments.zoo.answers`."""
    known, asked = fit.answers.of(fit.train), fit.answers.of(fit.test)
    return features(known, fit.train, known, fit.train), features(asked, fit.test, known, fit.train)


def by_answers(fit: Fit) -> Tensor:
    """Predictions of trees that also know what networks say."""
    x, x_test = (
        statistics_of(stacked(part.networks, answers)).numpy()
        for part, answers in zip((fit.train, fit.test), _said(fit), strict=True)
    )
    return _boosted(x, fit.train.column(TARGET), x_test, fit.seed)


def by_predictor_and_answers(kind: str, fit: Fit) -> Tensor:
    """Predictions of a predictor of this kind that also knows what networks say."""
    return by_predictor(kind, fit, *_said(fit))


def by_predictor_and_settings(kind: str, fit: Fit) -> Tensor:
    """Predictions of a predictor of this kind that also knows how networks were made."""
    known = [settings_matrix(part, fit.train) for part in (fit.train, fit.test)]
    return by_predictor(kind, fit, *map(torch.from_numpy, known))


def by_predictor_in_one_scale(kind: str, fit: Fit) -> Tensor:
    """Predictions of a predictor of this kind that reads networks in one scale."""
    train, test = (in_one_scale(part) for part in (fit.train, fit.test))
    return by_predictor(kind, fit._replace(train=train, test=test))


def by_predictor(
    kind: str, fit: Fit, train: Tensor | None = None, test: Tensor | None = None
) -> Tensor:
    """Predictions from weights, and from rows of numbers beside them, of both parts."""
    made = fit_predictor(
        fit.train, fit.train.column(TARGET), kind=kind, covariates=train, seed=fit.seed,
        recipe=fit.recipe,
    )  # fmt: skip
    return made.predict(fit.test, covariates=test)


#: What is no `gmn_opt.predict` predictor of the weights as they are.
BESIDE: dict[str, Callable[[Fit], Tensor]] = {
    "settings": by_settings,
    "process_scaled": partial(by_predictor_in_one_scale, "process"),
    "graph_scaled": partial(by_predictor_in_one_scale, "graph"),
    "process_settings": partial(by_predictor_and_settings, "process"),
    "answers": by_answers,
    "process_answers": partial(by_predictor_and_answers, "process"),
    "graph_answers": partial(by_predictor_and_answers, "graph"),
}


def judge(fit: Fit, kind: str) -> dict[str, float]:
    """R², tau and seconds of one fit."""
    began = time.perf_counter()
    predicted = BESIDE[kind](fit) if kind in BESIDE else by_predictor(kind, fit)
    true = fit.test.column(TARGET)
    return {
        "r2": r2_score(predicted, true),
        "tau": kendall_tau(predicted, true),
        "seconds": time.perf_counter() - began,
        "train": len(fit.train),
        "test": len(fit.test),
    }


def main(
    zoo: Annotated[Path, typer.Option(help="Folder of experiments.model_zoo.")],
    preset: frame.Preset = "cpu",
    regimes: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(REGIMES),
    kinds: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join((*BESIDE, *KINDS)),
    seeds: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    networks: Annotated[int | None, typer.Option(help="At most so many of the zoo.")] = None,
    out: frame.Out = Path("accuracy_prediction"),
    resume: frame.Resume = False,
    threads: frame.Threads = 1,
) -> None:
    """Judge predictors of accuracy on a zoo."""
    console = frame.begin(threads)
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        most, count, members, epochs, rival_epochs = PRESETS[preset]
        data = NetworkDataset.load(zoo)
        most, count = networks or most, seeds or count
        data = data.where(lambda row: row["network"] < most)
        every = frame.chosen("regime", regimes, REGIMES)
        chosen = frame.chosen("kind", kinds, (*BESIDE, *KINDS))
        facts = begin(out, resume, {"zoo": zoo.name, "networks": len(data) // 2, "preset": preset})

        def say(regime: str, kind: str, seed: int, found: dict[str, float]) -> None:
            console.print(
                f"{regime} {kind} seed {seed}: R² {found['r2']:.3f}, tau {found['tau']:.3f}, "
                f"{found['seconds']:.0f} s"
            )

        recipes = dict.fromkeys(("graph", "graph_scaled", "graph_answers"), Recipe(members, epochs))
        other, answers = Recipe(members, rival_epochs), Answers(data)
        for kind in chosen:
            for regime in every:
                rows = facts["fits"].setdefault(regime, {}).setdefault(kind, [])
                for seed in range(len(rows), count):
                    recipe = recipes.get(kind, other)
                    fit = Fit(*parts(data, regime, seed), seed, recipe, answers)
                    rows.append(judge(fit, kind))
                    say(regime, kind, seed, rows[-1])
                    frame.write_record(out / "result.json", facts)
    show(console.print, facts)


def begin(out: Path, resume: bool, wanted: dict[str, Any]) -> dict[str, Any]:
    """The record so far; raises ValueError for one that is not to be gone on with, or of others."""
    path = out / "result.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        return {**wanted, "fits": {}}
    if not resume:
        raise ValueError(f"{out} holds a result. Pass --resume to go on with it.")
    found = frame.read_json(path)
    frame.check_record(out, found, wanted)
    return {**wanted, "fits": found["fits"]}


def show(say: Callable[..., None], facts: dict[str, Any]) -> None:
    """One table per regime."""
    for regime, found in facts["fits"].items():
        rows = []
        for kind, fits in found.items():
            cells = (spread([fit[name] for fit in fits]) for name in ("r2", "tau"))
            rows.append((kind, *cells, str(len(fits))))
        title = f"{regime}: {fits[0]['train']} to learn from, {fits[0]['test']} to judge by"
        say(frame.table(title, ("kind", "R²", "tau", "seeds"), rows))


if __name__ == "__main__":
    typer.run(main)
