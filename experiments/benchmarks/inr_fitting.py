"""INRs per second, batched and one by one: ``python -m experiments.benchmarks.inr_fitting``.

Both train the same SIRENs on the same real images, from the same initial parameters, with Adam and
the same schedule, look at the PSNR as often, and stop at the same one; once on all pixels and once
on sampled ones. The loop is what one would write without this package: a module, torch.optim.Adam,
one image after the other. Runs alternate, so that what else the machine does meets both. Writes
``result.json`` to --out.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from experiments import frame
from gmn_opt.data import load_bundled
from gmn_opt.inr import FitConfig, FittedInrs, SirenConfig, coordinates, fit_batch
from gmn_opt.inr.fitting import as_targets, initial_params


def fit_one_by_one(
    images: Tensor, config: SirenConfig, fit: FitConfig, device: torch.device
) -> FittedInrs:
    """The plain loop that `fit_batch` is compared with."""
    started = time.perf_counter()
    points = coordinates((images.shape[1], images.shape[2]), device=device)
    targets = as_targets(images, config).flatten(1, 2).to(device)
    peak = config.value_range[1] - config.value_range[0]
    found: list[tuple[dict[str, Tensor], float, int]] = []
    for key, target in enumerate(targets):
        inr = config.build()
        inr.load_state_dict({n: p[0] for n, p in initial_params(inr, 0, [key]).items()})
        inr.to(device)
        opt = torch.optim.Adam(inr.parameters(), lr=fit.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, fit.steps)
        for step in range(1, fit.steps + 1):
            x, y = points, target
            if 0 < fit.pixels < len(points):
                chosen = torch.randperm(len(points), device=device)[: fit.pixels]
                x, y = points[chosen], target[chosen]
            opt.zero_grad()
            (inr(x) - y).square().mean().backward()
            opt.step()
            schedule.step()
            if step % fit.check_every == 0 or step == fit.steps:
                with torch.no_grad():
                    error = float((inr(points) - target).square().mean())
                psnr = 10 * math.log10(peak**2 / max(error, 1e-12))
                if fit.target_psnr is not None and psnr >= fit.target_psnr:
                    break
        found.append(({n: p.detach().cpu() for n, p in inr.named_parameters()}, psnr, step))
    params = {n: torch.stack([f[0][n] for f in found]) for n in found[0][0]}
    psnrs, steps = torch.tensor([f[1] for f in found]), torch.tensor([f[2] for f in found])
    return FittedInrs(config, params, psnrs, steps, time.perf_counter() - started)


def _facts(runs: list[FittedInrs], shared: int) -> dict[str, Any]:
    """Rates of all runs; the mean PSNR is that of the images that the loop fits too."""
    return {
        "inrs": len(runs[0]),
        "inrs_per_second": [round(len(r) / r.seconds, 3) for r in runs],
        "psnr_mean": round(float(runs[0].psnr[:shared].mean()), 2),
        "psnr_min": round(float(runs[0].psnr.min()), 2),
        "steps_mean": round(float(runs[0].steps.double().mean()), 1),
    }


def main(
    out: frame.Out = Path("runs/benchmarks/inr_fitting"),
    data: Annotated[str, typer.Option(help="mnist or fashion_mnist")] = "mnist",
    batch: Annotated[int, typer.Option(help="INRs fitted at once per run.")] = 256,
    loop: Annotated[int, typer.Option(help="INRs fitted one by one per run.")] = 8,
    repeats: Annotated[int, typer.Option()] = 3,
    slots: Annotated[str, typer.Option(help="Numbers of slots to try.")] = "16,32,64,128,256",
    psnr: Annotated[float, typer.Option(help="Where every INR stops, in dB.")] = 35.0,
    device: frame.Device = "cpu",
    threads: frame.Threads = 1,
) -> None:
    """Measure INRs per second."""
    console = frame.begin(threads)
    with frame.refusing(console):
        where = frame.choose_device(device)
        images = load_bundled(data).train_images[:batch]
        slot_counts = frame.numbers(slots, "--slots")
        out.mkdir(parents=True, exist_ok=True)
    config = SirenConfig()
    results: dict[str, Any] = {}
    title = f"INRs per second on {where}, SIREN 2-32-32-1, {data}, {psnr:g} dB"
    columns = "pixels per step", "how", "INRs/s", "times the loop", "mean dB", "mean steps"
    table = frame.table(title, columns, ())
    for pixels in (0, 128):
        fit = FitConfig(pixels=pixels, target_psnr=psnr)
        runs: dict[str, list[FittedInrs]] = {}
        for _ in range(repeats):
            run = fit_one_by_one(images[:loop], config, fit, where)
            runs.setdefault("one by one", []).append(run)
            for count in slot_counts:
                run = fit_batch(images, config, replace(fit, slots=count), device=where)
                runs.setdefault(f"{count} slots", []).append(run)
        facts = {name: _facts(found, loop) for name, found in runs.items()}
        base = facts["one by one"]["inrs_per_second"]
        for name, found in facts.items():
            pairs = zip(found["inrs_per_second"], base, strict=True)
            found["times_one_by_one"] = [round(a / b, 2) for a, b in pairs]
            table.add_row(
                str(pixels or "all"), name, f"{median(found['inrs_per_second']):.2f}",
                f"{median(found['times_one_by_one']):.1f}", f"{found['psnr_mean']:.1f}",
                f"{found['steps_mean']:.0f}",
            )  # fmt: skip
        results["all pixels" if pixels == 0 else f"{pixels} pixels"] = facts
    rates = {
        side: max(
            median(f["inrs_per_second"])
            for facts in results.values()
            for name, f in facts.items()
            if (name == "one by one") == (side == "one by one")
        )
        for side in ("one by one", "batched")
    }
    record = {
        "fastest": {**rates, "ratio": round(rates["batched"] / rates["one by one"], 2)},
        "data": data,
        "psnr": psnr,
        "device": str(where),
        "threads": threads,
        "fit": FitConfig(target_psnr=psnr).to_dict(),
        "results": results,
    }
    frame.write_record(out / "result.json", record)
    console.print(table)
    console.print(
        f"Fastest settings of each: {rates['batched']:.1f} against {rates['one by one']:.1f} INRs/s"
    )


if __name__ == "__main__":
    typer.run(main)
