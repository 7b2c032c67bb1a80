"""Native code for the CPU: passes over all edges, ways there and back, sines, optimizer steps.

The ``.cpp`` files are compiled when the package is installed, or by
``python -m gmn_opt.metanet.native.build`` in a checkout. Where there is no compiler, or with
``GMN_OPT_NATIVE=0`` in the environment, everything runs on torch's operators, slower
and otherwise the same.
"""

from gmn_opt.metanet.native.incidence_calls import outputs
from gmn_opt.metanet.native.library import NativeKernel, kernel, status
from gmn_opt.metanet.native.parts import DTYPES, is_hidden, is_served

__all__ = ["DTYPES", "NativeKernel", "is_hidden", "is_served", "kernel", "outputs", "status"]
