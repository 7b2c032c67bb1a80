"""Compile the native kernel; ``build.py`` is the command, ``hatch_build.py`` the hook of the wheel.

Needs a C++17 compiler (``$CXX``, else c++, g++ or clang++) and nothing else: no headers of torch
or Python. On x86-64 there are three variants, and the processor decides at run time. The hook runs
this file by its path, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("edge_pass.cpp", "incidence.cpp", "sine.cpp", "step.cpp", "edge_tiles.h", "vectors.h")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
#: What a built library carries in its name, before the variant.
PREFIX = "_edge_pass_"
#: Why there is no library, in a file beside them.
REASON = "_not_built.txt"
#: A compiler that takes longer is stopped.
MOST_SECONDS = 600

#: No ``-ffast-math``: infinities and NaN must come through.
FLAGS = [
    "-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fPIC", "-shared", "-fvisibility=hidden", "-Wall",
]  # fmt: skip
#: Compiler flags by variant; the names are those of ``torch.backends.cpu.get_cpu_capability()``.
X86_VARIANTS = {
    "DEFAULT": (),
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
}


class CompilerError(RuntimeError):
    """There is no C++ compiler, or it failed."""


def variants() -> Mapping[str, tuple[str, ...]]:
    """Flags of the variants for this kind of machine."""
    return X86_VARIANTS if platform.machine().lower() in ("x86_64", "amd64") else {"DEFAULT": ()}


def library_path(variant: str) -> Path:
    """Where the library of a variant stands once built."""
    return HERE / f"{PREFIX}{variant.lower()}{SUFFIX}"


def digest() -> str:
    """Of the sources. A library carries that of its own, so that none outlives a change."""
    found = hashlib.sha256()
    for name in SOURCES:
        found.update((HERE / name).read_bytes())
    return found.hexdigest()[:16]


def compiler() -> list[str]:
    """The command of a C++ compiler; raises CompilerError where none is found."""
    wanted = os.environ.get("CXX", "")
    try:
        chosen = shlex.split(wanted)
    except ValueError as error:
        raise CompilerError(f"$CXX is {wanted!r}, which is no command ({error}).") from error
    if chosen:
        return chosen
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return [found]
    raise CompilerError(
        "Found no C++ compiler ($CXX is not set, and there is no c++, g++ or clang++). gmn-opt "
        "works without its native kernel, more slowly on a CPU. Install a compiler and "
        "run python -m gmn_opt.metanet.native.build."
    )


def build() -> list[Path]:
    """Compile all variants next to the source and return their paths.

    Raises CompilerError, and then leaves what was there before.
    """
    sources = [str(HERE / name) for name in SOURCES if name.endswith(".cpp")]
    command = [*compiler(), *FLAGS, f'-DSOURCE_DIGEST="{digest()}"', *sources]
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".build-") as folder:
        running: list[tuple[str, Path, subprocess.Popen[str]]] = []
        for variant, flags in variants().items():
            made = Path(folder) / library_path(variant).name
            try:
                process = subprocess.Popen(
                    [*command, *flags, "-o", str(made)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    errors="replace",
                )
            except (OSError, ValueError) as error:
                for _, _, other in running:
                    other.kill()
                    other.communicate()
                raise CompilerError(f"Could not run {command[0]}: {error}.") from error
            running.append((variant, made, process))
        # all must be waited for before the folder goes
        said = [(_output(process), process.returncode) for _, _, process in running]
        for text, code in said:
            if code:
                raise CompilerError(
                    f"{command[0]} failed with exit status {code}:\n{text.strip()[-4000:]}\n"
                    f"The command was {shlex.join(command)}"
                )
        for _, made, _ in running:
            _check_library(made, command)
        for variant, made, _ in running:
            os.replace(made, library_path(variant))
    reason_path().unlink(missing_ok=True)
    return [library_path(variant) for variant in variants()]


def _output(process: subprocess.Popen[str]) -> str:
    """What a compiler said; one that never ends is stopped."""
    try:
        return process.communicate(timeout=MOST_SECONDS)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{process.communicate()[0]}\nstopped after {MOST_SECONDS} s"


def _check_library(path: Path, command: list[str]) -> None:
    """Raise CompilerError unless a compiler that reported success made a library of this source."""
    try:
        library = ctypes.CDLL(str(path))
        library.gmn_opt_edge_pass_source.restype = ctypes.c_char_p
        made_of = library.gmn_opt_edge_pass_source()
    except (OSError, AttributeError) as error:
        raise CompilerError(
            f"{command[0]} reported success but made no library ({error}). Set CXX to a C++ "
            "compiler, or unset it."
        ) from error
    if made_of != digest().encode():
        raise CompilerError(f"{command[0]} made a library of other sources ({made_of!r}).")


def reason_path() -> Path:
    """Where an installation without the kernel keeps why it has none, for `gmn-opt env`."""
    return HERE / REASON


def keep_reason(error: Exception) -> Path | None:
    """Write down why there is no kernel; None where that cannot be written."""
    text = " ".join(str(error).split())[:500]
    try:
        reason_path().write_text(text + "\n", encoding="utf-8")
    except OSError:
        return None
    return reason_path()


def kept_reason() -> str:
    """Why the installation made no kernel, as far as it was kept."""
    try:
        return reason_path().read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
