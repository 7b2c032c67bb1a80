"""Build hook: compile the native kernel into the wheel, or go on without it.

Runs for wheels and editable installs. A wheel with the kernel is tagged for this platform (and for
any Python 3: the libraries know nothing of it); without a compiler, or with ``GMN_OPT_NATIVE=0``,
the wheel is pure Python.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path(__file__).resolve().parent / "gmn_opt" / "metanet" / "native"


def _compiling() -> ModuleType:
    """The module by its path: the package itself needs torch, which is not here."""
    spec = importlib.util.spec_from_file_location("compiling", NATIVE / "compiling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NativeKernelHook(BuildHookInterface):
    """Compile, and add what was made to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel (``version`` "standard" or "editable") is put together."""
        if os.environ.get("GMN_OPT_NATIVE", "1") == "0":
            self.app.display_warning("GMN_OPT_NATIVE=0: no native kernel, the wheel is pure Python")
            return
        compiling = _compiling()
        try:
            made = compiling.build()
        except Exception as error:  # whatever a compiler does, the package is installed
            self.app.display_warning(f"No native kernel, the wheel is pure Python. {error}")
            kept = compiling.keep_reason(error)
            if kept is not None:
                build_data["artifacts"].append(kept.relative_to(self.root).as_posix())
            return
        root = Path(self.root)
        build_data["artifacts"] += [path.relative_to(root).as_posix() for path in made]
        build_data["pure_python"] = False
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{system}"
