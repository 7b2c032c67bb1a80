"""Graph metanetworks: neural networks over the parameter graphs of other networks."""

from gmn_opt.metanet.batching import many
from gmn_opt.metanet.layers.states import States
from gmn_opt.metanet.layout import BlockedGraph, BlockLayout, blocked
from gmn_opt.metanet.model import GraphMetanet
from gmn_opt.metanet.probes import Probes
from gmn_opt.metanet.readout import GraphReadout

__all__ = [
    "BlockLayout",
    "BlockedGraph",
    "GraphMetanet",
    "GraphReadout",
    "Probes",
    "States",
    "blocked",
    "many",
]
