"""What a predictor is trained for: numbers, classes, or an order.

Each kind says how targets become what the network is held against, and its answers become
predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gmn_opt.predict.metrics import accuracy, kendall_tau, r2_score


class Objective(ABC):
    """A kind of prediction; ``state`` is what it took from the training targets, as plain data."""

    name: str
    #: Whether embeddings and targets of two networks may be blended in training.
    blends = True

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    @classmethod
    @abstractmethod
    def fitted(cls, targets: Tensor) -> Objective:
        """From the training targets; raises ValueError for targets that it cannot serve."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that the network gives."""

    @abstractmethod
    def encode(self, targets: Tensor) -> Tensor:
        """Targets as the loss takes them, ``[n, ...]``."""

    @abstractmethod
    def loss(self, out: Tensor, encoded: Tensor) -> Tensor:
        """The loss of a batch ``[n, outputs]``."""

    @abstractmethod
    def decode(self, out: Tensor) -> Tensor:
        """The network's answers ``[n, outputs]`` as predictions."""

    def judge(self, predicted: Tensor, targets: Tensor) -> dict[str, float]:
        """R² and Kendall's tau, the mean over columns where there are several."""
        columns = predicted.unsqueeze(1) if predicted.dim() == 1 else predicted
        wanted = targets.unsqueeze(1) if targets.dim() == 1 else targets
        pairs = list(zip(columns.T, wanted.T, strict=True))
        return {
            "r2": sum(r2_score(p, t) for p, t in pairs) / len(pairs),
            "tau": sum(kendall_tau(p, t) for p, t in pairs) / len(pairs),
        }


class Regression(Objective):
    """Numbers, standardized by those of the training networks."""

    name = "mse"

    @classmethod
    def fitted(cls, targets: Tensor) -> Objective:
        """Mean and deviation of every column."""
        values = (targets.unsqueeze(1) if targets.dim() == 1 else targets).double()
        if values.dim() != 2:
            raise ValueError(f"Targets must be [n] or [n, k], received {list(targets.shape)}.")
        std = values.std(0, correction=0)
        if bool((std == 0).any()):
            raise ValueError(
                "The targets of all training networks are the same, so there is nothing to learn; "
                f"received {len(values)} times {values[0].tolist()}."
            )
        return cls(
            {"mean": values.mean(0).tolist(), "std": std.tolist(), "flat": targets.dim() == 1}
        )

    @property
    def outputs(self) -> int:
        """Columns of the targets."""
        return len(self.state["mean"])

    def encode(self, targets: Tensor) -> Tensor:
        """Standardized, ``[n, k]``."""
        values = (targets.unsqueeze(1) if targets.dim() == 1 else targets).double()
        mean, std = (values.new_tensor(self.state[k]) for k in ("mean", "std"))
        return (values - mean) / std

    def loss(self, out: Tensor, encoded: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(out, encoded)

    def decode(self, out: Tensor) -> Tensor:
        """In the units of the targets, ``[n]`` or ``[n, k]`` as they were."""
        mean, std = (out.new_tensor(self.state[k]) for k in ("mean", "std"))
        values = out * std + mean
        return values.squeeze(1) if self.state["flat"] else values


class Robust(Regression):
    """As :class:`Regression`, but large errors count linearly."""

    name = "huber"

    def loss(self, out: Tensor, encoded: Tensor) -> Tensor:
        """Huber's loss."""
        return F.smooth_l1_loss(out, encoded)


class Classification(Objective):
    """One of several classes, counted from 0."""

    name = "cross_entropy"
    blends = False

    @classmethod
    def fitted(cls, targets: Tensor) -> Objective:
        """How many classes there are."""
        if targets.is_floating_point() or targets.dim() != 1 or int(targets.min()) < 0:
            raise ValueError(
                "loss='cross_entropy' takes whole class numbers [n] from 0, received "
                f"{targets.dtype} {list(targets.shape)}."
            )
        return cls({"classes": int(targets.max()) + 1})

    @property
    def outputs(self) -> int:
        """One logit per class."""
        return int(self.state["classes"])

    def encode(self, targets: Tensor) -> Tensor:
        """As they are."""
        return targets.long()

    def loss(self, out: Tensor, encoded: Tensor) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(out, encoded)

    def decode(self, out: Tensor) -> Tensor:
        """Probabilities ``[n, classes]``."""
        return out.softmax(1)

    def judge(self, predicted: Tensor, targets: Tensor) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": accuracy(predicted, targets)}


class Ranking(Regression):
    """An order: of any two networks of a batch, the better one is to get the larger score.

    Scores are standardized, and mean nothing but an order.
    """

    name = "rank"
    blends = False

    def loss(self, out: Tensor, encoded: Tensor) -> Tensor:
        """Logistic loss over all pairs of different targets (RankNet, Burges et al. 2005)."""
        ahead = encoded.unsqueeze(0) - encoded.unsqueeze(1)
        score = out.unsqueeze(0) - out.unsqueeze(1)
        chosen = ahead > 0
        if not bool(chosen.any()):
            return out.sum() * 0
        return F.softplus(-score[chosen]).mean()

    def decode(self, out: Tensor) -> Tensor:
        """The scores."""
        return out.squeeze(1) if self.state["flat"] else out

    def judge(self, predicted: Tensor, targets: Tensor) -> dict[str, float]:
        """Kendall's tau."""
        return {"tau": super().judge(predicted, targets)["tau"]}


OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind for kind in (Regression, Robust, Classification, Ranking)
}


def objective(name: str) -> type[Objective]:
    """The kind of this name; raises ValueError for another."""
    if name not in OBJECTIVES:
        raise ValueError(f"Unknown loss {name!r}; choose one of {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[name]


def as_targets(targets: Any, count: int) -> Tensor:
    """``targets`` as a tensor, one row per network.

    Raises ValueError for another number of them, and for values that are not finite.
    """
    try:
        values = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Targets must be numbers, one per network or one row of equal length; received a "
            f"{type(targets).__name__} of which no tensor can be made ({error})."
        ) from error
    if values.dim() == 0 or len(values) != count:
        raise ValueError(
            f"One target per network is needed: received {count} networks and "
            f"{'one number' if values.dim() == 0 else f'{len(values)} targets'}."
        )
    if values.is_floating_point() and not bool(values.isfinite().all()):
        bad = (~values.isfinite()).reshape(count, -1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"The targets of networks {bad[:10]} are NaN or infinite. Leave these networks out."
        )
    return values
