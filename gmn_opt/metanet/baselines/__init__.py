"""The metanetworks that graph metanetworks are compared to, small and plain.

All but :class:`NPLinear` map ``{parameter name: [..., *shape]}`` to ``[..., outputs]``; leading
dimensions batch networks.

============================= ============================ ===========================
model                         invariant to permutations    takes other architectures
============================= ============================ ===========================
:class:`FlatMLP`              no                           no
:class:`DMC`                  no                           of any length
:class:`StatNN`               yes, and to many others      yes, up to ``slots`` tensors
:class:`ParameterDeepSets`    yes, and to many others      yes, up to ``slots`` tensors
:class:`NPNFN`                yes                          no
============================= ============================ ===========================
"""

from gmn_opt.metanet.baselines.deep_sets import ParameterDeepSets
from gmn_opt.metanet.baselines.dmc import DMC
from gmn_opt.metanet.baselines.flat import FlatMLP
from gmn_opt.metanet.baselines.np_nfn import NPNFN, NPLinear
from gmn_opt.metanet.baselines.statnn import StatNN, statistics

__all__ = [
    "DMC",
    "NPNFN",
    "FlatMLP",
    "NPLinear",
    "ParameterDeepSets",
    "StatNN",
    "statistics",
]
