"""What graph metanets are compared to, behind the same face: StatNN, DeepSets, DMC."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gmn_opt.metanet.baselines import DMC, ParameterDeepSets, StatNN
from gmn_opt.predict.standardize import Standardize

if TYPE_CHECKING:
    from gmn_opt.predict.networks import Stack

RIVALS = ("statnn", "deepsets", "dmc")


class Rival(nn.Module):
    """A baseline whose features are standardized by those of the training networks.

    ``config`` says which (``kind``), how many ``outputs`` it has, and how many tensors the largest
    network that it takes has (``slots``).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        # the shapes are given anew with every batch
        shapes, outputs, slots = {"w": (1,)}, config["outputs"], config["slots"]
        body: StatNN | ParameterDeepSets | DMC
        if config["kind"] == "statnn":
            body = StatNN(shapes, outputs, slots=slots)
        elif config["kind"] == "deepsets":
            body = ParameterDeepSets(shapes, outputs, slots=slots)
        elif config["kind"] == "dmc":
            body = DMC(shapes, outputs)
        else:
            raise ValueError(f"Unknown kind {config['kind']!r}; there are {', '.join(RIVALS)}.")
        head = body.head
        self.scale = Standardize(head.standardize.num_features)
        self.net = head.net
        body.head = nn.Identity()  # type: ignore[assignment]
        self.body = body

    def read(self, stack: Stack) -> Tensor:
        """What the last layers are given of networks that share a graph, ``[n, .]``."""
        return self.represent(self.prepare(stack))

    def prepare(self, stack: Stack) -> Stack:
        """In this model's dtype and on its device."""
        like = next(self.net.parameters())
        tensors = {n: t.to(like) for n, t in stack.tensors.items()}
        return replace(stack, tensors=tensors)

    def features(self, stack: Stack) -> Tensor:
        """What the head of the baseline reads, ``[n, .]``."""
        out: Tensor = self.body(stack.tensors, stack.graph.shapes)
        return out

    @torch.no_grad()
    def set_statistics(self, stacks: list[Stack]) -> None:
        """Set the normalization from the training networks, once."""
        self.scale.set_from(torch.cat([self.features(s) for s in stacks]))

    def represent(self, stack: Stack) -> Tensor:
        """``[n, .]``, standardized."""
        out: Tensor = self.scale(self.features(stack))
        return out

    def embed(self, z: Tensor) -> Tensor:
        """What the last layer reads, ``[n, .]``."""
        out: Tensor = self.net[:-1](z)
        return out

    def answer(self, z: Tensor) -> Tensor:
        """``[n, outputs]``."""
        out: Tensor = self.net(z)
        return out
