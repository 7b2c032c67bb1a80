"""Data sets of INRs: ``python -m experiments.make_inrs --data mnist --preset cpu --out DIR``.

Fits a SIREN to each of many real images, from independent random initializations. Writes
``DIR/train``, ``DIR/valid`` and ``DIR/test``, each with shards and a manifest (checksums, seeds,
target range), and ``DIR/dataset.json``. A run that was killed goes on with --resume.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from experiments.common import (
    choose_device,
    command_line,
    environment,
    keep_freed_memory,
    numbers,
    refusing,
)
from gmn_opt.inr import FitConfig, SirenConfig, fit_images
from gmn_opt.weights.atomic import write_atomically
from tasks.inr_data import COUNTS, SPLITS, load_split


def parse_counts(text: str) -> tuple[int, int, int]:
    """``"6000,1000,1000"`` as numbers; raises ValueError for anything else."""
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() for p in parts):
        raise ValueError(f"--count takes train,valid,test such as 6000,1000,1000, received {text}.")
    train, valid, test = (int(p) for p in parts)
    return train, valid, test


def main(
    data: Annotated[str, typer.Option(help="mnist, fashion_mnist or photos")] = "mnist",
    out: Annotated[Path | None, typer.Option(help="Default: runs/inrs/DATA.")] = None,
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu: how many images")] = "cpu",
    count: Annotated[str | None, typer.Option(help="train,valid,test instead of preset's.")] = None,
    widths: Annotated[str, typer.Option(help="Hidden widths of the SIREN.")] = "32,32",
    steps: Annotated[int, typer.Option(help="Most steps per INR.")] = 600,
    psnr: Annotated[float, typer.Option(help="Stop an INR at this many dB.")] = 40.0,
    pixels: Annotated[int, typer.Option(help="Pixels drawn per step; 0 for all.")] = 0,
    check_every: Annotated[int, typer.Option(help="Steps between looks at the PSNR.")] = 20,
    slots: Annotated[int | None, typer.Option(help="INRs at once; 64 on a CPU.")] = None,
    shard: Annotated[int, typer.Option(min=1, help="INRs per file.")] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with what is in --out.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Fit INRs to real images."""
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder = out or Path("runs/inrs") / data
    with refusing(console):
        if preset not in COUNTS:
            raise ValueError(f"Unknown preset {preset!r}; choose one of {', '.join(COUNTS)}.")
        counts = parse_counts(count) if count else COUNTS[preset]
        where = choose_device(device)
        sizes = numbers(widths, "--widths")
        config = SirenConfig(2, 3 if data == "photos" else 1, sizes)
        at_once = slots or (64 if where.type == "cpu" else 4096)
        fit = FitConfig(
            steps=steps, pixels=pixels, target_psnr=psnr, check_every=check_every, slots=at_once
        )
        summary = {}
        for number, split in enumerate(SPLITS):
            source = load_split(data, split, counts, seed)
            about = {"data": data, "split": split, "origin": source.origin}
            started = time.perf_counter()
            made = fit_images(
                source.images, config, fit, labels=source.labels, out=folder / split,
                # one seed per split, or images at the same place would share an initialization
                seed=len(SPLITS) * seed + number, resume=resume, shard=shard, about=about,
                progress=console.is_terminal, device=where,
            )  # fmt: skip
            summary[split] = {
                "count": len(made),
                "psnr_mean": round(float(made.psnr.mean()), 2),
                "psnr_min": round(float(made.psnr.min()), 2),
                "fit_seconds": round(sum(s["seconds"] for s in made.manifest["shards"]), 1),
                "images_sha256": made.manifest["images"]["sha256"],
            }
            console.print(f"{split}: {summary[split]}, {time.perf_counter() - started:.0f} s")
    record = {
        "command": command_line(),
        "data": data,
        "inr": config.to_dict(),
        "fit": fit.to_dict(),
        "seed": seed,
        "initialization": "independent for every INR",
        "target_range": list(config.value_range),
        "splits": summary,
        "environment": environment(),
    }
    text = json.dumps(record, indent=1) + "\n"
    with refusing(console):
        write_atomically(folder / "dataset.json", lambda p: p.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
