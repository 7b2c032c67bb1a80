"""A parameter graph as a table for the terminal."""

from __future__ import annotations

import io
import shutil
from typing import Any

from rich.console import Console
from rich.table import Table

from gmn_opt.graph.structure import Block, BlockGraph


def dim_names(graph: BlockGraph) -> dict[int, str]:
    """Short names: letters for free factors, sizes for fixed ones."""
    names: dict[int, str] = {}
    for number, space in enumerate(graph.spaces):
        above = "".join(f"|{names.get(p, graph.factors[p].size)}" for p in space.parents)
        letters, n = "", number
        while True:
            letters = chr(ord("a") + n % 26) + letters
            n = n // 26 - 1
            if n < 0:
                break
        names[space.id] = f"{letters}{space.size}{above}"
    for factor in graph.factors:
        names.setdefault(factor.id, str(factor.size))
    return names


def pattern(block: Block, names: dict[int, str]) -> str:
    """The dims of a block as an einops-like pattern."""
    parts = []
    for dim in block.dims:
        inside = " ".join(names[f] for f in dim)
        parts.append(inside if len(dim) == 1 else f"({inside})")
    return " ".join(parts) or "()"


def table(graph: BlockGraph, width: int | None = None) -> str:
    """The graph as text: one row per block, and a line of totals."""
    names = dim_names(graph)
    rows = Table(show_edge=False, pad_edge=False, box=None)
    for title in ("parameter", "kind", "axes", "from", "to"):
        rows.add_column(title, overflow="fold", justify="left")
    for block in graph.blocks:
        src, dst = graph.groups[block.src], graph.groups[block.dst]
        act = f" ({dst.activation})" if dst.activation else ""
        rows.add_row(
            block.tensor,
            block.kind,
            pattern(block, names),
            "·" if src.role == "bias" else src.name,
            f"{dst.name}{act}",
        )
    conditional = sum(bool(s.parents) for s in graph.spaces)
    counted = f"{len(graph.spaces)} spaces" + (f" ({conditional} conditional)" * bool(conditional))
    total = (
        f"{len(graph.shapes)} parameters, {sum(b.numel for b in graph.blocks):,} edges, "
        f"{len(graph.groups)} node groups, {counted}, coverage {graph.coverage():.1%}. "
        "A letter is a free axis, a bare number a fixed one, x|y a permutation of x per y."
    )
    out = io.StringIO()
    columns = width or shutil.get_terminal_size((100, 24)).columns
    plain: dict[str, Any] = {"color_system": None, "highlight": False, "markup": False}
    console = Console(file=out, width=max(columns, 40), **plain)
    console.print(rows)
    console.print()
    console.print(total)
    for note in graph.notes:
        console.print(f"Note: {note}")
    return out.getvalue().rstrip()
