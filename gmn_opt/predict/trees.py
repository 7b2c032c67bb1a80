"""Gradient-boosted trees on weight statistics: the baseline of Unterthiner et al. 2020.

Needs scikit-learn. The statistics are those that the graph metanet gets as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gmn_opt.predict.losses import Objective, objective
from gmn_opt.predict.model import features_of
from gmn_opt.predict.networks import Given, as_networks, stacked

if TYPE_CHECKING:
    from gmn_opt.predict.networks import Network


class TreePredictor:
    """Trees, one set per column of the targets. Cannot be saved: trees have no safe format."""

    def __init__(
        self, networks: Sequence[Network], targets: Tensor, loss: str, example_inputs: Any, seed: int
    ) -> None:
        try:
            from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
        except ImportError as error:
            raise ImportError(
                "Trees come from scikit-learn, which is not installed: pip install "
                "'gmn-opt[predict]'."
            ) from error
        self.objective: Objective = objective(loss).fitted(targets)
        self.example_inputs = example_inputs
        x = _statistics(networks).numpy()
        self.classes = loss == "cross_entropy"
        columns = targets.unsqueeze(1) if targets.dim() == 1 else targets
        made = GradientBoostingClassifier if self.classes else GradientBoostingRegressor
        self.trees = [made(random_state=seed).fit(x, y.numpy()) for y in columns.T]

    def predict(self, networks: Sequence[Given]) -> Tensor:
        """As :meth:`gmn_opt.predict.Predictor.predict`."""
        x = _statistics(as_networks(networks, self.example_inputs)).numpy()
        if self.classes:
            out = torch.zeros(len(x), self.objective.outputs)
            out[:, self.trees[0].classes_] = torch.tensor(self.trees[0].predict_proba(x)).float()
            return out
        columns = [torch.tensor(t.predict(x), dtype=torch.float32) for t in self.trees]
        return columns[0] if self.objective.state["flat"] else torch.stack(columns, 1)

    def score(self, networks: Sequence[Given], targets: Any) -> dict[str, float]:
        """As :meth:`gmn_opt.predict.Predictor.score`."""
        return self.objective.judge(self.predict(networks), torch.as_tensor(targets))


def _statistics(networks: Sequence[Network]) -> Tensor:
    parts: dict[int, Tensor] = {}
    for stack in stacked(networks):
        for place, row in zip(stack.places.tolist(), features_of(stack).whole, strict=True):
            parts[place] = row
    return torch.stack([parts[i] for i in range(len(networks))])
