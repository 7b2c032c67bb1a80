"""Block graphs as JSON text and back, exactly."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TypeVar

from gmn_opt.graph.structure import Block, BlockGraph, BlockUse, Factor, Link, NodeGroup

FORMAT = 1
T = TypeVar("T")


def to_json(graph: BlockGraph) -> str:
    """The graph as text; :func:`parts` reads it."""
    data = {
        "format": FORMAT,
        "factors": [asdict(f) for f in graph.factors],
        "groups": [asdict(g) for g in graph.groups],
        "blocks": [_block(b) for b in graph.blocks],
        "buffer_blocks": [_block(b) for b in graph.buffer_blocks],
        "links": [asdict(x) for x in graph.links],
        "shapes": {n: list(s) for n, s in graph.shapes.items()},
        "fixed_reasons": {n: list(r) for n, r in graph.fixed_reasons.items()},
        "aliases": graph.aliases,
        "notes": list(graph.notes),
    }
    return json.dumps(data)


def parts(text: str) -> dict[str, Any]:
    """The fields of the graph that was written.

    Raises:
        ValueError: If the text is no graph, or one of another format version.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is not the JSON of a parameter graph: {error}") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"Expected a parameter graph of format {FORMAT}, received {found!r}. "
            "Trace the model again with this version of gmn-opt."
        )
    return {
        "factors": _made(Factor, data["factors"]),
        "groups": _made(NodeGroup, data["groups"]),
        "blocks": _made(Block, data["blocks"]),
        "links": _made(Link, data["links"]),
        "shapes": _tuples(data["shapes"]),
        "buffer_blocks": _made(Block, data["buffer_blocks"]),
        "fixed_reasons": _tuples(data["fixed_reasons"]),
        "aliases": data["aliases"],
        "notes": tuple(data.get("notes", ())),
    }


def _block(block: Block) -> dict[str, Any]:
    index = [{"at": r} if isinstance(r, tuple) else [r.start, r.stop, r.step] for r in block.index]
    return {**asdict(block), "index": index}


def _made(kind: type[T], rows: list[dict[str, Any]]) -> tuple[T, ...]:
    return tuple(kind(**_block_read(_tuples(row))) for row in rows)


def _block_read(row: dict[str, Any]) -> dict[str, Any]:
    """A block's index as ranges where it was written as their numbers, and its uses."""
    if "index" in row:
        row["index"] = tuple(r["at"] if isinstance(r, dict) else range(*r) for r in row["index"])
    if "uses" in row:
        row["uses"] = tuple(BlockUse(**use) for use in row["uses"])
    return row


def _tuples(value: Any) -> Any:
    """The same with tuples in the place of JSON's lists."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
