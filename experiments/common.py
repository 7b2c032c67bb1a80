"""What all experiments share: refusing, the device, the record of the machine, memory settings."""

from __future__ import annotations

import ctypes
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from gmn_opt.data import DatasetError
from gmn_opt.metanet import native


@contextmanager
def refusing(console: Console) -> Iterator[None]:
    """Turn what a user can put right into its message and exit code 2, without a traceback.

    These are settings that cannot be (ValueError), a data set or a package that is not there
    (DatasetError, ImportError), and files that cannot be read or written (OSError).
    """
    try:
        yield
    except (ValueError, DatasetError, ImportError, OSError) as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from error


def numbers(text: str, option: str) -> tuple[int, ...]:
    """``"32,32"`` as whole numbers of at least 1; raises ValueError naming ``option`` otherwise."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{option} takes whole numbers such as 32,32, received {text!r}.")
    return tuple(int(part) for part in parts)


def choose_device(name: str) -> torch.device:
    """``"auto"`` takes CUDA where there is one.

    Raises ValueError for any other name, and if CUDA is asked for in vain.
    """
    if name.split(":")[0] not in ("auto", "cpu", "cuda"):
        raise ValueError(f"Unknown device {name!r}; choose cpu, cuda or auto.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {name} was asked for, but torch sees no CUDA device; use cpu.")
    return torch.device(name)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks for the next allocation instead of returning them.

    An unroll allocates and frees thousands of blocks of the same few sizes; giving each back to
    the system costs page faults. Does nothing where glibc is not the C library.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, 1 << 30)
    except (OSError, AttributeError):
        return


def command_line() -> str:
    """The command that runs this experiment with the same arguments, wherever the checkout is."""
    script, root = Path(sys.argv[0]).resolve().with_suffix(""), Path(__file__).resolve().parents[1]
    # called from elsewhere (a test, say), there is no such command: the name must do
    inside = script.is_relative_to(root / "experiments")
    module = ".".join(script.relative_to(root).parts) if inside else f"experiments.{script.name}"
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


def environment() -> dict[str, Any]:
    """Machine and versions, for the record."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "native_kernel": native.status(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }
