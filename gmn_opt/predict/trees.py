"""Trees on weight statistics: the baseline of Unterthiner et al. 2020 (arXiv 2002.11448).

Needs scikit-learn. The statistics are those that the graph metanet gets as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.extras import needs
from gmn_opt.predict.losses import Objective, as_targets
from gmn_opt.predict.model import features_of
from gmn_opt.predict.networks import Given, Stack, as_stacks

TREES = ("trees", "forest")


class TreePredictor:
    """Gradient-boosted trees or a forest, one for every column of the targets.

    It answers as a `gmn_opt.predict.Predictor` does, but cannot be saved: scikit-learn's trees have
    no format that is safe to read.

    Raises ImportError where scikit-learn is missing.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        targets: Tensor,
        goal: Objective,
        kind: str,
        example_inputs: Any,
        seed: int,
    ) -> None:
        with needs("predict"):
            from sklearn import ensemble
        self.objective, self.kind = goal, kind
        self.example_inputs = example_inputs
        self.classes = goal.name == "cross_entropy"
        family = {"trees": "GradientBoosting", "forest": "RandomForest"}[kind]
        made = getattr(ensemble, family + ("Classifier" if self.classes else "Regressor"))
        columns = targets.unsqueeze(1) if targets.dim() == 1 else targets
        self.covariates = stacks[0].covariates.shape[1]
        x = statistics_of(stacks).numpy()
        self.trees = [made(random_state=seed).fit(x, y.numpy()) for y in columns.T]

    def predict(
        self,
        networks: Sequence[Given],
        *,
        example_inputs: Any = None,
        covariates: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`gmn_opt.predict.Predictor.predict`."""
        inputs = self.example_inputs if example_inputs is None else example_inputs
        x = statistics_of(as_stacks(networks, inputs, covariates, self.covariates)).numpy()
        if self.classes:
            out = torch.zeros(len(x), self.objective.outputs)
            out[:, self.trees[0].classes_] = torch.tensor(self.trees[0].predict_proba(x)).float()
            return out
        columns = [torch.tensor(t.predict(x), dtype=torch.float32) for t in self.trees]
        return columns[0] if self.objective.state["flat"] else torch.stack(columns, 1)

    def score(
        self, networks: Sequence[Given], targets: Any, *, covariates: Tensor | None = None
    ) -> dict[str, float]:
        """As :meth:`gmn_opt.predict.Predictor.score`."""
        values = as_targets(targets, len(networks))
        return self.objective.judge(self.predict(networks, covariates=covariates), values)


def statistics_of(stacks: Sequence[Stack]) -> Tensor:
    """Statistics of the weights of every network, ``[n, GRAPH_STATISTICS]``, and covariates."""
    parts: dict[int, Tensor] = {}
    for stack in stacks:
        whole = features_of(stack).whole
        parts |= dict(zip(stack.places.tolist(), whole, strict=True))
    return torch.stack([parts[i] for i in range(len(parts))])
