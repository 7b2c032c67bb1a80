"""Tables of numbers that come with scikit-learn, for regression and classification."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmn_opt.meta import Split
from tasks.data.extras import require
from tasks.data.splits import random_parts

#: The function of ``sklearn.datasets`` behind a name, and the column to predict of the others,
#: or None for the data set's own target.
_SOURCES: dict[str, tuple[str, int | None]] = {
    "diabetes": ("load_diabetes", None),
    "iris": ("load_iris", None),
    "wine": ("load_wine", None),
    "wine_alcohol": ("load_wine", 0),
    "breast_cancer": ("load_breast_cancer", None),
}
TABLES = tuple(_SOURCES)
_SHARES = (0.6, 0.12, 0.12)


@dataclass(frozen=True)
class Table:
    """Rows per split, standardized by the statistics of ``inner_train``.

    ``x``: [rows, features]; ``y``: classes [rows], or standardized values [rows, 1] where
    ``classes`` is None.
    """

    x: dict[Split, Tensor]
    y: dict[Split, Tensor]
    features: int
    classes: int | None


def _standardized(values: Tensor, train: Tensor) -> Tensor:
    rows = values[train]
    return (values - rows.mean(0)) / rows.std(0).clamp_min(1e-6)


@cache
def table_of(name: str) -> Table:
    """One of ``TABLES``, its rows split at random once and for all; ValueError for others."""
    if name not in _SOURCES:
        raise ValueError(f"Unknown table {name!r}; choose one of {', '.join(TABLES)}.")
    require("sklearn")
    from sklearn import datasets

    loader, column = _SOURCES[name]
    data: Any = getattr(datasets, loader)()
    x = torch.from_numpy(np.array(data.data)).float()
    target = torch.from_numpy(np.array(data.target))
    if column is not None:
        target = x[:, column]
        x = torch.cat([x[:, :column], x[:, column + 1 :]], 1)
    parts = random_parts(len(x), _SHARES)
    x = _standardized(x, parts["inner_train"])
    classes = None
    if target.is_floating_point():
        y = _standardized(target.float().unsqueeze(1), parts["inner_train"])
    else:
        y, classes = target.long(), int(target.max()) + 1
    return Table(
        {s: x[rows] for s, rows in parts.items()},
        {s: y[rows] for s, rows in parts.items()},
        x.shape[1],
        classes,
    )
