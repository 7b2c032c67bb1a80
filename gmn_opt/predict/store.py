"""Networks in a folder, written shard by shard.

A shard is a ``.safetensors`` file with tensors ``[n, *shape]`` by parameter name, of networks that
share a graph. ``dataset.json`` holds the graphs, the shards with their sha256, and one row of plain
values per network. It is written last, so whatever it names is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.predict.networks import Network, NetworkError
from gmn_opt.weights.atomic import write_atomically

INDEX = "dataset.json"
FORMAT = 1


class Store:
    """The folder; what is there already is kept, and can be added to.

    Args:
        folder: Made when something is added.
        write_index: Whether every shard is followed by the index, or :meth:`close` alone.

    Raises NetworkError for an index that is damaged or of another format.
    """

    def __init__(self, folder: Path | str, *, write_index: bool = True) -> None:
        self.folder, self.write_index = Path(folder), write_index
        self.about: dict[str, Any] = {"format": FORMAT, "graphs": [], "shards": []}
        self.exists = (self.folder / INDEX).is_file()
        if self.exists:
            try:
                self.about = json.loads((self.folder / INDEX).read_text("utf-8"))
            except ValueError as error:
                raise NetworkError(
                    f"{self.folder / INDEX} is damaged ({error}). Copy it again."
                ) from error
            if self.about.get("format") != FORMAT:
                raise NetworkError(
                    f"{folder}: expected format {FORMAT}, got {self.about.get('format')!r}."
                )
        self._numbers = {text: i for i, text in enumerate(self.about["graphs"])}
        self._graphs: dict[int, ParameterGraph] = {}

    def __len__(self) -> int:
        """Shards."""
        return len(self.about["shards"])

    @property
    def networks(self) -> int:
        """Networks in all shards."""
        return sum(len(entry["places"]) for entry in self.about["shards"])

    def add(
        self,
        graph: ParameterGraph,
        tensors: Mapping[str, Tensor],
        rows: Sequence[Mapping[str, Any]],
        places: Sequence[int] | None = None,
    ) -> None:
        """Write networks ``{name: [n, *shape]}`` that share a graph as one shard.

        ``places`` are theirs in the data set; by default behind all others.
        """
        if places is None:
            places = range(self.networks, self.networks + len(rows))
        text = graph.to_json()
        if text not in self._numbers:
            self._numbers[text] = len(self.about["graphs"])
            self.about["graphs"].append(text)
        content = serialize({n: t.contiguous() for n, t in tensors.items()})
        name = f"networks-{len(self):05d}.safetensors"
        write_atomically(self.folder / name, lambda p: p.write_bytes(content))
        self.about["shards"].append(
            {
                "file": name,
                "graph": self._numbers[text],
                "places": list(places),
                "sha256": hashlib.sha256(content).hexdigest(),
                "rows": [dict(row) for row in rows],
            }
        )
        if self.write_index:
            self.close()

    def close(self) -> None:
        """Write the index."""
        write_atomically(
            self.folder / INDEX, lambda p: p.write_text(json.dumps(self.about), "utf-8")
        )
        self.exists = True

    def read(self, number: int) -> tuple[list[Network], list[dict[str, Any]], list[int]]:
        """Networks of a shard, their rows and places.

        Raises NetworkError for a shard that is missing, cut off or another one.
        """
        entry = self.about["shards"][number]
        path = self.folder / entry["file"]
        if not path.is_file():
            raise NetworkError(f"The shard {path} is missing. Copy it again.")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise NetworkError(
                f"The shard {path} is cut off or damaged: its sha256 is not that of the index. "
                "Copy it again."
            )
        if entry["graph"] not in self._graphs:
            text = self.about["graphs"][entry["graph"]]
            self._graphs[entry["graph"]] = ParameterGraph.from_json(text)
        graph, tensors = self._graphs[entry["graph"]], deserialize(content)
        networks = [
            Network(graph, {n: t[row] for n, t in tensors.items()})
            for row in range(len(entry["places"]))
        ]
        return networks, entry["rows"], entry["places"]
