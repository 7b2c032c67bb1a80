"""What generated networks do, as a part of the loss.

A network is more than its weights, each about right: flow matching alone leaves errors that are
small in every weight and large in what they add up to. So the end of the line that the field points
at is also called with inputs, and compared with what training networks say there:

- *on the way*, between noise and a training network, with what that network says;
- *on its own*, where sampling leads from noise to, with the mean of what all training networks (of
  the class) say. There the field has never been when it learns from lines alone, and an error made
  early is not corrected later (exposure bias; Bengio et al. 2015, arXiv 1506.03099). A batch of
  samples is under way during the fit, see :mod:`gmn_opt.generate.paths`.

From time t on the velocity moves the end of a line by (1 - t) only: judged by ends alike at all
times, the field hardly learns what to do late, when a network is nearly made and its last errors
could be mended. So gaps count by 1 / (1 - t), see :func:`lateness`.

No labels are needed. The price: all samples are drawn to one mean answer, and share more of their
errors with training networks than without.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from gmn_opt.generate.paths import Paths
from gmn_opt.generate.units import Units
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked
from gmn_opt.metanet.probes import buffers_like

Gap = Literal["mse", "kl"]
GAPS: tuple[Gap, ...] = ("mse", "kl")
#: Inputs that networks are compared at in a step, and training networks that a mean is taken over.
_INPUTS, _MOST = 256, 256
#: Time to the end from which gaps count no more than the last ones.
_SOON = 0.03
#: Of points ``[B, P]`` at times ``[B]`` under conditions ``[B, k]``, velocities ``[B, P]``.
Field = Callable[[ParameterGraph, Tensor, Tensor, Tensor], Tensor]


class Behaviour:
    """Of the networks of one graph.

    Args:
        model: A module of the architecture; its parameters are not read, its buffers are.
        graph: The parameter graph.
        units: Of the weights.
        values: Training networks ``[N, P]`` in units.
        known: Their conditions ``[N, k]``, encoded.
        labels: Their classes int64 ``[N]``, where noise is drawn per class.
        inputs: What networks are called with, ``[n, ...]``.
        gap: ``"mse"``, relative to the variance of outputs, or ``"kl"`` where the last dimension of
            outputs are logits.
        corrections: Rounds of correction that samples under way get at most.
        unsure: Share of inputs that are drawn by the entropy of what networks say there on average;
            needs logits.

    Raises ValueError when the model cannot be called with the inputs, they are not finite, or, with
    ``unsure``, what networks say there is not.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ParameterGraph,
        units: Units,
        values: Tensor,
        known: Tensor,
        labels: Tensor | None,
        inputs: Tensor,
        gap: Gap,
        corrections: int = 0,
        unsure: float = 0.0,
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.graph, self.units, self.values, self.known = graph, units, values, known
        self.labels, self.inputs, self.gap = labels, inputs, gap
        self.paths = Paths(self._noise, len(known), corrections)
        if not bool(inputs.isfinite().all()):
            raise ValueError("inputs hold NaN or infinity. Leave these examples out.")
        try:
            self.says(values[:1], inputs[:1])
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(
                f"The model cannot be called with inputs {list(inputs.shape)} of {inputs.dtype}: "
                f"{error}. Pass inputs=, a tensor [n, ...] of what the networks read."
            ) from error
        self.odds = self._odds(unsure) if unsure else None

    def says(self, values: Tensor, x: Tensor) -> Tensor:
        """Outputs ``[B, n, ...]`` of networks ``[B, P]`` in units at inputs ``[n, ...]``."""
        return said_by(self.model, self.graph, self.units, values, x)

    def on_the_way(
        self, ends: Tensor, data: Tensor, times: Tensor, random: torch.Generator
    ) -> Tensor:
        """How far the networks ``ends`` [B, P] are from ``data`` [B, P] in what they say.

        ``times`` ``[B]``: of the points that the lines to these ends begin at.
        """
        x = self._draw(random)
        with torch.no_grad():
            wanted = self.says(data, x)
        return (lateness(times) * gaps(self.gap, self.says(ends, x), wanted)).mean()

    def on_its_own(self, field: Field, batch: int, random: torch.Generator) -> Tensor:
        """The same for ends of lines that begin where sampling has come to, which goes on."""
        paths = self.paths
        paths.open(batch, random)
        velocity = field(self.graph, paths.points, paths.times, self.known[paths.of])
        ends = paths.points + (1 - paths.times).unsqueeze(1) * velocity
        x = self._draw(random)
        apart = gaps(self.gap, self.says(ends, x), self._expected(x, random))
        found = (lateness(paths.times) * apart).mean()
        paths.go_on(velocity, random)
        return found

    def _draw(self, random: torch.Generator) -> Tensor:
        if self.odds is None:
            return self.inputs[torch.randint(len(self.inputs), (_INPUTS,), generator=random)]
        return self.inputs[torch.multinomial(self.odds, _INPUTS, True, generator=random)]

    @torch.no_grad()
    def _odds(self, unsure: float) -> Tensor:
        """How likely each input is drawn, ``[n]``."""
        count = len(self.values)  # in any order, by class or accuracy say
        some = self.values[torch.linspace(0, count - 1, min(count, _MOST)).round().long()]
        parts = self.inputs.split(_INPUTS)
        mean = torch.cat([centred("kl", self.says(some, x)).mean(0) for x in parts])
        entropy = torch.special.entr(mean.softmax(-1)).sum(-1).reshape(len(mean), -1).mean(1)
        if not bool(entropy.isfinite().all()):
            raise ValueError(
                "What networks say at some inputs is infinite, so that inputs cannot be drawn by "
                "entropy. Scale the inputs as in training, or set unsure=0."
            )
        entropy = entropy.clamp_min(1e-9)
        return (1 - unsure) / len(entropy) + unsure * entropy / entropy.sum()

    def _noise(self, of: Tensor, random: torch.Generator) -> Tensor:
        labels = None if self.labels is None else self.labels[of]
        return self.units.noise(self.graph, len(of), random, labels)

    @torch.no_grad()
    def _expected(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Mean of what training networks of each path's condition say, ``[batch, n, ...]``."""
        some = torch.arange(len(self.values))
        if len(some) > _MOST:
            drawn = torch.randint(len(some), (_MOST,), generator=random)
            some = torch.cat([drawn, self.paths.of]).unique()
        said = centred(self.gap, self.says(self.values[some], x))
        alike = (self.known[self.paths.of].unsqueeze(1) == self.known[some]).all(-1).to(said)
        mean = (alike / alike.sum(1, keepdim=True)) @ said.flatten(1)
        return mean.unflatten(1, said.shape[1:])


def said_by(
    model: nn.Module, graph: ParameterGraph, units: Units, values: Tensor, x: Tensor
) -> Tensor:
    """Outputs ``[B, n, ...]`` at inputs ``[n, ...]`` of networks ``[B, P]`` in units.

    ``model`` is a module of their architecture, whose buffers they have.
    """
    named = blocked(graph).unflatten(units.back(graph, values))
    buffers = buffers_like(model, values)
    out: Tensor = vmap(lambda own: functional_call(model, {**own, **buffers}, (x,)))(named)
    return out


def centred(kind: Gap, outputs: Tensor) -> Tensor:
    """Logits up to what a softmax does not see; other outputs as they are."""
    return outputs - outputs.mean(-1, keepdim=True) if kind == "kl" else outputs


def lateness(times: Tensor) -> Tensor:
    """What gaps at ``times`` count, of mean 1 over [0, 1]: one over the time to the end."""
    left = (1 - times).clamp_min(0) + _SOON
    return 1 / (left * math.log((1 + _SOON) / _SOON))


def gaps(kind: Gap, made: Tensor, wanted: Tensor) -> Tensor:
    """How far outputs ``[B, n, ...]`` are from those wanted, ``[B]``."""
    if kind == "kl":
        apart = F.kl_div(
            made.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True
        ).sum(-1)  # fmt: skip
        return apart.flatten(1).mean(1)
    variance = wanted.var(dim=1, correction=0).mean().clamp_min(1e-12)
    return (made - wanted).square().flatten(1).mean(1) / variance


__all__ = ["GAPS", "Behaviour", "Gap", "gaps", "lateness", "said_by"]
