"""Find, check and load the compiled kernel."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path

import torch

from gmn_opt.metanet.native.compiling import digest, kept_reason, library_path
from gmn_opt.metanet.native.edge_calls import NativeEdges
from gmn_opt.metanet.native.incidence_calls import NativeIncidence
from gmn_opt.metanet.native.sine_calls import NativeSine
from gmn_opt.metanet.native.step_calls import NativeStep


class NativeKernel:
    """What a library of compiled functions does: one attribute for each kind."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.edges, self.incidence = NativeEdges(library), NativeIncidence(library)
        self.sine, self.step = NativeSine(library), NativeStep(library)


def _variants() -> list[str]:
    """Names of the variants that this processor runs, the best first."""
    names = ["DEFAULT", "AVX2", "AVX512"]
    capability = torch.backends.cpu.get_cpu_capability()
    return names[: names.index(capability) + 1][::-1] if capability in names else ["DEFAULT"]


def load(path: Path) -> NativeKernel:
    """The kernel in a library.

    Raises OSError when it cannot be loaded or was built from other sources.
    """
    library = ctypes.CDLL(str(path))
    try:
        source = library.gmn_opt_edge_pass_source
    except AttributeError as error:
        raise OSError(f"{path.name} is no library of this package.") from error
    source.restype = ctypes.c_char_p
    made_of, expected = (source() or b"").decode(), digest()
    if made_of != expected:
        raise OSError(
            f"{path.name} was built from other sources ({made_of}, now {expected}); run "
            "python -m gmn_opt.metanet.native.build."
        )
    return NativeKernel(library)


@lru_cache(maxsize=1)
def _found() -> tuple[NativeKernel | None, str]:
    if os.environ.get("GMN_OPT_NATIVE", "1") == "0":
        return None, "off (GMN_OPT_NATIVE=0)"
    why = kept_reason()
    reason = f"not built{f': {why}' if why else ''} (python -m gmn_opt.metanet.native.build)"
    for variant in _variants():
        path = library_path(variant)
        if not path.exists():
            continue
        try:
            return load(path), variant
        except OSError as error:
            reason = str(error)
    return None, reason


def kernel() -> NativeKernel | None:
    """The native kernel, or None where there is none to use; looked for once per process."""
    return _found()[0]


def status() -> str:
    """The variant in use, or why there is none."""
    return _found()[1]
