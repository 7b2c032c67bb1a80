"""How well is a network's test accuracy read off its weights? Regimes, rivals, seeds.

    python -m experiments.accuracy_prediction --zoo DIR --out DIR [--resume]

On a zoo of `experiments.model_zoo`, after Lim et al. 2023 (arXiv 2312.04501, section 4):

- *all*: 80 % of the networks to learn from, the rest to judge by;
- *tenth*: a tenth of these 80 %;
- *wider*: learn from narrow networks, judge by strictly wider ones of the same kind;
- *half*: as *all*, but from the weights half way through training: will this run be good?

Beside graph metanets and what they are compared to stand *settings*, trees on how a network was
trained and built, which never see a weight, and two that have function access, which weights alone
do not have, what the network says of unlabelled images: *answers*, trees on it and on statistics of
weights, and *graph_answers*, graph metanets with it.
``result.json`` is written after every fit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from experiments import frame
from experiments.spread import spread
from experiments.zoo.answers import answers_of, features
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


def by_settings(train: NetworkDataset, test: NetworkDataset, seed: int, _: Recipe) -> Tensor:
    """Predictions of trees that never see a weight."""
    x, x_test = (settings_matrix(part, train) for part in (train, test))
    return _boosted(x, train.column(TARGET), x_test, seed)


def _said(train: NetworkDataset, test: NetworkDataset) -> tuple[Tensor, Tensor]:
    """What the networks of both say, as numbers, see `experiments.zoo.answers`."""
    known, asked = answers_of(train), answers_of(test)
    return features(known, train, known, train), features(asked, test, known, train)


def by_answers(train: NetworkDataset, test: NetworkDataset, seed: int, _: Recipe) -> Tensor:
    """Predictions of trees that also know what networks say."""
    said, said_test = _said(train, test)
    x, x_test = (
        statistics_of(stacked(part.networks, answers)).numpy()
        for part, answers in ((train, said), (test, said_test))
    )
    return _boosted(x, train.column(TARGET), x_test, seed)


def by_graph_answers(
    train: NetworkDataset, test: NetworkDataset, seed: int, recipe: Recipe
) -> Tensor:
    """Predictions of graph metanets that also know what networks say."""
    said, said_test = _said(train, test)
    made = fit_predictor(train, train.column(TARGET), covariates=said, seed=seed, recipe=recipe)
    return made.predict(test, covariates=said_test)


#: What is no `gmn_opt.predict` predictor of weights alone.
BESIDE: dict[str, Callable[[NetworkDataset, NetworkDataset, int, Recipe], Tensor]] = {
    "settings": by_settings,
    "answers": by_answers,
    "graph_answers": by_graph_answers,
}


def judge(
    train: NetworkDataset, test: NetworkDataset, kind: str, seed: int, recipe: Recipe
) -> dict[str, float]:
    """R², tau and seconds of one fit."""
    began = time.perf_counter()
    if kind in BESIDE:
        predicted = BESIDE[kind](train, test, seed, recipe)
    else:
        made = fit_predictor(train, train.column(TARGET), kind=kind, seed=seed, recipe=recipe)
        predicted = made.predict(test)
    true = test.column(TARGET)
    return {
        "r2": r2_score(predicted, true),
        "tau": kendall_tau(predicted, true),
        "seconds": time.perf_counter() - began,
        "train": len(train),
        "test": len(test),
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

        recipes = dict.fromkeys(("graph", "graph_answers"), Recipe(members, epochs))
        other = Recipe(members, rival_epochs)
        for kind in chosen:
            for regime in every:
                rows = facts["fits"].setdefault(regime, {}).setdefault(kind, [])
                for seed in range(len(rows), count):
                    train, test = parts(data, regime, seed)
                    rows.append(judge(train, test, kind, seed, recipes.get(kind, other)))
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
    begun = {name: found.get(name) for name in wanted}
    if begun != wanted:
        raise ValueError(f"{out} was begun with {begun}, now {wanted}. Use the same.")
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
