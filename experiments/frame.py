"""The frame of every experiment: options, refusals, device, memory, records and pictures.

``python -m experiments.NAME --preset smoke|cpu|gpu --seed N --out DIR`` and, where it makes sense,
``--resume``, ``--minutes M``, ``--device cpu|cuda``. What a user can put right ends with one
message and exit code 2. ``result.json`` holds the command, the facts, and the machine.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from gmn_opt.cli.environment import cpu_model
from gmn_opt.cli.machine import choose, keep_freed_memory
from gmn_opt.cli.machine import choose_device as choose_device
from gmn_opt.data import DatasetError
from gmn_opt.figures import DPI
from gmn_opt.metanet import native
from gmn_opt.weights.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Preset = Annotated[str, typer.Option(help="smoke, cpu or gpu")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Resume = Annotated[bool, typer.Option(help="Go on with what is in --out.")]
Minutes = Annotated[float | None, typer.Option(help="Stop after this many minutes.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE: a setting, as often as needed.")
]
Weights = Annotated[str, typer.Option(help="Shipped name or safetensors file.")]


def begin(threads: int = 1) -> Console:
    """Set threads and memory; where an experiment speaks."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    return Console(highlight=False, soft_wrap=True)


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


def command_line() -> str:
    """The command that runs this experiment with the same arguments, wherever the checkout is."""
    script, root = Path(sys.argv[0]).resolve().with_suffix(""), Path(__file__).resolve().parents[1]
    # called from elsewhere (a test, say), there is no such command: the name must do
    inside = script.is_relative_to(root / "experiments")
    module = ".".join(script.relative_to(root).parts) if inside else f"experiments.{script.name}"
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def write_json(path: Path, content: Any, indent: int = 1) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def check_settings(holder: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise ValueError unless two runs have the same settings; ``holder`` has ``theirs``.

    Settings are compared as JSON writes them: a tuple is a list, and one that is absent is None.
    """
    wanted = json.loads(json.dumps(mine))
    differing = sorted(k for k in {*theirs, *wanted} if theirs.get(k) != wanted.get(k))
    if differing:
        which = "; ".join(
            f"{k}: {theirs.get(k)!r} there, {wanted.get(k)!r} here" for k in differing
        )
        raise ValueError(
            f"{holder} was run otherwise ({which}). Give the same settings, or another folder."
        )


def check_record(folder: Path, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless the record in ``folder``, which holds more, has these settings."""
    check_settings(f"What is in {folder}", {k: record.get(k) for k in settings}, settings)


def write_record(path: Path, facts: dict[str, Any], indent: int = 1) -> dict[str, Any]:
    """Write and return a record: the command, the facts, and the machine."""
    record = {"command": command_line(), **facts, "environment": environment()}
    write_json(path, record, indent)
    return record


def save_picture(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    write_atomically(path, lambda p: figure.savefig(p, dpi=DPI, format="png"))


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table to print, everything aligned to the right."""
    made = Table(title=title)
    for column in columns:
        made.add_column(column, justify="right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def chosen(what: str, names: str, known: Iterable[str], separator: str = ",") -> list[str]:
    """``"a,b"`` as a list; raises ValueError unless all of them are known."""
    found = names.split(separator)
    for name in found:
        choose(what, name, known)
    return found


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """Machine and versions, for the record."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": cpu_model(),
        "threads": torch.get_num_threads(),
        "native_kernel": native.status(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }
