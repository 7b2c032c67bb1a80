"""`gmn-opt env`: what a bug report should say about the machine."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gmn_opt.cli.frame import console

_PACKAGES = (
    "torch",
    "torch_geometric",
    "numpy",
    "einops",
    "safetensors",
    "matplotlib",
    "rich",
    "typer",
)


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print versions, processor, devices and shipped weights, for bug reports."""
    facts = collect()
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in facts.items():
        lines = value.items() if isinstance(value, dict) else [(name, value)]
        for label, item in lines:
            table.add_row(str(label), _text(item))
    console().print(table)


def collect() -> dict[str, Any]:
    """The facts, ready for JSON."""
    import torch

    import gmn_opt
    from gmn_opt.metanet import native
    from gmn_opt.weights import available

    return {
        "gmn-opt": gmn_opt.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "os": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "native kernel": native.status(),
        "torch cuda": torch.version.cuda,
        "devices": _devices(),
        "weights": list(available()),
    }


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"


def _devices() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count)]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _text(value: object) -> str:
    if value is None or value == []:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
