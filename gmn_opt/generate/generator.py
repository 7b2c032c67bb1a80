"""A generator: new networks from noise, along the velocity field."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gmn_opt.generate.conditions import Condition, Conditions
from gmn_opt.generate.neurons import Neurons
from gmn_opt.generate.paths import LATE, MOST_ROUNDS, back
from gmn_opt.generate.units import Units
from gmn_opt.generate.velocity import FieldConfig, VelocityField
from gmn_opt.graph import ParameterGraph
from gmn_opt.inr import config_from_dict
from gmn_opt.inr.editor_files import MOST_LAYERS, MOST_PARAMETERS
from gmn_opt.metanet import blocked
from gmn_opt.weights import WeightsError, WeightSet, load, save
from gmn_opt.weights.headers import Shapes, check_metanet
from gmn_opt.weights.plain import is_count, reason, shown

KIND = "network generator"
_UNITS = "units."
_TENSORS = ("center", "directions", "means", "factors")
#: Tensors with a row for each probe (one of them) and for each anchor.
_ROWS = {"probes": ("probes.inputs.0", "probes.places"), "anchors": ("energy.inputs",)}
Method = Literal["euler", "heun"]


class Generator:
    """What `fit_generator` returns.

    Attributes:
        graph: Of the networks it was fitted to (the first, of several).
        field: The velocity field.
        conditions: What it can be asked for.
        about: Plain values that are kept in its file.
    """

    def __init__(
        self,
        graph: ParameterGraph,
        field: VelocityField,
        conditions: Conditions,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.graph, self.field, self.conditions = graph, field, conditions
        self.about = about or {}

    @property
    def units(self) -> Units:
        """Of the weights."""
        return self.field.units

    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Condition = None,
        graph: ParameterGraph | None = None,
        *,
        steps: int = 20,
        method: Method = "heun",
        corrections: int | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        seed: int | None = 0,
        noise: Tensor | None = None,
        batch: int = 64,
    ) -> dict[str, Tensor]:
        """New networks, ``{name: [n, *shape]}``.

        Args:
            n: How many.
            condition: A class or numbers for all of them, or for each; None for any.
            graph: Of the networks wanted, where they have other widths.
            steps: Steps from noise to networks.
            method: ``"euler"``, or ``"heun"``, which evaluates the field twice per step.
            corrections: Rounds after these in which a sample goes back a little way to its noise,
                and to its end again (as the corrector of Song et al. 2021, arXiv 2011.13456, but to
                the same noise): errors of the way are mended. By default as many as the generator
                was fitted to make (``FlowConfig.corrections``), none where a condition is left open
                or exaggerated, which the fit does not correct.
            guidance: Above 1, what the condition changes is exaggerated (Ho & Salimans 2022); has
                no effect where noise is drawn per class.
            temperature: Of the noise: below 1, it is drawn nearer to its mean, and networks are
                more like each other.
            seed: Of the noise; None to draw from torch's global state.
            noise: ``[n, P]`` in units, to begin with this instead.
            batch: Networks at once.

        Raises ValueError for a condition that was not learned, and networks that the generator
        cannot make.
        """
        if corrections is None:
            free = bool(self.conditions.size) and condition is None and not self.field.classes
            corrections = 0 if free or guidance != 1.0 else self._learned_corrections()
        if n < 1 or steps < 1 or batch < 1 or corrections < 0:
            raise ValueError(
                "n, steps and batch must be at least 1, corrections at least 0, received "
                f"{n, steps, batch, corrections}."
            )
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, received {temperature}.")
        if method not in ("euler", "heun"):
            raise ValueError(f"No method {method!r}; there are 'euler' and 'heun'.")
        graph = self.graph if graph is None else self._fitting(graph)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        if condition is None and self.field.classes:
            some = torch.randint(self.field.classes, (n,), generator=generator)
            condition = torch.tensor(self.conditions.classes)[some]
        known = self.conditions.encode(condition, n)
        if noise is None:
            labels = known[:, : self.field.classes].argmax(1) if self.field.classes else None
            noise = self.units.noise(graph, n, generator, labels)
            if temperature != 1.0:
                mean = self.units.mean(noise, known[:, : self.field.classes])
                noise = mean + temperature * (noise - mean)
        like = next(self.field.parameters())
        parts = [
            self._flow(graph, x.to(like), c.to(like), steps, method, corrections, guidance)
            for x, c in zip(noise.split(batch), known.split(batch), strict=True)
        ]
        values = torch.cat(parts)
        return blocked(graph).unflatten(self.units.back(graph, values))

    def _learned_corrections(self) -> int:
        return int((self.about.get("flow") or {}).get("corrections", 0))

    def _flow(
        self, graph: ParameterGraph, x: Tensor, condition: Tensor, steps: int, method: str,
        corrections: int, guidance: float,
    ) -> Tensor:  # fmt: skip
        guided = guidance != 1.0 and self.conditions.size and not self.field.classes

        def velocity(at: Tensor, t: float) -> Tensor:
            time = at.new_full((len(at),), t)
            v: Tensor = self.field(graph, at, time, condition)
            if guided:
                free = self.field(graph, at, time, torch.zeros_like(condition))
                v = free + guidance * (v - free)
            return v

        begun = x
        for i in range(steps):
            here, there = i / steps, (i + 1) / steps
            v = velocity(x, here)
            ahead = x + v / steps
            if method == "heun":
                ahead = x + (v + velocity(ahead, there)) / (2 * steps)
            x = ahead
        for _ in range(corrections):
            x = back(x, begun)
            x = x + (1 - LATE) * velocity(x, LATE)
        return x

    def _fitting(self, graph: ParameterGraph) -> ParameterGraph:
        unknown = sorted(set(graph.shapes) - set(self.units.scale))
        if unknown:
            raise ValueError(
                f"This generator never saw tensors {unknown[:4]}; it knows "
                f"{sorted(self.units.scale)[:6]}. Other widths are possible, other layers are not."
            )
        same = graph.shapes == self.graph.shapes
        if not same and self.units.center is not None:
            raise ValueError(
                "This generator was fitted to networks in a shared order, and makes deviations "
                "from their mean: it knows no other widths. Fit with shared_order=False."
            )
        if not same and self.field.config.probes:
            raise ValueError(
                "This generator listens to networks of one architecture (probes); fit with "
                "probes=0 to generate other widths."
            )
        return graph

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, whole or not at all."""
        units = self.units
        kept = {n: getattr(units, n) for n in _TENSORS}
        siren = self.field.siren
        config = {
            "field": asdict(self.field.config),
            "scale": units.scale,
            "conditions": asdict(self.conditions),
            "graph": self.graph.to_json(),
            "inr": None if siren is None else siren.to_dict(),
            "about": self.about,
        }
        tensors = dict(self.field.state_dict())
        tensors |= {_UNITS + n: t for n, t in kept.items() if t is not None}
        if units.neurons is not None:
            tensors |= {_UNITS + n: t for n, t in units.neurons.tensors().items()}
        save(path, WeightSet(Path(path).stem, KIND, config, tensors))

    @staticmethod
    def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> Generator:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            model: A network of the architecture; needed where the generator has probes or
                anchors and makes no INRs.

        Raises WeightsError when the file is missing, damaged, or holds something else, ValueError
        without a model where one is needed.
        """
        found = load(path, KIND, _check)
        try:
            config, tensors = found.config, found.tensors
            graph = ParameterGraph.from_json(config["graph"])
            units = _units(config["scale"], tensors)
            lists: Mapping[str, list[Any]] = config["conditions"]
            conditions = Conditions(**{n: tuple(v) for n, v in lists.items()})
            sizes = FieldConfig(**config["field"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} does not fit this gmn-opt: {reason(error)}") from error
        example = None
        if config.get("inr") is not None:
            with torch.random.fork_rng(devices=[]):
                model = config_from_dict(config["inr"]).build()
        elif model is not None:  # of the right shape; the values are read below
            kept = (tensors[n] for n in ("probes.inputs.0", "energy.inputs") if n in tensors)
            example = next(kept, None)
        with torch.random.fork_rng(devices=[]):
            field = VelocityField(
                sizes, units, conditions.size, model=model, graph=graph, example=example
            )
        try:
            field.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(_UNITS)})
        except RuntimeError as error:
            raise WeightsError(f"{path} does not fit this gmn-opt: {reason(error)}") from error
        return Generator(graph, field.requires_grad_(False).eval(), conditions, config["about"])


def _check(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise ValueError unless a generator of this config would be about as large as its tensors."""
    parts = ("field", "scale", "conditions", "about")
    if not all(isinstance(config.get(part), dict) for part in parts):
        raise ValueError(f"it lacks an entry of {', '.join(parts)}")
    fitted = config["about"].get("flow") or {}
    if not isinstance(fitted, dict) or not is_count(fitted.get("corrections", 0), 0, MOST_ROUNDS):
        raise ValueError(
            f"it was fitted with {shown(fitted)}, where corrections are to be a whole number up to "
            f"{MOST_ROUNDS:,}"
        )
    field = config["field"]
    check_metanet(field, shapes)
    most = sum(math.prod(shape) for shape in shapes.values())
    for name in ("probes", "carried", "anchors"):
        if not is_count(count := field.get(name, 0), 0, most):
            raise ValueError(f"{name} is {shown(count)}, with {most:,} numbers in all")
    for name, tensors in _ROWS.items():
        rows = sum(shapes[n][0] for n in tensors if shapes.get(n))
        if (count := field.get(name, 0)) and rows != count:
            raise ValueError(f"{name} is {count}, and its tensors are for {rows}")
    if config.get("inr") is not None:
        inr = config_from_dict(config["inr"])
        numbers = sum(math.prod(shape) for shape in inr.shapes().values())
        if numbers > MOST_PARAMETERS or len(inr.widths) > MOST_LAYERS:
            raise ValueError(
                f"it makes INRs of {numbers:,} parameters and {len(inr.widths)} layers, at most "
                f"{MOST_PARAMETERS:,} and {MOST_LAYERS} are read"
            )


def _units(scale: dict[str, float], tensors: Mapping[str, Tensor]) -> Units:
    kept = {n.removeprefix(_UNITS): t for n, t in tensors.items() if n.startswith(_UNITS)}
    return Units(scale, **{n: kept.get(n) for n in _TENSORS}, neurons=Neurons.read(kept))


__all__ = ["KIND", "Generator"]
