"""Nodes, edges and automorphisms of a computation graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmn_opt.theory.computation.refinement import ColoredGraph

Label = tuple[str, int]
"""The name of a parameter or running statistic, and the flat position of an element of it."""


class Edge(NamedTuple):
    """One use of a parameter, or of the constant ``weight`` where ``label`` is None."""

    src: int
    dst: int
    label: Label | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Automorphism:
    """A permutation of nodes, and of the parameter elements that their edges carry."""

    nodes: tuple[int, ...]
    labels: dict[Label, Label]

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """For every element of every parameter, the flat position that it moves to."""
        out = {}
        for name, shape in shapes.items():
            flat = torch.arange(torch.Size(shape).numel())
            for (tensor, i), (_, j) in self.labels.items():
                if tensor == name:
                    flat[i] = j
            out[name] = flat.reshape(shape)
        return out


@dataclass
class ComputationGraph:
    """Numbered nodes and the edges between them.

    Attributes:
        ops: What every node computes of its incoming edges: ``"input"``, ``"constant"``,
            ``"sum"``, ``"product"``, ``"max"``, or the name and settings of a function of a
            single edge.
        edges: All uses of parameters and activations.
        inputs: Nodes of the inputs' elements.
        outputs: Nodes of the outputs' elements.
        constants: Node to its value; the ones that biases are multiplied with are among them.
        functions: Node to its activation function.
    """

    ops: list[str] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: dict[int, float] = field(default_factory=dict)
    functions: dict[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    def evaluate(self, parameters: Mapping[str, Tensor], inputs: Sequence[float]) -> list[float]:
        """The outputs' elements for given parameters, running statistics and inputs' elements."""
        incoming: list[list[Edge]] = [[] for _ in self.ops]
        for edge in self.edges:
            incoming[edge.dst].append(edge)
        flat = {n: p.detach().reshape(-1).tolist() for n, p in parameters.items()}
        given = dict(zip(self.inputs, inputs, strict=True)) | self.constants
        values: dict[int, float] = {}
        before = {node: [e.src for e in found] for node, found in enumerate(incoming)}
        for node in TopologicalSorter(before).static_order():
            op = self.ops[node]
            if node in given:
                values[node] = float(given[node])
                continue
            terms = [
                values[e.src] * (e.weight if e.label is None else flat[e.label[0]][e.label[1]])
                for e in incoming[node]
            ]
            if op == "sum":
                values[node] = sum(terms)
            elif op == "product":
                values[node] = prod(terms)
            elif op == "max":
                values[node] = max(terms)
            else:
                value = torch.tensor(terms, dtype=torch.float64)
                values[node] = float(self.functions[node](value))
        return [values[n] for n in self.outputs]

    def automorphisms(self) -> Iterator[Automorphism]:
        """All permutations of hidden nodes that leave the graph and its sharing as they are."""
        labels = sorted({e.label for e in self.edges if e.label is not None})
        first = len(self.ops)
        for image in self._colored(labels).automorphisms():
            moved = (labels[i - first] for i in image[first : first + len(labels)])
            yield Automorphism(tuple(image[:first]), dict(zip(labels, moved, strict=True)))

    def _colored(self, labels: Sequence[Label]) -> ColoredGraph:
        """The same graph with a vertex per node, per element of a parameter, and per edge.

        An edge's vertex is joined with its ends and with its parameter element, so that
        automorphisms respect sharing.
        """
        pinned = {*self.inputs, *self.outputs, *self.constants}
        colors: list[Any] = [
            ("node", i if i in pinned else -1, op) for i, op in enumerate(self.ops)
        ]
        vertex_of = {label: len(colors) + i for i, label in enumerate(labels)}
        colors += [("parameter", name) for name, _ in labels]
        arcs: list[tuple[int, int, int]] = []
        for e in self.edges:
            vertex = len(colors)
            colors.append(("edge", e.weight))
            arcs += [(e.src, vertex, 0), (vertex, e.dst, 1)]
            if e.label is not None:
                arcs.append((vertex_of[e.label], vertex, 2))
        return ColoredGraph(colors, arcs)
