"""Networks as graphs of neurons and parameters, for any PyTorch module."""

from gmn_opt.graph.api import trace
from gmn_opt.graph.graph import ParameterGraph
from gmn_opt.graph.roles import ParameterRoles, Role
from gmn_opt.graph.structure import Block, Factor, Link, NodeGroup
from gmn_opt.graph.symmetry import Symmetry
from gmn_opt.graph.tracing.passes import TraceError

__all__ = [
    "Block",
    "Factor",
    "Link",
    "NodeGroup",
    "ParameterGraph",
    "ParameterRoles",
    "Role",
    "Symmetry",
    "TraceError",
    "trace",
]
