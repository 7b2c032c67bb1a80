"""A trained predictor: models whose answers are averaged, a process, and how they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.predict.losses import Objective, as_targets, objective
from gmn_opt.predict.model import ModelConfig, PredictorModel
from gmn_opt.predict.networks import Given, Stack, as_stacks
from gmn_opt.predict.process import Process
from gmn_opt.predict.rivals import Rival
from gmn_opt.weights import WeightsError, WeightSet, load, save
from gmn_opt.weights.plain import is_count, reason, shown

KIND = "predictor"
_CHUNK = 64

Member = PredictorModel | Rival


def make_member(config: dict[str, Any]) -> Member:
    """An untrained model of this config, which names its ``kind``."""
    if config["kind"] == "graph":
        return PredictorModel(ModelConfig(**{k: v for k, v in config.items() if k != "kind"}))
    return Rival(config)


class Predictor(nn.Module):
    """Says something about networks from their weights.

    Made by :func:`gmn_opt.predict.fit_predictor`. Its answers do not change when the neurons of a
    network are put in another order (but those of ``kind="dmc"``), nor with what other networks
    are asked about in the same call.

    Attributes:
        members: Models whose answers are averaged.
        process: A Gaussian process beside them, or None.
        share: Its share in predictions, from 0 to 1; the rest is the members'.
        objective: What is predicted.
        example_inputs: What modules are called with when they are traced; not saved.
        record: How training went, in plain values.
    """

    def __init__(
        self,
        config: dict[str, Any],
        goal: Objective,
        count: int,
        example_inputs: Any = None,
        record: dict[str, Any] | None = None,
        process: Process | None = None,
        share: float = 0.0,
    ) -> None:
        super().__init__()
        self.config, self.objective = config, goal
        self.members = nn.ModuleList(make_member(config) for _ in range(count))
        self.process, self.share = process, share
        self.example_inputs, self.record = example_inputs, record or {}
        self.eval()

    def each(self) -> Iterator[Member]:
        """The members."""
        for member in self.members:
            assert isinstance(member, PredictorModel | Rival)
            yield member

    @property
    def covariates(self) -> int:
        """Numbers per network that have to be known beside its weights."""
        return int(self.config.get("covariates", 0))

    def predict(
        self,
        networks: Sequence[Given],
        *,
        example_inputs: Any = None,
        covariates: Tensor | None = None,
    ) -> Tensor:
        """Predictions in the order of ``networks``, as the targets were: ``[n]`` or ``[n, k]``.

        Probabilities ``[n, classes]`` where classes are predicted, scores where an order is.

        Args:
            networks: Modules, or pairs of a graph and a state dict, of any architectures.
            example_inputs: For modules, instead of those that the predictor was trained with.
            covariates: ``[n, .]``, of a predictor that was trained with some.

        Raises:
            NetworkError: A network that cannot be read; see `gmn_opt.predict.as_networks`.
            ValueError: Covariates of another shape than in training.
        """
        stacks = self._stacks(networks, example_inputs, covariates)
        parts = []
        if self.share < 1:
            every = [self.objective.decode(_over(m, stacks)) for m in self.each()]
            parts.append((1 - self.share) * torch.stack(every).mean(0))
        if self.process is not None and self.share > 0:
            found = self.share * self.objective.decode(_over(self.process, stacks))
            like = next(self.parameters(), found)
            parts.append(found.to(like.dtype))
        return sum(parts[1:], parts[0])

    def embed(
        self,
        networks: Sequence[Given],
        *,
        example_inputs: Any = None,
        covariates: Tensor | None = None,
    ) -> Tensor:
        """What the last layers of the members read, side by side: ``[n, members * width]``.

        Of ``kind="process"``, that by which it compares networks.
        """
        stacks = self._stacks(networks, example_inputs, covariates)
        readers: list[Member | Process] = list(self.each())
        if not readers and self.process is not None:
            readers = [self.process]
        return torch.cat([_over(r, stacks, embed=True) for r in readers], -1)

    def score(
        self, networks: Sequence[Given], targets: Any, *, covariates: Tensor | None = None
    ) -> dict[str, float]:
        """How good predictions are: R² and Kendall's tau, or accuracy, or tau alone."""
        values = as_targets(targets, len(networks))
        return self.objective.judge(self.predict(networks, covariates=covariates).cpu(), values)

    def _stacks(
        self, networks: Sequence[Given], inputs: Any, covariates: Tensor | None
    ) -> list[Stack]:
        inputs = self.example_inputs if inputs is None else inputs
        return as_stacks(networks, inputs, covariates, self.covariates)

    def about(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {
            "model": self.config,
            "objective": {"name": self.objective.name, "state": self.objective.state},
            "members": len(self.members),
            "record": self.record,
            "process": None if self.process is None else self.process.config,
            "share": self.share,
        }

    @classmethod
    def from_about(
        cls, about: dict[str, Any], tensors: dict[str, Tensor], example_inputs: Any = None
    ) -> Predictor:
        """From :meth:`about` and a state dict; raises whatever does not fit."""
        goal = about["objective"]
        for part, name in ((about, "members"), (about["model"], "layers")):
            if not is_count(count := part.get(name, 0), 0, len(tensors)):
                raise ValueError(f"{name} is {shown(count)}, with {len(tensors)} tensors in all")
        # files of version 0.2.0 have no process
        process = about.get("process")
        # without memory: what a stranger's file says of sizes is compared with its tensors first
        with torch.device("meta"):
            made = cls(
                about["model"],
                objective(goal["name"])(goal["state"]),
                about["members"],
                example_inputs,
                about["record"],
                None if process is None else Process(process),
                about.get("share", 0.0),
            )
        made.load_state_dict(tensors, assign=True)
        return made

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.safetensors`` file, whole or not at all; nothing is pickled."""
        save(path, WeightSet(Path(path).stem, KIND, self.about(), dict(self.state_dict())))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, example_inputs: Any = None) -> Predictor:
        """Read what :meth:`save` wrote; example inputs are for modules, and are not in the file.

        Raises WeightsError for a file that is missing, damaged, or something else.
        """
        found = load(path, KIND)
        try:
            return cls.from_about(found.config, found.tensors, example_inputs)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} does not fit this gmn-opt: {reason(error)}") from error


@torch.no_grad()
def _over(reader: Member | Process, stacks: list[Stack], embed: bool = False) -> Tensor:
    """Answers of one model, or what its last layer reads, in the order of the networks."""
    reader.eval()
    rows: dict[int, Tensor] = {}
    for stack in stacks:
        for chosen in torch.arange(len(stack)).split(_CHUNK):
            z = reader.read(stack[chosen])
            out = reader.embed(z) if embed else reader.answer(z)
            rows |= dict(zip(stack.places[chosen].tolist(), out, strict=True))
    return torch.stack([rows[i] for i in range(len(rows))])
