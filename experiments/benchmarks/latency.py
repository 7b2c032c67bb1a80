"""What it costs to import GMNOptimizer and to ask the command for help.

    python -m experiments.benchmarks.latency --rounds 7 --out runs/latency

Every case is a fresh Python process; the cases take turns, so that a busy machine troubles all
alike. Reported are processor seconds (user and system), which do not count the wait for a core, and
seconds on the clock, which do: on an idle machine they agree. ``--root`` measures another checkout.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.progress import track

from experiments import frame

#: What a process is asked to do, by name.
CASES = {
    "python": "pass",
    "import torch": "import torch",
    "import gmn_opt": "import gmn_opt",
    "from gmn_opt import GMNOptimizer": "from gmn_opt import GMNOptimizer",
    "gmn-opt --help": "from gmn_opt.cli import app; app(['--help'], standalone_mode=False)",
    "gmn-opt weights list": "from gmn_opt.cli import app; "
    "app(['weights', 'list'], standalone_mode=False)",
}
#: Most that a case may cost, in processor seconds over the case named.
LIMITS = {
    "from gmn_opt import GMNOptimizer": ("import torch", 0.5),
    "gmn-opt --help": (None, 0.5),
}
#: Large packages that nothing of this should load.
SLOW = ("sympy", "torch._dynamo", "torch._inductor", "matplotlib", "torch_geometric", "cv2")


def run(code: str, root: Path) -> tuple[float, float, str]:
    """Processor seconds, seconds on the clock, and output of a fresh process."""
    environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=root, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent, took, done.stdout


def loaded(code: str, root: Path) -> list[str]:
    """Which of the slow packages a case loads."""
    show = f"import sys; print('loaded:', *(n for n in {SLOW!r} if n in sys.modules))"
    *_, last = run(f"{code}\n{show}", root)[2].splitlines()
    return last.split()[1:]


def spread(values: list[float]) -> dict[str, float]:
    """Least, median and greatest."""
    return {"least": min(values), "median": median(values), "greatest": max(values)}


def judged(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Medians of processor seconds against their limits."""
    out = {}
    for name, (base, limit) in LIMITS.items():
        cost = cases[name]["processor"]["median"]
        cost -= cases[base]["processor"]["median"] if base else 0.0
        out[name] = {"over": base, "cost": cost, "limit": limit, "kept": cost <= limit}
    return out


def main(
    out: frame.Out = Path("runs/latency"),
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each case.")] = 7,
    root: Annotated[Path, typer.Option(help="Checkout that is measured.")] = Path(),
) -> None:
    """Measure, print, and write result.json."""
    console = frame.begin()
    root = root.resolve()
    # the first run of each is not timed: byte code is written, files are read
    loads = {name: loaded(code, root) for name, code in CASES.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in track(range(rounds), "measuring", console=console, transient=True):
        for name, code in CASES.items():
            times[name].append(run(code, root)[:2])
    cases: dict[str, dict[str, Any]] = {
        name: {
            "processor": spread([t[0] for t in found]),
            "clock": spread([t[1] for t in found]),
            "loads": loads[name],
        }
        for name, found in times.items()
    }
    limits = judged(cases)
    rows = [
        [name, *(f"{c[kind]['median']:.2f} ({c[kind]['least']:.2f} to {c[kind]['greatest']:.2f})"
                 for kind in ("processor", "clock")), ", ".join(c["loads"])]
        for name, c in cases.items()
    ]  # fmt: skip
    console.print(frame.table("seconds", ["case", "processor", "clock", "loads"], rows))
    for name, verdict in limits.items():
        over = f" over {verdict['over']}" if verdict["over"] else ""
        told = "kept" if verdict["kept"] else "exceeded"
        console.print(f"{name}: {verdict['cost']:.2f} s{over}, limit {verdict['limit']} s: {told}")
    out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    facts = {"rounds": rounds, "load": load, "cases": cases, "limits": limits}
    frame.write_record(out / "result.json", facts)


if __name__ == "__main__":
    typer.run(main)
