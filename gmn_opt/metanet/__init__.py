"""Graph metanetworks: neural networks over the parameter graphs of other networks."""

from gmn_opt.metanet.layout import BlockedGraph, BlockLayout, blocked
from gmn_opt.metanet.message_passing import States
from gmn_opt.metanet.metanet import GraphMetanet

__all__ = ["BlockLayout", "BlockedGraph", "GraphMetanet", "States", "blocked"]
