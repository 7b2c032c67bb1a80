"""Pictures of parameter graphs, after the figures of Lim et al. 2023 (arXiv 2312.04501, section 2).

Small networks are drawn neuron by neuron: columns by depth, one line per parameter, coloured by
tensor. Larger ones are drawn group by group: a box lists the parameters that lead into a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gmn_opt.graph.draw.layers import draw_layers
from gmn_opt.graph.draw.neurons import draw_neurons
from gmn_opt.graph.edges import edge_list
from gmn_opt.graph.structure import BlockGraph

if TYPE_CHECKING:
    import os


Level = Literal["auto", "neurons", "layers"]
SUFFIXES = (".png", ".svg", ".pdf")
MAX_NODES, MAX_EDGES = 60, 600
#: Neuron by neuron, beyond this many edges, no line could be told from another.
MOST_EDGES = 20_000
_MOST_PIXELS = 16_000


def draw(graph: BlockGraph, path: str | os.PathLike[str], level: Level = "auto") -> Path:
    """Draw a graph to a file; see :meth:`ParameterGraph.draw`."""
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"Cannot draw to {str(path)!r}: expected a name that ends in {', '.join(SUFFIXES)}."
        )
    if level not in ("auto", "neurons", "layers"):
        raise ValueError(f"level: expected 'auto', 'neurons' or 'layers', received {level!r}.")
    edges = sum(b.numel for b in graph.blocks)
    if level == "neurons" and edges > MOST_EDGES:
        raise ValueError(
            f"{edges:,} edges are too many to draw one by one (at most {MOST_EDGES:,}). "
            "Use level='layers'."
        )
    if level == "auto":
        level = "neurons" if is_small(graph) else "layers"
    figure = draw_neurons(graph) if level == "neurons" else draw_layers(graph)
    save(figure, target)
    return target


def is_small(graph: BlockGraph) -> bool:
    """Whether every neuron and every parameter can be seen in one picture."""
    if sum(b.numel for b in graph.blocks) > MAX_EDGES:
        return False
    return len(edge_list(graph).node_set) <= MAX_NODES


def save(figure: Any, target: Path, sizes: Sequence[int] = (160, 110, 80, 50, 30, 15, 8)) -> None:
    """Write a figure, at the finest of the resolutions ``sizes`` that stays a readable file."""
    longest = max(figure.get_size_inches())
    dpi = next((d for d in sizes if longest * d <= _MOST_PIXELS), sizes[-1])
    figure.savefig(target, dpi=dpi, format=target.suffix.lower()[1:], facecolor="white")
