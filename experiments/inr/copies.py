"""An editor that emits several networks: their renderings are averaged.

The output layer says k changes of every weight in place of one. An error of one network is then
partly made good by another, as in the output ensembles of 2026 that hold the best published figure
of editors that read weights alone. The k networks are one network as well: side by side, k times as
wide, with the mean for a last layer (`side_by_side`, exact); their mean weights are another, of the
old width, which shows something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import InrConfig, Params, WeightEditor, render
from gmn_opt.metanet import GraphMetanet, blocked
from gmn_opt.metanet.execution import at_ends


class CopiesEditor(WeightEditor):
    """A `WeightEditor` in one pass whose results have a dimension of ``copies`` in front."""

    copies: ClassVar[int] = 1

    def make_metanet(self, features: int) -> None:
        """See `WeightEditor.make_metanet`; raises ValueError with rounds or probes."""
        c, k = self.config, self.copies
        if c.rounds or c.probes:
            raise ValueError(
                "Editors of several copies read weights alone, received "
                f"rounds={c.rounds}, probes={c.probes}; set both to 0."
            )
        self.metanet = GraphMetanet(
            features, k, hidden=c.hidden, edge_hidden=c.edge_hidden, layers=c.layers
        )
        with torch.no_grad():
            self.metanet.edge_encoder.weight.mul_(c.gain)
        self.node_norm = nn.LayerNorm(c.hidden)
        self.rows, self.columns = (nn.Linear(c.hidden, k * c.hidden) for _ in range(2))
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)

    def directions(
        self, graph: ParameterGraph, features: Mapping[str, Tensor], heard: Tensor | None
    ) -> Params:
        """Δ, ``{name: [k, ..., *shape]}``, from ``{name: [..., *shape, features]}``."""
        layout, k = blocked(graph), self.copies
        flat = layout.flatten({n: t.movedim(-1, 0) for n, t in features.items()})
        states = self.metanet.states(graph, flat.movedim(0, -2), node_inputs=heard)
        nodes = self.node_norm(states.nodes)
        # copies in front, as a dimension of the batch
        ends = [
            t.unflatten(-1, (k, -1)).movedim(-2, 0) for t in (self.rows(nodes), self.columns(nodes))
        ]
        pairs = torch.cat(ends, -1)
        products = [(rows.mT @ columns).flatten(-2) for rows, columns in at_ends(graph, pairs)]
        readout = self.metanet.readout
        assert readout is not None
        change = (readout.weight @ states.edges).movedim(-2, 0)
        return layout.unflatten(change + torch.cat(products, -1) * self.config.hidden**-0.5)

    def delta(
        self, params: Mapping[str, Tensor], config: InrConfig, goal: Tensor | None = None
    ) -> Params:
        """``{name: [k, N, *shape]}`` for ``{name: [N, *shape]}``."""
        return self._change(config, params, {}, None)

    def show(
        self, params: Mapping[str, Tensor], config: InrConfig, size: tuple[int, int],
        goal: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The mean of what the copies show, ``[N, H, W, C]``."""
        edited = {n: p.flatten(0, 1) for n, p in self(params, config).items()}
        shown = render(self._kind(config), size, edited)
        return shown.unflatten(0, (self.copies, -1)).mean(0)


def copies_editor(copies: int) -> type[CopiesEditor]:
    """The class of editors that emit so many networks."""
    return type(f"CopiesEditor{copies}", (CopiesEditor,), {"copies": copies})


def side_by_side(params: Mapping[str, Tensor], config: InrConfig) -> tuple[Params, InrConfig]:
    """One network per k that shows their mean exactly, k times as wide.

    Args:
        params: ``{name: [k, N, *shape]}`` of networks of linear layers.
        config: Of each.

    Returns:
        ``{name: [N, *shape]}``, and the config of these.
    """
    copies = next(iter(params.values())).shape[0]
    wide = replace(config, widths=tuple(copies * w for w in config.widths))
    out: Params = {}
    for i in range(len(config.widths) + 1):
        weight, bias = params[f"layers.{i}.weight"], params[f"layers.{i}.bias"]
        k, n, rows, columns = weight.shape
        if i == 0:  # all read the same coordinates
            joined = weight.movedim(0, 1).flatten(1, 2)
        elif i == len(config.widths):
            joined = weight.permute(1, 2, 0, 3).flatten(2) / copies
        else:
            eye = torch.eye(k, dtype=weight.dtype, device=weight.device)
            joined = torch.einsum("knrc,kl->nkrlc", weight, eye).reshape(n, k * rows, k * columns)
        out[f"layers.{i}.weight"] = joined
        last = i == len(config.widths)
        out[f"layers.{i}.bias"] = bias.mean(0) if last else bias.movedim(0, 1).flatten(1)
    return out, wide
