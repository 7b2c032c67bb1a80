"""The backends, as parameters of tests."""

from __future__ import annotations

import pytest

from gmn_opt.metanet import native as compiled
from gmn_opt.metanet.backends import native, plain, tiled
from gmn_opt.metanet.execution import Backend

BUILT = pytest.mark.skipif(compiled.kernel() is None, reason=f"native kernel: {compiled.status()}")
FAST: dict[str, Backend] = {"native": native, "tiled": tiled}
fast = pytest.mark.parametrize("backend", [pytest.param("native", marks=BUILT), "tiled"])
every = pytest.mark.parametrize("backend", [pytest.param("native", marks=BUILT), "tiled", "plain"])
BACKENDS: dict[str, Backend] = {**FAST, "plain": plain}
