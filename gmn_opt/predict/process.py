"""A Gaussian process on statistics of networks and on their through maps.

Where few networks are at hand, comparing a network to every one that is known beats whatever has
to be trained. The estimate is the mean of a Gaussian process (Rasmussen and Williams 2006, chapters
2, 4 and 5): networks count as alike that are close in statistics of their weights, in the coherence
of their layers, in what they do from end to end (`gmn_opt.predict.paths`), and in covariates, where
there are some; how alike is told by the Matern function of smoothness 5/2. Every input has a length
of its own, near to one that its kind shares; lengths, an amplitude and a share of noise are the
most probable ones, given the data and the priors below.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gmn_opt.predict.features import GRAPH_STATISTICS
from gmn_opt.predict.losses import Objective
from gmn_opt.predict.model import features_of
from gmn_opt.predict.standardize import Standardize
from gmn_opt.predict.through import PathFeatures, PathReader, path_features

if TYPE_CHECKING:
    from gmn_opt.predict.networks import Stack

#: Networks that are kept to compare others with, and those that the lengths are chosen on.
_KEPT, _CHOSEN_ON = 8000, 1000
_STEPS, _NUGGET = 60, 1e-4
_GAUSSIAN, _MATERN = "gaussian", "matern"
#: Networks whose features are made at once; bounds of the logs of what is chosen.
_CHUNK, _BOUND = 256, 8.0
#: Added to squares of distances, in lengths, before their root is taken.
_SMOOTH = 1e-12
#: Priors of the logs, normal: shared lengths about 1.5, amplitudes about 1, and how far an input's
#: own length is from the shared one (free ones lose where there are 160 networks and win from 640
#: on; so near, they lose nowhere). Noise is free.
_LENGTH, _SPREAD, _OWN = math.log(1.5), 1.5, 0.5


class _Read(NamedTuple):
    whole: Tensor
    paths: PathFeatures


class Process(nn.Module):
    """Answers ``[n, outputs]`` for networks that share a graph, in float64: it adds up many terms.

    Args:
        config: As plain values: ``ends`` of the through maps that count, ``outputs``, the number
            of networks ``kept``, of ``covariates`` (none where it is missing), and what tells how
            ``alike`` two networks are, ``"matern"`` or ``"gaussian"`` (where it is missing);
            ValueError for another.
    """

    lengths: Tensor
    inputs: Tensor
    weights: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        if (alike := config.get("alike", _GAUSSIAN)) not in (_GAUSSIAN, _MATERN):
            raise ValueError(
                f"A process compares by {_GAUSSIAN!r} or {_MATERN!r}, received {alike!r}; was the "
                "file written by a later version?"
            )
        self.config = config
        self._is_gaussian = alike == _GAUSSIAN
        whole = GRAPH_STATISTICS + config.get("covariates", 0)
        self.whole_scale = Standardize(whole)
        self.reader = PathReader(config["ends"])
        width = whole + self.reader.width
        self.register_buffer("lengths", torch.ones(width))
        self.register_buffer("inputs", torch.zeros(config["kept"], width))
        self.register_buffer("weights", torch.zeros(config["kept"], config["outputs"]))

    @staticmethod
    @torch.no_grad()
    def fitted(
        stacks: list[Stack], encoded: Tensor, ends: list[list[int]], seed: int
    ) -> tuple[Process, Tensor]:
        """From networks and their targets ``[n, outputs]``, standardized.

        Returns:
            The process, and what it says of every network when the others alone are known (NaN for
            those that are not kept), ``[n, outputs]``.
        """
        count = len(encoded)
        covariates = stacks[0].covariates.shape[1]
        config = {
            "ends": ends, "outputs": encoded.shape[1], "kept": min(count, _KEPT),
            "covariates": covariates, "alike": _MATERN,
        }  # fmt: skip
        made = Process(config)
        made.double()
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:_KEPT]
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[order] = True
        pieces = [
            s[part]
            for s in stacks
            for part in chosen[s.places].nonzero().flatten().split(_CHUNK)
            if len(part)
        ]
        read = [made._read(p) for p in pieces]
        made.whole_scale.set_from(torch.cat([r.whole for r in read]))
        made.reader.set_from([r.paths for r in read])
        places = torch.cat([p.places for p in pieces])
        x = torch.zeros(count, made.inputs.shape[1], dtype=torch.float64)
        x[places] = torch.cat([made._inputs(r) for r in read])
        y = encoded.double().cpu()
        coherence, through = made.reader.coherence_width, made.reader.through_width
        groups = [covariates, GRAPH_STATISTICS + coherence, through]
        lengths, amplitude, noise = _chosen(x[order[:_CHOSEN_ON]], y[order[:_CHOSEN_ON]], groups)
        scaled = x[order] / lengths
        kernel = amplitude * made._alike(scaled, scaled)
        kernel.diagonal().add_(noise)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel))
        weights = inverse @ y[order]
        made.lengths.copy_(lengths)
        made.inputs.copy_(scaled)
        made.weights.copy_(amplitude * weights)
        alone = torch.full_like(y, math.nan)
        alone[order] = y[order] - weights / inverse.diagonal().unsqueeze(1)
        return made, alone

    def _read(self, stack: Stack) -> _Read:
        like = self.lengths
        whole = features_of(stack, like.dtype).whole.to(like.device)
        return _Read(whole, path_features(stack, like.dtype).to(like.device))

    def _inputs(self, read: _Read) -> Tensor:
        scaled = self.whole_scale(read.whole)
        covariates = scaled[..., GRAPH_STATISTICS:]
        return torch.cat([covariates, scaled[..., :GRAPH_STATISTICS], self.reader(read.paths)], -1)

    def read(self, stack: Stack) -> Tensor:
        """By what networks that share a graph are compared, ``[n, .]``, in lengths."""
        return self._inputs(self._read(stack)) / self.lengths

    def embed(self, z: Tensor) -> Tensor:
        """What :meth:`read` gave."""
        return z

    def answer(self, z: Tensor) -> Tensor:
        """From :meth:`read` to ``[n, outputs]``."""
        return self._alike(z, self.inputs) @ self.weights

    def _alike(self, a: Tensor, b: Tensor) -> Tensor:
        """``[n, m]``: 1 for equal rows, falling with their distance."""
        apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        if self._is_gaussian:
            return (-apart.square() / 2).exp()
        return _matern(apart)


def _matern(apart: Tensor) -> Tensor:
    """The Matern function of smoothness 5/2 of distances (Rasmussen and Williams 2006, (4.17))."""
    r = math.sqrt(5) * apart
    return (1 + r + r.square() / 3) * (-r).exp()


def _chosen(x: Tensor, y: Tensor, groups: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths ``[.]`` of all inputs, of which ``groups`` share a kind; amplitude and noise."""
    groups = [g for g in groups if g]
    sizes = torch.tensor(groups)
    kind = torch.arange(len(groups)).repeat_interleave(sizes)
    # distances grow with the root of how many inputs are of a kind
    unit = sizes.double().sqrt()[kind]
    begun = ([_LENGTH] * len(groups), [0.0] * x.shape[1], [0.0], [-2.0])
    parts = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in begun]
    eye = torch.eye(len(x), dtype=torch.float64)
    optimizer = torch.optim.LBFGS(parts, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def chosen() -> tuple[Tensor, Tensor, Tensor]:
        shared, own, amplitude, noise = parts
        lengths = (shared[kind] + _OWN * own).clamp(-_BOUND, _BOUND).exp() * unit
        held = [p.clamp(-_BOUND, _BOUND).exp() for p in (amplitude, noise)]
        return lengths, held[0], held[1] + _NUGGET

    def closure() -> Tensor:
        optimizer.zero_grad()
        shared, own, amplitude, _ = parts
        lengths, size, rest = chosen()
        kernel = size * _matern(_distances(x / lengths)) + rest * eye
        root = torch.linalg.cholesky(kernel)
        fit = (y * torch.cholesky_solve(y, root)).sum() / 2
        volume = y.shape[1] * root.diagonal().log().sum()
        wide = torch.cat([shared - _LENGTH, amplitude]) / _SPREAD
        loss: Tensor = fit + volume + (wide.square().sum() + own.square().sum()) / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    lengths, size, rest = (part.detach() for part in chosen())
    return lengths, size, rest


def _distances(x: Tensor) -> Tensor:
    """``[n, n]`` between rows, with slopes that are finite where rows are equal."""
    squares = x.square().sum(1)
    apart = squares + squares.unsqueeze(1) - 2 * x @ x.mT
    return (apart.clamp_min(0) + _SMOOTH).sqrt()


def share_of(members: Tensor, process: Tensor, encoded: Tensor) -> float:
    """Share of the process in the estimate, between 0 and 1, by least squares.

    All are ``[n, outputs]``: answers of members and of the process to networks that they do not
    know, NaN where there are none, and what is true. Half where no network has both.
    """
    both = (members.isfinite() & process.isfinite()).all(1)
    if not bool(both.any()):
        return 0.5
    wrong = members[both].double() - encoded[both].double()
    step = members[both].double() - process[both].double()
    size = float(step.square().sum())
    return min(1.0, max(0.0, float((wrong * step).sum()) / size)) if size > 0 else 0.5


def serves(goal: Objective) -> bool:
    """Whether a process can answer this: numbers, but no classes and no order."""
    return goal.name in ("mse", "huber")
