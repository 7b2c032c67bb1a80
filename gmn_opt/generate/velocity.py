"""The velocity field: a graph metanet from a noisy network, a time and a condition to a change.

A change of a weight is the metanet's readout of its edge plus a product of readouts of its two
ends, as the gradient of a weight is made of an activation and a backward signal. With probes, nodes
also know what their neuron says at learned inputs (and, in a SIREN, how the output there depends on
it), and all of them what the whole network says there: a few rounds of message passing could not
work that out. With anchors, edges also know where an energy goes downhill, and follow it as far as
their block says; see :mod:`gmn_opt.generate.energy`. All of it is equivariant to the symmetries of
the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmn_opt.generate.behaviour import GAPS, Gap
from gmn_opt.generate.carry import carried
from gmn_opt.generate.energy import Energy
from gmn_opt.generate.units import Units
from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import Inr, SirenConfig
from gmn_opt.inr.probing import SirenProbes, features_per_node
from gmn_opt.metanet import GraphMetanet, Probes, blocked
from gmn_opt.metanet.execution import at_ends
from gmn_opt.metanet.features import NODE_FEATURES, structural
from gmn_opt.metanet.layers.states import TwoLayer

_FREQUENCIES = 4
TIME_FEATURES = 1 + 2 * _FREQUENCIES
#: Gradients of a mean over inputs, by weights in units, are small numbers.
_STEEP = 30.0


@dataclass(frozen=True)
class FieldConfig:
    """Sizes of a velocity field.

    Attributes:
        hidden, edge_hidden, layers: Of the metanet.
        gain: Of the metanet's first layer at initialization.
        probes: Inputs at which activations are read; 0 to read weights alone. A model must be given
            then.
        carried: Features that weights carry between their ends before the metanet; 0 for none. See
            :mod:`gmn_opt.generate.carry`.
        anchors: Learned inputs with learned answers that networks are drawn towards; 0 for none. A
            model must be given then. See :mod:`gmn_opt.generate.energy`.
        answers: What answers are: ``"kl"`` for logits, ``"mse"`` for other outputs.

    Raises ValueError for sizes below 1, or fewer than no probes.
    """

    hidden: int = 64
    edge_hidden: int = 16
    layers: int = 3
    gain: float = 2.0
    probes: int = 0
    carried: int = 0
    anchors: int = 0
    answers: Gap = "kl"

    def __post_init__(self) -> None:
        """See the class."""
        sizes = (self.hidden, self.edge_hidden, self.layers)
        if min(sizes) < 1 or min(self.probes, self.carried, self.anchors) < 0:
            raise ValueError(
                "Sizes must be at least 1, probes, carried and anchors at least 0, received "
                f"{self}."
            )
        if self.answers not in GAPS:
            raise ValueError(f"answers is one of {list(GAPS)}, received {self.answers!r}.")


def time_features(time: Tensor) -> Tensor:
    """Times in [0, 1] ``[...]`` to ``[..., TIME_FEATURES]``."""
    turns = 2.0 ** torch.arange(_FREQUENCIES, dtype=time.dtype, device=time.device)
    angle = time.unsqueeze(-1) * (math.pi * turns)
    return torch.cat([time.unsqueeze(-1), angle.sin(), angle.cos()], -1)


def gaussian_part(time: Tensor) -> Tensor:
    """By what a point is to be multiplied for its velocity, were data distributed as noise is.

    The conditional mean of data minus noise for two independent Gaussians of one covariance; what
    is to be learned is the difference from it.
    """
    return (2 * time - 1) / (time.square() + (1 - time).square())


class VelocityField(nn.Module):
    """``[B, P]`` in units at times ``[B]`` to velocities ``[B, P]``.

    Args:
        config: Sizes.
        units: Of the weights.
        conditions: Numbers that describe a condition.
        model: A network of the architecture, needed for probes and anchors.
        graph: Its graph, needed for probes.
        example: Inputs of the model ``[batch, ...]``, needed for probes on what is no SIREN and for
            anchors on what is no INR; anchors begin as these.

    Raises ValueError for probes or anchors without what they need.
    """

    def __init__(
        self,
        config: FieldConfig,
        units: Units,
        conditions: int = 0,
        *,
        model: nn.Module | None = None,
        graph: ParameterGraph | None = None,
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config, self.units, self.classes = config, units, 0
        if units.means is not None and len(units.means) > 1:
            self.classes = len(units.means)
        c = config.hidden
        own, told = 0, 0
        self.probes: SirenProbes | Probes | None = None
        self.siren: SirenConfig | None = None
        if config.probes:
            if model is None or graph is None:
                raise ValueError(
                    f"probes={config.probes} listen to a network: pass model=, a module of the "
                    "architecture, or set probes=0."
                )
            if isinstance(model, Inr) and isinstance(model.config, SirenConfig):
                self.siren = model.config
                self.probes = SirenProbes(self.siren, config.probes)
                own = features_per_node(self.siren, config.probes)
            else:
                if example is None:
                    raise ValueError(
                        f"probes={config.probes} on a {type(model).__name__} need example= inputs, "
                        "[batch, ...] in floating point."
                    )
                self.probes = Probes(model, graph, example, config.probes)
                own = config.probes
            told = config.probes * sum(_output_sizes(graph))
        told += 0 if units.directions is None else len(units.directions)
        self.told = TwoLayer(TIME_FEATURES + conditions + told, c, c)
        self.said = nn.Linear(NODE_FEATURES + own + c, config.carried) if config.carried else None
        self.metanet = GraphMetanet(
            1 + (units.center is not None) + bool(config.anchors),
            1,
            hidden=c,
            edge_hidden=config.edge_hidden,
            layers=config.layers,
            node_inputs=own + c + 2 * config.carried,
        )
        with torch.no_grad():
            self.metanet.edge_encoder.weight.mul_(config.gain)
        self.node_norm = nn.LayerNorm(c)
        self.rows, self.columns = nn.Linear(c, c), nn.Linear(c, c)
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)
        self.energy = _energy(config, model, example) if config.anchors else None
        self.downhill = nn.Linear(c, 1) if config.anchors else None
        if self.downhill is not None:
            nn.init.zeros_(self.downhill.weight)
            nn.init.zeros_(self.downhill.bias)

    def forward(
        self, graph: ParameterGraph, values: Tensor, time: Tensor, condition: Tensor
    ) -> Tensor:
        """See the class; ``condition`` is ``[B, conditions]``."""
        layout = blocked(graph)
        nodes = sum(layout.group_sizes)
        known = [time_features(time), condition]
        heard = []
        if self.probes is not None:
            seen = self._hear(graph, values)
            heard.append(seen)
            groups = seen[..., : self.config.probes].split(layout.group_sizes, 1)
            outputs = [g for g, of in zip(groups, graph.groups, strict=True) if of.role == "output"]
            known += [g.flatten(1) for g in outputs]
        along = self.units.coordinates(values)
        known += [] if along is None else [along]
        told = self.told(torch.cat(known, -1)).unsqueeze(1).expand(-1, nodes, -1)
        edges = values.unsqueeze(-2)
        center = self.units.center_in_units(graph, values)
        if center is not None:
            edges = torch.cat([edges, center.expand_as(values).unsqueeze(-2)], -2)
        slope = None
        if self.energy is not None:
            slope = _STEEP * self.energy.slope(graph, self.units, values)
            edges = torch.cat([edges, slope.asinh().unsqueeze(-2)], -2)
        inputs = torch.cat([*heard, told], -1)
        if self.said is not None:
            places = structural(graph, values)[0].expand(*inputs.shape[:2], -1)
            said = self.said(torch.cat([places, inputs], -1))
            inputs = torch.cat([inputs, carried(graph, values, said)], -1)
        states = self.metanet.states(graph, edges, node_inputs=inputs)
        ends = self.node_norm(states.nodes)
        pairs = torch.cat([self.rows(ends), self.columns(ends)], -1)
        products = [(rows.mT @ columns).flatten(-2) for rows, columns in at_ends(graph, pairs)]
        readout = self.metanet.readout
        assert readout is not None
        change = (readout.weight @ states.edges).squeeze(-2)
        out = change + torch.cat(products, -1) * self.config.hidden**-0.5
        if slope is not None:
            assert self.downhill is not None
            counts = torch.tensor(layout.edge_counts, device=values.device)
            far = self.downhill(states.blocks).squeeze(-1).repeat_interleave(counts, -1)
            out = out + far * slope
        apart = values - self.units.mean(values, condition[:, : self.classes])
        return self.units.within(out + gaussian_part(time).unsqueeze(-1) * apart)

    def _hear(self, graph: ParameterGraph, values: Tensor) -> Tensor:
        """Features of nodes ``[B, N, features]``, from networks in units."""
        named: Mapping[str, Tensor] = blocked(graph).unflatten(self.units.back(graph, values))
        if isinstance(self.probes, SirenProbes):
            assert self.siren is not None
            return self.probes(named, self.siren, graph)
        assert self.probes is not None
        out: Tensor = self.probes(named)
        return out


def _energy(config: FieldConfig, model: nn.Module | None, example: Tensor | None) -> Energy:
    """Its inputs begin as the example's, those of INRs anywhere."""
    if model is None:
        raise ValueError(
            f"anchors={config.anchors} call a network: pass model=, a module of the architecture, "
            "or set anchors=0."
        )
    if example is None and isinstance(model, Inr):
        return Energy(
            model, torch.rand(config.anchors, model.config.inputs) * 2 - 1, config.answers
        )
    if example is None or not example.is_floating_point() or not len(example):
        raise ValueError(
            f"anchors={config.anchors} on a {type(model).__name__} begin as example= inputs, "
            "[batch, ...] in floating point."
        )
    begun = example[torch.arange(config.anchors) % len(example)]
    return Energy(model, begun, config.answers)


def _output_sizes(graph: ParameterGraph) -> list[int]:
    sizes = blocked(graph).group_sizes
    return [n for g, n in zip(graph.groups, sizes, strict=True) if g.role == "output"]


__all__ = ["FieldConfig", "VelocityField", "gaussian_part", "time_features"]
