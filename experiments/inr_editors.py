"""Weight editors to train: the graph metanet, and what it is compared to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
        """NP layers as wide as the graph metanet's nodes, one less of them."""
        shapes = self.graph_of(self.inr).shapes
        self.metanet = NPStack(shapes, features, 1, self.config.hidden, self.config.layers - 1)  # type: ignore[assignment]
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
        """There is none; raises ValueError for an editor without rounds, which would do nothing."""
        if not self.config.rounds:
            raise ValueError("An editor of rates alone needs rounds, received rounds=0.")

    def directions(
        self, graph: ParameterGraph, features: Mapping[str, Tensor], heard: Tensor | None
    ) -> Params:
        """Zeros: there is no learned part but the rates."""
        return {n: torch.zeros_like(t[..., 0]) for n, t in features.items()}


EDITORS: dict[str, type[WeightEditor]] = {
    "gmn": WeightEditor,
    "np_nfn": NPEditor,
    "flat": FlatEditor,
    "np_nfn_rounds": NPEditor,
    "rates": RatesEditor,
}
#: Baselines as published: they read weights alone, in one pass.
_BY_WEIGHTS = ("np_nfn", "flat")


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

    NP-NFN and the flattened MLP read weights alone, in one pass. Ablations of the graph metanet
    have no probes: ``np_nfn_rounds`` has NP-NFN layers in its place, ``rates`` nothing.
    """
    if kind not in EDITORS:
        raise ValueError(f"There is no editor {kind!r}; there are {', '.join(EDITORS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind != "gmn":
            rounds = 0 if kind in _BY_WEIGHTS else config.rounds
            config = replace(config, probes=0, rounds=rounds)
        return EDITORS[kind](inr, config)
