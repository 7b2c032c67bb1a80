"""Graph metanetworks for any PyTorch model: neural networks that train and edit other networks.

The root names load on first use, so that ``import gmn_opt`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmn_opt.alignment import align, merge
    from gmn_opt.graph import ParameterGraph, trace
    from gmn_opt.metanet import GraphMetanet
    from gmn_opt.optim import GMNOptimizer
    from gmn_opt.optim.groups import param_groups, parameter_roles
    from gmn_opt.predict import predict_accuracy
    from gmn_opt.widening import widen

__version__ = "0.2.0"

__all__ = [
    "GMNOptimizer",
    "GraphMetanet",
    "ParameterGraph",
    "__version__",
    "align",
    "merge",
    "param_groups",
    "parameter_roles",
    "predict_accuracy",
    "trace",
    "widen",
]

_HOMES = {
    "GMNOptimizer": "gmn_opt.optim",
    "GraphMetanet": "gmn_opt.metanet",
    "ParameterGraph": "gmn_opt.graph",
    "align": "gmn_opt.alignment",
    "merge": "gmn_opt.alignment",
    "param_groups": "gmn_opt.optim.groups",
    "parameter_roles": "gmn_opt.optim.groups",
    "predict_accuracy": "gmn_opt.predict",
    "trace": "gmn_opt.graph",
    "widen": "gmn_opt.widening",
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
