"""Networks and what is known about them, in memory and in a folder.

A folder holds one ``.safetensors`` shard per architecture and some hundred networks, with tensors
``[n, *shape]`` by parameter name, and ``dataset.json``: the graphs, the shards with their sha256,
and a table with one row of plain values per network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.predict.networks import Given, Network, NetworkError, as_networks, stacked
from gmn_opt.weights.atomic import write_atomically

INDEX = "dataset.json"
FORMAT = 1


class NetworkDataset(Sequence[Network]):
    """Networks of any architectures with a table of settings and metrics.

    Args:
        networks: Modules, or pairs of a graph and a state dict.
        table: One mapping of plain values per network, or a list of values by column.
        example_inputs: What modules are called with when they are traced.

    Raises NetworkError for networks that cannot be read, ValueError for a table of other length.
    """

    def __init__(
        self,
        networks: Sequence[Given],
        table: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]] | None = None,
        *,
        example_inputs: Any = None,
    ) -> None:
        self.networks = as_networks(networks, example_inputs)
        rows: list[dict[str, Any]]
        if table is None:
            rows = [{} for _ in self.networks]
        elif isinstance(table, Mapping):
            wrong = {n: len(c) for n, c in table.items() if len(c) != len(self.networks)}
            if wrong:
                raise ValueError(f"{len(self.networks)} networks, but columns of {wrong} values.")
            columns = {n: c.tolist() if isinstance(c, Tensor) else c for n, c in table.items()}
            rows = [{n: c[i] for n, c in columns.items()} for i in range(len(self.networks))]
        else:
            rows = [dict(row) for row in table]
        if len(rows) != len(self.networks):
            raise ValueError(f"{len(self.networks)} networks, but {len(rows)} rows in the table.")
        self.table = rows

    def __len__(self) -> int:
        """Number of networks."""
        return len(self.networks)

    @overload
    def __getitem__(self, index: int) -> Network: ...
    @overload
    def __getitem__(self, index: slice) -> NetworkDataset: ...
    def __getitem__(self, index: int | slice) -> Network | NetworkDataset:
        """A network, or a part of the data set."""
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        return self.networks[index]

    def subset(self, places: Sequence[int]) -> NetworkDataset:
        """The networks at these places, with their rows."""
        made = object.__new__(NetworkDataset)
        made.networks = [self.networks[i] for i in places]
        made.table = [self.table[i] for i in places]
        return made

    def column(self, name: str) -> Tensor:
        """A column of the table, ``[n]``; raises KeyError naming the columns there are."""
        missing = [i for i, row in enumerate(self.table) if name not in row]
        if missing:
            raise KeyError(
                f"Networks {missing[:5]} have no {name!r}; they have {sorted(self.table[missing[0]])}."
            )
        return torch.tensor([row[name] for row in self.table])

    def split(self, *shares: float, seed: int = 0) -> list[NetworkDataset]:
        """Random parts of these shares, and one with the rest."""
        if not shares or min(shares) <= 0 or sum(shares) >= 1:
            raise ValueError(f"Shares must be above 0 and sum up to below 1, received {shares}.")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()
        parts, start = [], 0
        for share in shares:
            end = start + round(share * len(self))
            parts.append(self.subset(order[start:end]))
            start = end
        return [*parts, self.subset(order[start:])]

    def save(self, folder: Path | str, shard: int = 500) -> None:
        """Write to a folder; the index comes last, so a folder with one is whole.

        Raises ValueError where there is a data set already.
        """
        folder = Path(folder)
        if (folder / INDEX).exists():
            raise ValueError(f"{folder} holds a data set already. Choose another folder.")
        graphs, shards = [], []
        for stack in stacked(self.networks):
            graphs.append(stack.graph.to_json())
            for chosen in torch.arange(len(stack)).split(shard):
                part = stack[chosen]
                content = serialize({n: t.contiguous() for n, t in part.tensors.items()})
                name = f"networks-{len(shards):05d}.safetensors"
                write_atomically(folder / name, lambda p, content=content: p.write_bytes(content))  # type: ignore[misc]
                shards.append(
                    {
                        "file": name,
                        "graph": len(graphs) - 1,
                        "places": part.places.tolist(),
                        "sha256": hashlib.sha256(content).hexdigest(),
                    }
                )
        index = {"format": FORMAT, "graphs": graphs, "shards": shards, "table": self.table}
        write_atomically(folder / INDEX, lambda p: p.write_text(json.dumps(index), "utf-8"))

    @classmethod
    def load(cls, folder: Path | str) -> NetworkDataset:
        """Read what :meth:`save` wrote.

        Raises NetworkError for a folder without a data set, and for a shard that is missing, cut
        off or another one, by name.
        """
        folder = Path(folder)
        try:
            index = json.loads((folder / INDEX).read_text("utf-8"))
        except FileNotFoundError as error:
            raise NetworkError(
                f"{folder} holds no data set of networks: there is no {INDEX}."
            ) from error
        except ValueError as error:
            raise NetworkError(f"{folder / INDEX} is damaged ({error}). Copy it again.") from error
        if index.get("format") != FORMAT:
            raise NetworkError(f"{folder}: expected format {FORMAT}, got {index.get('format')!r}.")
        graphs = [ParameterGraph.from_json(text) for text in index["graphs"]]
        found: dict[int, Network] = {}
        for entry in index["shards"]:
            path = folder / entry["file"]
            if not path.is_file():
                raise NetworkError(f"The shard {path} is missing. Copy it again.")
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise NetworkError(
                    f"The shard {path} is cut off or damaged: its sha256 is not that of the index. "
                    "Copy it again."
                )
            tensors = deserialize(content)
            for row, place in enumerate(entry["places"]):
                values = {n: t[row] for n, t in tensors.items()}
                found[place] = Network(graphs[entry["graph"]], values)
        made = object.__new__(cls)
        made.networks = [found[i] for i in range(len(found))]
        made.table = index["table"]
        return made
