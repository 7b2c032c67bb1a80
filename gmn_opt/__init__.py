"""Graph metanetworks for any PyTorch model: neural networks that train and edit other networks.

The root names load on first use, so that ``import gmn_opt`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmn_opt.graph import ParameterGraph, trace
    from gmn_opt.metanet import GraphMetanet
    from gmn_opt.optim import GMNOptimizer
    from gmn_opt.optim.groups import param_groups, parameter_roles

__version__ = "0.1.0"

__all__ = [
    "GMNOptimizer",
    "GraphMetanet",
    "ParameterGraph",
    "__version__",
    "param_groups",
    "parameter_roles",
    "trace",
]

_HOMES = {
    "GMNOptimizer": "gmn_opt.optim",
    "GraphMetanet": "gmn_opt.metanet",
    "ParameterGraph": "gmn_opt.graph",
    "param_groups": "gmn_opt.optim.groups",
    "parameter_roles": "gmn_opt.optim.groups",
    "trace": "gmn_opt.graph",
}


def __getattr__(name: str) -> object:
    """Import a root name from its home on first use, and keep it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names, loaded or not."""
    return sorted({*globals(), *__all__})
