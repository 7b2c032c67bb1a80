"""A trained predictor: several models whose answers are averaged, and how they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.predict.losses import Objective, as_targets, objective
from gmn_opt.predict.model import ModelConfig, PredictorModel
from gmn_opt.predict.networks import Given, as_networks, stacked
from gmn_opt.predict.rivals import Rival
from gmn_opt.weights import WeightsError, WeightSet, load, save
from gmn_opt.weights.plain import reason

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
    ) -> None:
        super().__init__()
        self.config, self.objective = config, goal
        self.members = nn.ModuleList(make_member(config) for _ in range(count))
        self.example_inputs, self.record = example_inputs, record or {}
        self.eval()

    def each(self) -> Iterator[Member]:
        """The members."""
        for member in self.members:
            assert isinstance(member, PredictorModel | Rival)
            yield member

    def predict(self, networks: Sequence[Given], *, example_inputs: Any = None) -> Tensor:
        """Predictions in the order of ``networks``, as the targets were: ``[n]`` or ``[n, k]``.

        Probabilities ``[n, classes]`` where classes are predicted, scores where an order is.

        Args:
            networks: Modules, or pairs of a graph and a state dict, of any architectures.
            example_inputs: For modules, instead of those that the predictor was trained with.

        Raises:
            NetworkError: A network that cannot be read; see `gmn_opt.predict.as_networks`.
        """
        every = self._over(networks, example_inputs, embed=False)
        return torch.stack([self.objective.decode(out) for out in every]).mean(0)

    def embed(self, networks: Sequence[Given], *, example_inputs: Any = None) -> Tensor:
        """What the last layers of the members read, side by side: ``[n, members * width]``."""
        return torch.cat(self._over(networks, example_inputs, embed=True), -1)

    def score(self, networks: Sequence[Given], targets: Any) -> dict[str, float]:
        """How good predictions are: R² and Kendall's tau, or accuracy, or tau alone."""
        values = as_targets(targets, len(networks))
        return self.objective.judge(self.predict(networks).cpu(), values)

    @torch.no_grad()
    def _over(self, networks: Sequence[Given], inputs: Any, embed: bool) -> list[Tensor]:
        inputs = self.example_inputs if inputs is None else inputs
        stacks = stacked(as_networks(networks, inputs))
        self.eval()
        found = []
        for member in self.each():
            rows: dict[int, Tensor] = {}
            for stack in stacks:
                for chosen in torch.arange(len(stack)).split(_CHUNK):
                    z = member.read(stack[chosen])
                    out = member.embed(z) if embed else member.answer(z)
                    rows |= dict(zip(stack.places[chosen].tolist(), out, strict=True))
            found.append(torch.stack([rows[i] for i in range(len(networks))]))
        return found

    def about(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {
            "model": self.config,
            "objective": {"name": self.objective.name, "state": self.objective.state},
            "members": len(self.members),
            "record": self.record,
        }

    @classmethod
    def from_about(
        cls, about: dict[str, Any], tensors: dict[str, Tensor], example_inputs: Any = None
    ) -> Predictor:
        """From :meth:`about` and a state dict; raises whatever does not fit."""
        goal = about["objective"]
        with torch.random.fork_rng(devices=[]):
            made = cls(
                about["model"],
                objective(goal["name"])(goal["state"]),
                about["members"],
                example_inputs,
                about["record"],
            )
        dtype = next((t.dtype for t in tensors.values()), torch.float32)
        made.to(dtype).load_state_dict(tensors)
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
