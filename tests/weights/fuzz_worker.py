"""Reads mutated files in a process of bounded memory: ``fuzz_worker.py FOLDER SEED COUNT``.

Prints one JSON object: how many files were read and refused, and the faults.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from gmn_opt.cli import app
from gmn_opt.inr import (
    EditorConfig,
    FourierConfig,
    GridConfig,
    SirenConfig,
    WeightEditor,
    fit_images,
    load_editor,
    load_inr,
    load_inr_set,
    save_editor,
    save_inr,
)
from gmn_opt.inr.fitting import FitConfig
from gmn_opt.optim import LearnedRule, RuleConfig, load_rule, save_rule
from gmn_opt.weights import WeightsError
from gmn_opt.weights.shipped import read_card
from tests.weights.mutations import mutated

SECONDS, BYTES = 2.0, 500_000_000
Reader = Callable[[Path], Any]


def _render(path: Path) -> None:
    """The command line: refuses with code 2, and an image is there whole or not at all."""
    out = path.with_name("out.png")
    done = CliRunner().invoke(app, ["inr", "render", str(path), "-o", str(out), "--size", "8"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code not in (0, 2) or "Traceback" in done.output:
        raise AssertionError(f"exit code {done.exit_code}: {done.output[-500:]}")
    left = {p.name for p in path.parent.iterdir()} - {path.name}
    if left != ({out.name} if done.exit_code == 0 else set()):
        raise AssertionError(f"left behind: {sorted(left)}")
    out.unlink(missing_ok=True)
    if done.exit_code:
        raise WeightsError("refused")


def _samples(folder: Path) -> list[tuple[Path, Reader]]:
    """Good files, and what reads each."""
    torch.manual_seed(0)
    made: list[tuple[Path, Reader]] = []

    def add(name: str, reader: Reader) -> Path:
        made.append((folder / name, reader))
        return folder / name

    siren = SirenConfig(widths=(8, 8))
    save_inr(add("siren.safetensors", load_inr), siren.build(), {"size": [8, 8]})
    save_inr(add("fourier.safetensors", load_inr), FourierConfig(frequencies=4).build())
    save_inr(add("grid.safetensors", load_inr), GridConfig(resolution=4).build())
    save_inr(add("render.safetensors", _render), siren.build(), {"size": [8, 8]})
    foreign = {f"net.{n}": p.detach() for n, p in siren.build().named_parameters()}
    save_file(foreign, add("foreign.safetensors", load_inr))
    for name, config in (
        ("plain", EditorConfig(hidden=4, edge_hidden=2, layers=1)),
        ("rounds", EditorConfig(hidden=4, edge_hidden=2, layers=2, rounds=1, probes=3, vision=2)),
    ):
        editor = WeightEditor(SirenConfig(widths=(4, 4)), config)
        save_editor(add(f"{name}-editor.safetensors", load_editor), editor)
    rule = LearnedRule(RuleConfig(hidden=6, edge_hidden=2, layers=2))
    save_rule(add("rule.safetensors", load_rule), rule)
    card = {"name": "x", "seed": 0, "results": {"a": [1, 2.5]}, "command": "python"}
    add("card.json", read_card).write_text(json.dumps(card))
    images = torch.rand(3, 4, 4, 1) * 2 - 1
    fit = FitConfig(steps=2, slots=3)
    fit_images(images, siren, fit, out=folder / "set")
    made.append((folder / "set" / "manifest.json", lambda path: load_inr_set(path.parent)))
    return made


def _run(reader: Reader, path: Path) -> tuple[str, str | None]:
    """("read" or "refused", the fault if there is one)."""
    started, fault, how = time.process_time(), None, "read"
    try:
        reader(path)
    except WeightsError as error:
        how, text = "refused", str(error)
        if len(text) > 3000 or not text.translate({9: " ", 10: " "}).isprintable():
            fault = f"a message that no terminal should show: {text[:300]!r}"
    except BaseException:
        fault = traceback.format_exc()[-1500:]
    seconds = time.process_time() - started
    return how, f"took {seconds:.1f} s" if seconds > SECONDS else fault


def _try(path: Path, reader: Reader, content: bytes) -> tuple[str, str | None]:
    """:func:`_run` with this content: alone in a folder, or in the place of ``path`` in a set."""
    whole = path.read_bytes()
    place = path if path.name == "manifest.json" else path.parent / "try" / f"x{path.suffix}"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(content)
    found = _run(reader, place)
    place.unlink()
    path.write_bytes(whole)
    return found


def main(folder: Path, seed: int, count: int) -> None:
    """See the module."""
    samples = _samples(folder)
    for path, reader in samples:  # everything that is imported late, and proof that they are good
        how, fault = _try(path, reader, path.read_bytes())
        assert how == "read", (path, how)
        assert fault is None or fault.startswith("took"), (path, fault)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, resource.RLIM_INFINITY))
    draw, found = random.Random(seed), {"read": 0, "refused": 0}
    faults: list[dict[str, str]] = []
    for number in range(count):
        path, reader = samples[number % len(samples)]
        content = mutated(path.read_bytes(), draw, path.suffix == ".json")
        how, fault = _try(path, reader, content)
        found[how] += 1
        if fault is not None:
            kept = folder / f"fault-{number}{path.suffix}"
            kept.write_bytes(content)
            faults.append({"of": path.name, "file": str(kept), "fault": fault})
    print(json.dumps({**found, "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
