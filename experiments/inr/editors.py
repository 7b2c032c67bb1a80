"""Weight editors to train: the graph metanet, and what it is compared to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import EditorConfig, InrConfig, InrSet, Params, WeightEditor
from gmn_opt.metanet.baselines.common import flatten, mlp
from gmn_opt.metanet.baselines.np_nfn import NPStack


class _OneArchitecture(WeightEditor):
    """An editor whose parameters belong to one architecture."""

    def graph_of(self, config: InrConfig) -> ParameterGraph:
        """See `WeightEditor.graph_of`; raises ValueError for other widths too."""
        if config != self.inr:
            raise ValueError(f"This editor is for {self.inr} alone, received an INR of {config}.")
        return super().graph_of(config)


class NPEditor(_OneArchitecture):
    """The same editor with NP-NFN layers in place of the graph metanet."""

    def make_metanet(self, features: int) -> None:
        """NP layers as wide as the graph metanet's nodes, one less of them, but at least two."""
        shapes = self.graph_of(self.inr).shapes
        layers = max(2, self.config.layers - 1)
        self.metanet = NPStack(shapes, features, 1, self.config.hidden, layers)  # type: ignore[assignment]
        _start_at_zero(self.metanet.layers[-1])

    def directions(
        self, graph: ParameterGraph, features: Mapping[str, Tensor], heard: Tensor | None
    ) -> Params:
        """Δ from the NP layers."""
        return {n: t.squeeze(-1) for n, t in self.metanet(features).items()}


class FlatEditor(_OneArchitecture):
    """The same editor with an MLP on the flattened parameters."""

    def make_metanet(self, features: int) -> None:
        """Hidden layers of 8 times the graph metanet's node width."""
        self.shapes = dict(self.graph_of(self.inr).shapes)
        size = sum(prod(s) for s in self.shapes.values())
        wide = 8 * self.config.hidden
        layers = mlp([size, wide, wide, size])
        _start_at_zero(layers[-1])
        self.metanet = layers  # type: ignore[assignment]

    def directions(
        self, graph: ParameterGraph, features: Mapping[str, Tensor], heard: Tensor | None
    ) -> Params:
        """Δ from the MLP, which reads the values alone."""
        values = {n: t[..., 0] for n, t in features.items()}
        out = self.metanet(flatten(values, self.shapes))
        parts = out.split([prod(s) for s in self.shapes.values()], -1)
        return {n: p.unflatten(-1, s) for p, (n, s) in zip(parts, self.shapes.items(), strict=True)}


def _start_at_zero(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.zeros_(p)


class RatesEditor(WeightEditor):
    """Steps along the gradients with learned rates, without a metanet."""

    def make_metanet(self, features: int) -> None:
        """No metanet; raises ValueError without rounds, as nothing would be left."""
        if not self.config.rounds:
            raise ValueError("An editor of rates alone needs rounds, received rounds=0.")
        self.metanet = nn.Identity()  # type: ignore[assignment]

    def directions(
        self, graph: ParameterGraph, features: Mapping[str, Tensor], heard: Tensor | None
    ) -> Params:
        """Zeros: there is no learned part but the rates."""
        return {n: torch.zeros_like(t[..., 0]) for n, t in features.items()}


@dataclass(frozen=True)
class Kind:
    """An editor to compare, and what it may know beside the weights.

    Attributes:
        make: Its class.
        probes, rounds: Whether it keeps the probes and the rounds of its config.
    """

    make: type[WeightEditor]
    probes: bool = False
    rounds: bool = False


#: The editor that ships; the graph metanet in one pass, with probes and by the weights alone;
#: baselines as published, by the weights alone; the rounds with NP-NFN, and with nothing, in the
#: graph metanet's place.
EDITORS = {
    "gmn": Kind(WeightEditor, rounds=True),
    "gmn_probes": Kind(WeightEditor, probes=True),
    "gmn_weights": Kind(WeightEditor),
    "np_nfn": Kind(NPEditor),
    "flat": Kind(FlatEditor),
    "np_nfn_rounds": Kind(NPEditor, rounds=True),
    "rates": Kind(RatesEditor, rounds=True),
}


def some_of(data: InrSet, count: int) -> InrSet:
    """The first INRs of a set."""
    return InrSet(
        data.config,
        {n: p[:count] for n, p in data.params.items()},
        data.images[:count],
        None if data.labels is None else data.labels[:count],
        data.psnr[:count],
        data.manifest,
    )


def new_editor(kind: str, inr: InrConfig, config: EditorConfig, seed: int) -> WeightEditor:
    """A fresh editor; raises ValueError for an unknown kind.

    Of ``config``, probes and rounds count for the kinds that have them.
    """
    if kind not in EDITORS:
        raise ValueError(f"There is no editor {kind!r}; there are {', '.join(EDITORS)}.")
    known = EDITORS[kind]
    probes = config.probes if known.probes else 0
    rounds = config.rounds if known.rounds else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return known.make(inr, replace(config, probes=probes, rounds=rounds))
