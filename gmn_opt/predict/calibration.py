"""Predictors that say how sure they are: intervals from held-out networks, and a warning.

The interval is that of split conformal prediction (Vovk et al. 2005; Lei et al. 2018): as wide as
the errors on networks that nothing was learned from. It holds for networks of the same origin, so
beside it stands how far a network lies from all that were seen, in statistics of its weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmn_opt.predict.losses import as_targets
from gmn_opt.predict.model import PredictorModel
from gmn_opt.predict.networks import Given, as_networks, stacked
from gmn_opt.predict.predictor import Predictor
from gmn_opt.predict.trees import statistics_of
from gmn_opt.weights import WeightsError, WeightSet, load, save
from gmn_opt.weights.plain import reason

KIND = "calibrated-predictor"
_NEIGHBOURS = 5
#: Networks that are kept to compare others with.
_KEPT = 500
#: Share of held-out networks that counts as seen.
_SEEN = 0.99


@dataclass(frozen=True)
class Estimate:
    """What is said of one network.

    Attributes:
        value: The prediction.
        low: Lower end of the interval.
        high: Its upper end.
        coverage: The share of networks like those seen whose value lies in their interval.
        distance: How far the network lies from those seen; 99 % of these are below 1.
    """

    value: float
    low: float
    high: float
    coverage: float
    distance: float

    @property
    def unusual(self) -> bool:
        """Whether the network lies outside of what was seen, so the interval need not hold."""
        return not self.distance <= 1

    def __str__(self) -> str:
        """In a line."""
        text = f"{self.value:.3f} ({self.coverage:.0%} interval {self.low:.3f} to {self.high:.3f})"
        if self.unusual:
            text += f"; unlike the networks that were seen (distance {self.distance:.1f}, limit 1)"
        return text


class CalibratedPredictor:
    """A `Predictor` of one number with intervals; see :func:`calibrate`.

    Attributes:
        predictor: It.
        errors: Absolute errors on held-out networks, rising, ``[n]``.
        seen: Standardized statistics of some training networks, ``[kept, .]``.
        limit: The distance from these that few held-out networks exceed.
        bounds: Least and largest value there can be.
    """

    def __init__(
        self,
        predictor: Predictor,
        errors: Tensor,
        seen: Tensor,
        limit: float,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        self.predictor, self.errors, self.seen = predictor, errors, seen
        self.limit, self.bounds = limit, bounds

    def estimate(
        self, networks: Sequence[Given], *, coverage: float = 0.9, example_inputs: Any = None
    ) -> list[Estimate]:
        """An estimate for every network.

        Raises:
            NetworkError: A network that cannot be read.
            ValueError: A coverage that is not between 0 and 1, or too high for the number of
                held-out networks.
        """
        width = self.width(coverage)
        inputs = self.predictor.example_inputs if example_inputs is None else example_inputs
        found = as_networks(networks, inputs)
        values = self.predictor.predict(found)
        distances = _distance(self._standardized(found), self.seen) / self.limit
        low, high = self.bounds

        def within(value: float) -> float:
            return min(max(value, low), high)

        return [
            Estimate(within(v), within(v - width), within(v + width), coverage, d)
            for v, d in zip(values.tolist(), distances.tolist(), strict=True)
        ]

    def width(self, coverage: float) -> float:
        """Half the width of intervals that cover this share."""
        count = len(self.errors)
        place = math.ceil((count + 1) * coverage)
        if not 0 < coverage < 1 or place > count:
            raise ValueError(
                f"Coverage must be above 0 and at most {count / (count + 1):.3f} with {count} "
                f"held-out networks, received {coverage}."
            )
        return float(self.errors[place - 1])

    def _standardized(self, networks: Sequence[Given]) -> Tensor:
        return _standardized(self.predictor, networks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.safetensors`` file, whole or not at all; nothing is pickled."""
        about = {
            "predictor": self.predictor.about(),
            "limit": self.limit,
            "bounds": list(self.bounds) if math.isfinite(sum(self.bounds)) else None,
        }
        tensors = {f"predictor.{n}": t for n, t in self.predictor.state_dict().items()}
        tensors |= {"errors": self.errors, "seen": self.seen}
        save(path, WeightSet(Path(path).stem, KIND, about, tensors))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibratedPredictor:
        """Read what :meth:`save` wrote.

        Raises WeightsError for a file that is missing, damaged, or something else.
        """
        found = load(path, KIND)
        prefix = "predictor."
        try:
            inner = {
                n.removeprefix(prefix): t for n, t in found.tensors.items() if n.startswith(prefix)
            }
            bounds = found.config["bounds"] or (-math.inf, math.inf)
            return cls(
                Predictor.from_about(found.config["predictor"], inner),
                found.tensors["errors"],
                found.tensors["seen"],
                found.config["limit"],
                (bounds[0], bounds[1]),
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} does not fit this gmn-opt: {reason(error)}") from error


def calibrate(
    predictor: Predictor,
    seen: Sequence[Given],
    networks: Sequence[Given],
    targets: Any,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
) -> CalibratedPredictor:
    """Measure a predictor on held-out networks.

    Args:
        predictor: Of one number, a graph metanet.
        seen: The networks that it was trained on.
        networks: Others of the same origin.
        targets: What is true of these, ``[n]``.
        bounds: Least and largest value there can be.
        seed: Of the choice of training networks to keep.

    Raises ValueError for a predictor of something else, and fewer than 20 held-out networks.
    """
    values = as_targets(targets, len(networks))
    if not predictor.objective.state.get("flat") or not isinstance(
        next(predictor.each(), None), PredictorModel
    ):
        raise ValueError("Only predictors of one number with kind='graph' can be calibrated.")
    if len(networks) < 20:
        raise ValueError(f"At least 20 held-out networks are needed, received {len(networks)}.")
    if predictor.covariates:
        raise ValueError(
            f"The predictor reads {predictor.covariates} covariates. Calibrate one that reads "
            "weights alone."
        )
    errors = (predictor.predict(networks).cpu() - values.float()).abs().sort().values
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(seen), generator=generator)[:_KEPT].tolist()
    kept = _standardized(predictor, [seen[i] for i in chosen])
    distances = _distance(_standardized(predictor, networks), kept)
    limit = float(distances.quantile(_SEEN))
    return CalibratedPredictor(predictor, errors, kept, limit, bounds)


@torch.no_grad()
def _standardized(predictor: Predictor, networks: Sequence[Given]) -> Tensor:
    """Statistics of weights, standardized as the predictor does: ``[n, .]``."""
    member = next(predictor.each())
    assert isinstance(member, PredictorModel)
    like = member.head.weight
    found = as_networks(networks, predictor.example_inputs)
    out: Tensor = member.whole_scale(statistics_of(stacked(found)).to(like)).cpu()
    return out


def _distance(x: Tensor, seen: Tensor) -> Tensor:
    """Mean distance to the nearest of ``seen``, ``[n]``."""
    apart = torch.cdist(x, seen.to(x), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.topk(min(_NEIGHBOURS, len(seen)), largest=False).values.mean(1)
