"""Data sets of INRs: ``python -m experiments.make_inrs --data mnist --preset cpu --out DIR``.

Fits a SIREN to each of many real images, from independent random initializations. Writes
``DIR/train``, ``DIR/valid`` and ``DIR/test``, each with shards and a manifest (checksums, seeds,
target range), and ``DIR/dataset.json``. A run that was killed goes on with --resume.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import frame
from gmn_opt.inr import FitConfig, InrSet, SirenConfig, fit_images, load_inr_set
from tasks.inr_data import COUNTS, SPLITS, load_split


def parse_counts(text: str) -> tuple[int, int, int]:
    """``"6000,1000,1000"`` as numbers; raises ValueError for anything else."""
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() for p in parts):
        raise ValueError(f"--count takes train,valid,test such as 6000,1000,1000, received {text}.")
    train, valid, test = (int(p) for p in parts)
    return train, valid, test


def folder_of(data: str, preset: str) -> Path:
    """Where the INRs of a preset are by default."""
    return Path("runs/inrs") / (data if preset == "cpu" else f"{data}-{preset}")


def load_or_make(folder: Path, data: str, preset: str, **recipe: Any) -> dict[str, InrSet]:
    """The splits of a data set of INRs, which are fitted first where there are none."""
    if not (folder / "dataset.json").exists():
        main(data=data, out=folder, preset=preset, resume=True, **recipe)
    return {split: load_inr_set(folder / split) for split in SPLITS}


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
    seed: frame.Seed = 0,
    resume: frame.Resume = False,
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
) -> None:
    """Fit INRs to real images."""
    console = frame.begin(threads)
    folder = out or Path("runs/inrs") / data
    with frame.refusing(console):
        frame.choose("preset", preset, COUNTS)
        counts = parse_counts(count) if count else COUNTS[preset]
        where = frame.choose_device(device)
        config = SirenConfig(2, 3 if data == "photos" else 1, frame.numbers(widths, "--widths"))
        fit = FitConfig(
            steps=steps, pixels=pixels, target_psnr=psnr, check_every=check_every,
            slots=slots or (64 if where.type == "cpu" else 4096),
        )  # fmt: skip
        summary: dict[str, Any] = {}
        for number, split in enumerate(SPLITS):
            source = load_split(data, split, counts, seed)
            started = time.perf_counter()
            made = fit_images(
                source.images, config, fit, labels=source.labels, out=folder / split,
                # one seed per split, or images at the same place would share an initialization
                seed=len(SPLITS) * seed + number, resume=resume, shard=shard,
                about={"data": data, "split": split, "origin": source.origin},
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
        facts = {
            "data": data,
            "inr": config.to_dict(),
            "fit": fit.to_dict(),
            "seed": seed,
            "initialization": "independent for every INR",
            "target_range": list(config.value_range),
            "splits": summary,
        }
        frame.write_record(folder / "dataset.json", facts)


if __name__ == "__main__":
    typer.run(main)
