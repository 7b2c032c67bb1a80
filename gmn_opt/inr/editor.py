"""WeightEditor: a graph metanet that edits what an INR shows, by way of its weights alone.

The edited parameters of tensor t are ``θ_t + strength · γ_t · Δ_t`` with Δ from the metanet and a
learned scale γ_t, 0.01 at the start (Zhou et al. 2023, arXiv 2302.14040, appendix; the protocol of
all later work on edits of INRs). The editor reads weights and is trained through the rendered
image; it is never given the image. With probes it also evaluates the network at a few places; with
rounds it renders the network and edits in several steps (:mod:`gmn_opt.inr.refining`).

Deviations: SIRENs are brought to one representative of the sine's symmetries first (see
:mod:`gmn_opt.inr.canonical`), so that an edit of strength 0 has other weights and the same
function; and the metanet reads every weight in units of the training set's, beside sines and
cosines of it; and a change of a weight is, beside the metanet's readout of its edge, a product of
readouts of its two ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph, trace
from gmn_opt.inr.base import Inr, InrConfig, Params, is_number
from gmn_opt.inr.canonical import canonical
from gmn_opt.inr.probing import SirenProbes, features_per_node
from gmn_opt.inr.refining import SLOPE_FEATURES, Refinement, Units
from gmn_opt.inr.rendering import render
from gmn_opt.inr.settling import settle
from gmn_opt.inr.siren import SirenConfig
from gmn_opt.metanet import GraphMetanet, blocked
from gmn_opt.metanet.execution import at_ends
from gmn_opt.weights.plain import is_count

START = 0.01
#: Hidden width at which learned scales have their published meaning.
WIDTH = 32


@dataclass(frozen=True)
class EditorConfig:
    """How an editor is built.

    Attributes:
        edit: Name of what it does; one of `gmn_opt.inr.edits.EDITS`, or anything.
        hidden, edge_hidden, layers: Sizes of the metanet.
        frequencies: Sines and cosines of each weight that the metanet reads in addition to it.
        gain: Of the metanet's first layer at initialization. At 1, SiLU is nearly linear on what
            comes out, and the mean of a function that is nearly linear says little.
        probes: Places of the image at which activations are read; 0 to read weights alone. SIRENs
            only, see :mod:`gmn_opt.inr.probing`.
        rounds: Steps towards a predicted image, see :mod:`gmn_opt.inr.refining`; 0 to edit in one
            pass, by the weights (and probes).
        grid: With rounds, pixels along each side of the image that is rendered.
        vision: With rounds, channels of the network that predicts the image.
        places: Whether that network sees coordinates.
        settle: Steps of :mod:`gmn_opt.inr.settling` after the rounds, see `edit_batch`.

    Raises ValueError for sizes that make no editor, such as rounds without a grid of 2 pixels by 2.
    """

    edit: str = "dilate"
    hidden: int = 64
    edge_hidden: int = 16
    layers: int = 4
    frequencies: int = 2
    gain: float = 4.0
    probes: int = 0
    rounds: int = 0
    grid: int = 28
    vision: int = 16
    places: bool = True
    settle: int = 0

    def __post_init__(self) -> None:
        """See the class."""
        sizes = {n: getattr(self, n) for n in ("hidden", "edge_hidden", "layers")}
        if not all(is_count(n) for n in sizes.values()):
            raise ValueError(f"An editor needs positive whole numbers, received {sizes}.")
        counts = {
            n: getattr(self, n)
            for n in ("frequencies", "probes", "rounds", "grid", "vision", "settle")
        }
        if not all(is_count(n, 0) for n in counts.values()):
            raise ValueError(f"An editor needs whole numbers from 0 on, received {counts}.")
        if not isinstance(self.edit, str) or not is_number(self.gain):
            raise ValueError(
                "An editor needs the name of an edit and a finite gain, received "
                f"edit={self.edit!r}, gain={self.gain!r}."
            )
        if not isinstance(self.places, bool):
            raise ValueError(f"Places are seen or not, received places={self.places!r}.")
        if self.rounds and (self.grid < 2 or self.vision < 1):
            raise ValueError(
                "An editor with rounds needs a grid of at least 2 pixels and a channel to see "
                f"them, received rounds={self.rounds}, grid={self.grid}, vision={self.vision}."
            )


def traced(inr: Inr) -> ParameterGraph:
    """The parameter graph of an INR, with linked groups merged."""
    return trace(inr, torch.zeros(3, inr.config.inputs)).contract()


def role_of(name: str, layers: int) -> str:
    """Which scale a parameter shares: its layer is the first, the last or between them."""
    kind, _, rest = name.partition(".")
    if kind != "layers":
        return name
    number, _, leaf = rest.partition(".")
    place = {0: "first", layers: "last"}.get(int(number), "hidden")
    return f"{place}.{leaf}"


class WeightEditor(nn.Module):
    """Edits INRs of one family, of any widths and numbers of hidden layers.

    Scales belong to the first layer, the last one and those between: on the usual two hidden
    layers, to every tensor. Behind the first layer, changes of weights are divided by the width
    that they are summed over, relative to `WIDTH`.

    Args:
        inr: Config of the INRs it is made for.
        config: Sizes.

    ``about`` are plain values that its file said, such as the size of the images.
    """

    spread: Tensor

    def __init__(self, inr: InrConfig, config: EditorConfig | None = None) -> None:
        super().__init__()
        self.inr, self.config = inr, config or EditorConfig()
        self.about: dict[str, Any] = {}
        self._graphs: dict[InrConfig, ParameterGraph] = {}
        self._kinds: dict[InrConfig, Inr] = {}
        graph = self.graph_of(inr)
        names = [role_of(n, len(inr.widths)) for n in graph.shapes]
        self.roles = sorted({"hidden.weight", "hidden.bias", *names})
        self.scale = nn.Parameter(torch.full((len(self.roles),), START))
        self.register_buffer("spread", torch.ones(len(self.roles)))
        self.probes: SirenProbes | None = None
        c = self.config
        self.refinement: Refinement | None = None
        if c.rounds:
            self.refinement = Refinement(
                inr.outputs, len(self.roles), c.rounds, c.grid, c.vision, c.places
            )
        self.make_metanet(1 + 2 * c.frequencies + (SLOPE_FEATURES if c.rounds else 0))

    def make_metanet(self, features: int) -> None:
        """Build what `directions` needs; each weight comes with this many features."""
        c = self.config
        told = self.refinement.node_features if self.refinement else 0
        self.metanet = GraphMetanet(
            features,
            1,
            hidden=c.hidden,
            edge_hidden=c.edge_hidden,
            layers=c.layers,
            node_inputs=features_per_node(self.inr, c.probes) + told,
        )
        if c.probes:
            self.probes = SirenProbes(self.inr, c.probes)
        with torch.no_grad():
            self.metanet.edge_encoder.weight.mul_(c.gain)
        self.node_norm = nn.LayerNorm(c.hidden)
        self.rows = nn.Linear(c.hidden, c.hidden)
        self.columns = nn.Linear(c.hidden, c.hidden)
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)

    def directions(
        self, graph: ParameterGraph, features: Mapping[str, Tensor], heard: Tensor | None
    ) -> Params:
        """Δ, ``{name: [..., *shape]}``, from ``{name: [..., *shape, features]}``.

        ``heard`` [..., nodes, features] are the probe features, if there are any. The metanet's
        readout of the edge, plus the product of what its two ends say: as the gradient of a weight
        is made of an activation and a backward signal.
        """
        layout = blocked(graph)
        flat = layout.flatten({n: t.movedim(-1, 0) for n, t in features.items()})
        states = self.metanet.states(graph, flat.movedim(0, -2), node_inputs=heard)
        nodes = self.node_norm(states.nodes)
        pairs = torch.cat([self.rows(nodes), self.columns(nodes)], -1)
        products = [(rows.mT @ columns).flatten(-2) for rows, columns in at_ends(graph, pairs)]
        readout = self.metanet.readout
        assert readout is not None
        change = (readout.weight @ states.edges).squeeze(-2)
        return layout.unflatten(change + torch.cat(products, -1) * self.config.hidden**-0.5)

    @property
    def graph(self) -> ParameterGraph:
        """The parameter graph of the INRs that the editor was made for."""
        return self._graphs[self.inr]

    def graph_of(self, config: InrConfig) -> ParameterGraph:
        """The parameter graph of INRs of this config.

        Raises ValueError when the editor cannot edit them.
        """
        if config not in self._graphs:
            if replace(config, widths=self.inr.widths) != self.inr:
                raise ValueError(
                    f"This editor ({self.config.edit}) was made for {self.inr}, other widths "
                    f"allowed; received an INR of {config}. Use an editor for such INRs."
                )
            with torch.random.fork_rng(devices=[]):
                self._graphs[config] = traced(config.build())
        return self._graphs[config]

    def _units(self, graph: ParameterGraph) -> Units:
        """Per parameter, the position of its role and what changes are divided by."""
        layers = sum(n.endswith(".weight") for n in graph.shapes) - 1
        out = {}
        for name, shape in graph.shapes.items():
            role = role_of(name, layers)
            behind = role in ("hidden.weight", "last.weight")
            out[name] = self.roles.index(role), shape[1] / WIDTH if behind else 1.0
        return out

    @torch.no_grad()
    def measure(self, params: Mapping[str, Tensor], config: InrConfig | None = None) -> None:
        """Take root mean squares over a training set as the units of the values.

        Args:
            params: ``{name: [N, *shape]}``.
            config: Of these INRs.
        """
        config = config or self.inr
        known = self.prepare(params, config)
        found: dict[int, list[Tensor]] = {}
        for name, (role, width) in self._units(self.graph_of(config)).items():
            found.setdefault(role, []).append(known[name].square().mean() * width)
        for role, squares in found.items():
            self.spread[role] = torch.stack(squares).mean().sqrt().clamp_min(1e-8)
        if self.refinement is not None:
            units = self._units(self.graph_of(config))
            self.refinement.measure(self._kind(config), known, units)

    def _kind(self, config: InrConfig) -> Inr:
        """An INR of this config; its parameters mean nothing."""
        self.graph_of(config)
        if config not in self._kinds:
            with torch.random.fork_rng(devices=[]):
                self._kinds[config] = config.build()
        return self._kinds[config]

    @staticmethod
    def prepare(params: Mapping[str, Tensor], config: InrConfig) -> Params:
        """The same functions with the parameters that an edit starts from."""
        return canonical(params, config) if isinstance(config, SirenConfig) else dict(params)

    def delta(
        self, params: Mapping[str, Tensor], config: InrConfig, goal: Tensor | None = None
    ) -> Params:
        """What is added to prepared parameters ``{name: [..., *shape]}``, of the same shapes."""
        graph = self.graph_of(config)
        name, shape = next(iter(graph.shapes.items()))
        lead = params[name].shape[: params[name].dim() - len(shape)]
        flat = {n: params[n].reshape(-1, *s) for n, s in graph.shapes.items()}
        if self.refinement is None:
            out = self._change(config, flat, {}, None)
        else:
            change = partial(self._change, config)
            out = self.refinement(self._kind(config), flat, self._units(graph), change, goal)
        return {n: t.reshape(*lead, *graph.shapes[n]) for n, t in out.items()}

    def _change(
        self,
        config: InrConfig,
        params: Mapping[str, Tensor],
        beside: Mapping[str, Tensor],
        told: Tensor | None,
    ) -> Params:
        """γ·Δ of one pass.

        Args:
            config: Of the INRs.
            params: ``{name: [N, *shape]}``.
            beside: ``{name: [N, *shape, features]}``, to be read in addition to the weights.
            told: ``[N, features]``, the same input for every node.
        """
        graph = self.graph_of(config)
        units = self._units(graph)
        like = next(iter(params.values()))
        turns = 2.0 ** torch.arange(self.config.frequencies, dtype=like.dtype, device=like.device)
        features = {}
        for name, (role, width) in units.items():
            value = (params[name] * (width**0.5 / self.spread[role])).unsqueeze(-1)
            angle = value * turns
            more = [beside[name]] if name in beside else []
            features[name] = torch.cat([value, angle.sin(), angle.cos(), *more], -1)
        heard = []
        if self.probes is not None and isinstance(config, SirenConfig):
            heard.append(self.probes(params, config, graph))
        if told is not None:
            nodes = sum(blocked(graph).group_sizes)
            heard.append(told.unsqueeze(1).expand(-1, nodes, -1))
        out = self.directions(graph, features, torch.cat(heard, -1) if heard else None)
        return {n: self.scale[r] / width * out[n] for n, (r, width) in units.items()}

    def forward(
        self,
        params: Mapping[str, Tensor],
        config: InrConfig | None = None,
        strength: float | Tensor = 1.0,
        goal: Tensor | None = None,
    ) -> Params:
        """Edited parameters.

        Args:
            params: ``{name: [N, *shape]}`` (any leading dimensions).
            config: Of these INRs; by default the one that the editor was made for.
            strength: 0 leaves the function as it is, 1 is the edit, between and beyond
                interpolates.
            goal: With rounds, what `Refinement.goal` gives for these INRs, where it is known.

        Raises ValueError for INRs that the editor was not made for.
        """
        config = config or self.inr
        known = self.prepare(params, config)
        change = self.delta(known, config, goal)
        return {n: known[n] + strength * change[n] for n in change}

    def show(
        self, params: Mapping[str, Tensor], config: InrConfig, size: tuple[int, int],
        goal: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """What edited networks show, ``[N, H, W, C]``, differentiable; see `forward`.

        Plain steps after the rounds (`edit_batch`) are no part of it.
        """
        return render(self._kind(config), size, self(params, config, goal=goal))

    @torch.no_grad()
    def edit_batch(
        self,
        params: Mapping[str, Tensor],
        config: InrConfig | None = None,
        strength: float = 1.0,
    ) -> Params:
        """Edited parameters as they are used, with the plain steps of an editor that takes some.

        With these, ``strength`` scales the change of the image that is aimed at.

        Args:
            params: ``{name: [N, *shape]}``.
            config: Of these INRs; by default the one that the editor was made for.
            strength: See `forward`.

        Raises ValueError for INRs that the editor was not made for.
        """
        config = config or self.inr
        steps = self.config.settle
        if self.refinement is None or not steps or strength == 0:
            return self(params, config, strength)
        inr, known = self._kind(config), self.prepare(params, config)
        low, high = config.value_range
        shown = render(inr, self.config.grid, known)
        goal = self.refinement.predictor(shown).clamp(low, high)
        goal = shown + strength * (goal - shown)
        return settle(inr, self(params, config, goal=goal), goal, steps)

    @torch.no_grad()
    def edit(self, inr: Inr, strength: float = 1.0) -> Inr:
        """An edited copy of one INR; raises ValueError for one of another kind."""
        config = inr.config
        self.graph_of(config)
        params = {n: p.unsqueeze(0) for n, p in inr.named_parameters()}
        done = self.edit_batch(params, config, strength)
        with torch.random.fork_rng(devices=[]):
            out = config.build().to(next(inr.parameters()))
        out.load_state_dict({n: t[0] for n, t in done.items()})
        return out
