"""Networks and what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from gmn_opt.predict.networks import Given, Network, NetworkError, as_networks, stacked
from gmn_opt.predict.store import INDEX, Store


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
        table: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any] | Tensor] | None = None,
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
            columns = {n: c.tolist() if torch.is_tensor(c) else c for n, c in table.items()}
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
        return self._of([(self.networks[i], self.table[i]) for i in places])

    def where(self, wanted: Callable[[dict[str, Any]], bool]) -> NetworkDataset:
        """The networks whose rows are ``wanted``."""
        return self.subset([i for i, row in enumerate(self.table) if wanted(row)])

    def column(self, name: str) -> Tensor:
        """A column of the table, ``[n]``; raises KeyError naming the columns there are."""
        missing = [i for i, row in enumerate(self.table) if name not in row]
        if missing:
            known = sorted(self.table[missing[0]])
            raise KeyError(f"Networks {missing[:5]} have no {name!r}; they have {known}.")
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
        """Write to a folder that holds no data set yet; see :class:`gmn_opt.predict.store.Store`.

        Raises ValueError where there is one already.
        """
        folder = Path(folder)
        if (folder / INDEX).exists():
            raise ValueError(f"{folder} holds a data set already. Choose another folder.")
        store = Store(folder, write_index=False)
        for stack in stacked(self.networks):
            for chosen in torch.arange(len(stack)).split(shard):
                part = stack[chosen]
                places = part.places.tolist()
                rows = [self.table[i] for i in places]
                store.add(part.graph, part.tensors, rows, places)
        store.close()

    @classmethod
    def load(cls, folder: Path | str) -> NetworkDataset:
        """Read all of what :meth:`save` or a `Store` wrote.

        Raises NetworkError for a folder without a data set, and for a shard that is missing, cut
        off or another one, by name.
        """
        store = Store(folder)
        if not store.exists:
            raise NetworkError(f"{folder} holds no data set of networks: there is no {INDEX}.")
        found: dict[int, tuple[Network, dict[str, Any]]] = {}
        for number in range(len(store)):
            networks, rows, places = store.read(number)
            found |= dict(zip(places, zip(networks, rows, strict=True), strict=True))
        return cls._of([found[i] for i in sorted(found)])

    @classmethod
    def stream(cls, folder: Path | str) -> Iterator[NetworkDataset]:
        """The same, one shard after the other, with only one in memory."""
        store = Store(folder)
        if not store.exists:
            raise NetworkError(f"{folder} holds no data set of networks: there is no {INDEX}.")
        for number in range(len(store)):
            networks, rows, _ = store.read(number)
            yield cls._of(list(zip(networks, rows, strict=True)))

    @classmethod
    def _of(cls, pairs: list[tuple[Network, dict[str, Any]]]) -> NetworkDataset:
        made = object.__new__(cls)
        made.networks, made.table = [n for n, _ in pairs], [row for _, row in pairs]
        return made
