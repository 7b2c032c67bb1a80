"""Embeddings of INRs without labels: ``python -m experiments.inr_ssl --preset cpu``.

The sine task of Navon et al. 2023 (arXiv 2301.12780), which Lim et al. 2023 (arXiv 2312.04501,
section 5.3) take over: SIRENs 1-32-32-1 are fitted to a·sin(bx) on [-π, π] with a and b uniform in
(0, 10), an embedding of 16 numbers is learned by contrast (InfoNCE, temperature 0.1) between two
disturbed copies of every network, and (a, b) is then read off the frozen embedding by linear
regression. The measure is the mean squared error of that regression on networks never seen.

Copies are disturbed by noise on the weights and by weights masked, as in Navon et al. All encoders
read SIRENs brought to one representative of the sine's symmetries, with the same data, batches,
epochs and optimizer; the time each takes stands beside its error. Fits, disturbance and budget
were chosen by the validation error of ``gmn``, seed 0; docs/inr.md gives account.

``--set second_fits=true`` deviates from the protocol: the two copies of an instance come from two
networks, fitted to the same signal from independent initializations. An encoder can then tell
instances apart by nothing but their functions. Shamsian et al. 2024 (arXiv 2402.04081) show what
several networks per object are worth to classifiers.

Writes ``result.json`` and ``embedding.png`` to --out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.common import choose_device, keep_freed_memory, refusing
from experiments.inr_classifiers import EmbeddingMetanet
from experiments.inr_runs import Normalizer, plain, runs_before, set_rate, summary, write_runs
from experiments.settings import with_settings
from gmn_opt import ParameterGraph
from gmn_opt.inr import FitConfig, InrSet, Params, SirenConfig, fit_images, load_inr_set
from gmn_opt.inr.editor import traced
from gmn_opt.meta.seeding import seeded
from gmn_opt.metanet.baselines import NPNFN, FlatMLP, StatNN
from gmn_opt.weights.atomic import write_atomically

EMBEDDING = 16
MEASURE = "test_mse"
ENCODERS: dict[str, Callable[[ParameterGraph], nn.Module]] = {
    "gmn": lambda graph: EmbeddingMetanet(
        graph, EMBEDDING, hidden=32, edge_hidden=8, layers=3, gain=1.0
    ),
    "np_nfn": lambda graph: NPNFN(graph.shapes, EMBEDDING),
    "statnn": lambda graph: StatNN(graph.shapes, EMBEDDING),
    "flat_mlp": lambda graph: FlatMLP(graph.shapes, EMBEDDING),
}
SPLITS = ("train", "valid", "test")
AGAIN = "train-again"
LARGEST = 10.0
#: First-layer phases begin within ±ω over the domain. The published code of Navon et al. draws the
#: first layer from ±√6/30, times 30, on x in [-π, π]: this is ω = √6 π on [-1, 1]. Much larger
#: ones leave the wave's frequency to fine differences between neurons, which no encoder finds.
SIREN = SirenConfig(1, 1, (32, 32), (-LARGEST, LARGEST), omega=math.sqrt(6) * math.pi)


@dataclass(frozen=True)
class Budget:
    """What every encoder gets.

    ``noise`` is in standard deviations of a tensor's elements, ``masked`` a share of them. With
    ``second_fits`` every training signal has two networks, and a copy is made of each.
    """

    networks: tuple[int, int, int] = (4000, 500, 500)
    samples: int = 128
    fit_steps: int = 300
    fit_lr: float = 1.2e-2
    epochs: int = 3
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 1e-3
    temperature: float = 0.1
    noise: float = 0.05
    masked: float = 0.9
    second_fits: bool = False


PRESETS = {
    "smoke": Budget((24, 8, 8), 32, 20, epochs=2, batch=8),
    "cpu": Budget(),
    "gpu": Budget(),  # the same: longer training makes embeddings worse
}


def waves(count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(a, b) ``[count, 2]`` and a·sin(bx) ``[count, samples]`` at even steps from -π to π."""
    coefficients = LARGEST * torch.rand(count, 2, generator=generator)
    x = math.pi * torch.linspace(-1, 1, samples)
    a, b = coefficients.split(1, -1)
    return coefficients, a * torch.sin(b * x)


def data_sets(
    folder: Path, budget: Budget, progress: bool, device: torch.device
) -> dict[str, tuple[InrSet, Tensor]]:
    """Networks and (a, b) by split, fitted first where there are none; `AGAIN` with second fits."""
    # All steps for all: one target for all would stop small waves before their weights show b.
    fit = FitConfig(steps=budget.fit_steps, lr=budget.fit_lr, target_psnr=None)
    wanted = [(split, number, number) for number, split in enumerate(SPLITS)]
    if budget.second_fits:
        wanted.append((AGAIN, 0, len(SPLITS)))
    found = {}
    for split, number, seed in wanted:
        generator = torch.Generator().manual_seed(number)
        coefficients, signals = waves(budget.networks[number], budget.samples, generator)
        fit_images(
            signals, SIREN, fit, seed=seed, out=folder / split, resume=True, progress=progress,
            device=device, about={"data": "sine waves", "split": split},
        )  # fmt: skip
        found[split] = load_inr_set(folder / split), coefficients
    return found


def disturbed(params: Mapping[str, Tensor], budget: Budget, generator: torch.Generator) -> Params:
    """A copy of normalized ``params`` with noise, and some elements set to the mean."""
    found = {}
    for name, p in params.items():
        noise = torch.randn(p.shape, generator=generator).to(p)
        kept = (torch.rand(p.shape, generator=generator) >= budget.masked).to(p)
        found[name] = (p + budget.noise * noise) * kept
    return found


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The contrastive loss of SimCLR (Chen et al. 2020) on two views ``[B, d]`` of B networks."""
    z = F.normalize(torch.cat([first, second]), dim=-1)
    scores = z @ z.mT / temperature
    scores = scores.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)
    half = len(first)
    other = torch.arange(2 * half, device=z.device).roll(half)
    return F.cross_entropy(scores, other)


@torch.no_grad()
def embed(encoder: nn.Module, params: Mapping[str, Tensor], batch: int = 250) -> Tensor:
    """Embeddings ``[N, EMBEDDING]`` of length 1, as the loss sees them, on the CPU."""
    encoder.eval()
    count = len(next(iter(params.values())))
    rows = [
        encoder({n: p[i : i + batch] for n, p in params.items()}).cpu()
        for i in range(0, count, batch)
    ]
    encoder.train()
    return F.normalize(torch.cat(rows), dim=-1)


def linear_error(
    train: Tensor, known: Tensor, other: Tensor, wanted: Tensor
) -> tuple[float, list[float]]:
    """Mean squared error of least squares on ``train`` [N, d], judged on ``other``; by target."""

    def with_one(z: Tensor) -> Tensor:
        return torch.cat([z, torch.ones(len(z), 1)], -1).double()

    solution = torch.linalg.lstsq(with_one(train), known.double()).solution
    each = (with_one(other) @ solution - wanted.double()).square().mean(0)
    return float(each.mean()), each.tolist()


def train_encoder(
    encoder: nn.Module,
    sets: Mapping[str, tuple[InrSet, Tensor]],
    budget: Budget,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Train one encoder by contrast; returns its record. The last epoch counts."""
    normalizer = Normalizer(sets["train"][0])
    inputs = {
        s: {n: p.to(device) for n, p in normalizer(inrs.params).items()}
        for s, (inrs, _) in sets.items()
    }
    encoder.to(device)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=budget.lr, weight_decay=budget.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    count = len(sets["train"][1])
    per_epoch = max(1, count // budget.batch)
    total, step, seconds = budget.epochs * per_epoch, 0, 0.0
    curve: list[dict[str, float]] = []
    for epoch in range(budget.epochs):
        started, losses = time.perf_counter(), []
        order = torch.randperm(count, generator=generator).to(device)
        for chosen in order.split(budget.batch)[:per_epoch]:
            pair = [
                disturbed({n: p[chosen] for n, p in source.items()}, budget, generator)
                for source in (inputs["train"], inputs.get(AGAIN, inputs["train"]))
            ]
            both = {n: torch.cat([p[n] for p in pair]) for n in pair[0]}
            first, second = encoder(both).chunk(2)
            loss = info_nce(first, second, budget.temperature)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            set_rate(optimizer, budget.lr, step, total, warm=50)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        seconds += time.perf_counter() - started
        curve.append({"epoch": epoch + 1, "seconds": round(seconds, 2), "loss": fmean(losses)})
        if (epoch + 1) % 5 == 0 or epoch + 1 == budget.epochs:
            z = {s: embed(encoder, inputs[s]) for s in SPLITS}
            curve[-1]["valid_mse"] = linear_error(
                z["train"], sets["train"][1], z["valid"], sets["valid"][1]
            )[0]
    error, each = linear_error(z["train"], sets["train"][1], z["test"], sets["test"][1])
    return {
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "seconds": round(seconds, 1),
        "valid_mse": curve[-1]["valid_mse"],
        "test_mse": error,
        "test_mse_amplitude": each[0],
        "test_mse_frequency": each[1],
        "curve": curve,
        "embedding": z["test"],
    }


def plot(embeddings: Mapping[str, Tensor], coefficients: Tensor, path: Path) -> None:
    """The first two principal components of the test embeddings, coloured by a and by b."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(embeddings), 5.4), layout="constrained")
    axes = figure.subplots(2, len(embeddings), squeeze=False)
    for column, (name, z) in enumerate(embeddings.items()):
        z = z - z.mean(0)
        plane = z @ torch.linalg.svd(z, full_matrices=False).Vh[:2].mT
        for row, what in enumerate(("amplitude", "frequency")):
            axis = axes[row][column]
            axis.scatter(plane[:, 0], plane[:, 1], c=coefficients[:, row], s=6, cmap="viridis")
            axis.set_title(f"{name}, {what}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
    write_atomically(path, lambda p: figure.savefig(p, dpi=130, format="png"))


def table(found: Mapping[str, dict[str, float]]) -> Table:
    """A line per encoder, best first."""
    made = Table(title="linear regression of (a, b) from embeddings, test MSE over seeds")
    for column in ("encoder", "MSE", "+-", "parameters", "seconds"):
        made.add_column(column, justify="right")
    for name, f in sorted(found.items(), key=lambda pair: pair[1]["test_mse_mean"]):
        made.add_row(
            name, f"{f['test_mse_mean']:.3f}", f"{f['test_mse_std']:.3f}",
            f"{f['parameters']:,}", f"{f['seconds_mean']:.0f}",
        )  # fmt: skip
    return made


def main(
    preset: Annotated[str, typer.Option(help="smoke, cpu or gpu")] = "cpu",
    out: Annotated[Path, typer.Option()] = Path("runs/inr_ssl"),
    inrs: Annotated[Path | None, typer.Option(help="Folder of INRs; made if missing.")] = None,
    models: Annotated[str, typer.Option(help="Which encoders.")] = ",".join(ENCODERS),
    seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs per encoder.")] = 5,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a setting of the budget.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Keep the runs in --out that are done.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Learn embeddings of sine INRs by contrast, and read the waves off them."""
    console = Console(highlight=False, soft_wrap=True)
    torch.set_num_threads(threads)
    keep_freed_memory()
    names = models.split(",")
    path = out / "result.json"
    with refusing(console):
        if preset not in PRESETS or not set(names) <= ENCODERS.keys():
            raise ValueError(
                f"Choose a preset of {', '.join(PRESETS)} and models of {', '.join(ENCODERS)}; "
                f"received {preset!r} and {models!r}."
            )
        (budget,) = with_settings([PRESETS[preset]], settings or [])
        where = choose_device(device)
        suffix = "" if preset == "cpu" else f"-{preset}"
        folder = inrs or Path("runs/inrs") / f"sines{suffix}"
        given = plain({"budget": asdict(budget), "inr": SIREN.to_dict()})
        runs = runs_before(path, given, resume)
        out.mkdir(parents=True, exist_ok=True)
        sets = data_sets(folder, budget, console.is_terminal, where)
    graph = traced(SIREN.build())
    shown: dict[str, Tensor] = {}
    for number in range(seed, seed + seeds):
        for name in names:
            if number in {r["seed"] for r in runs.get(name, [])}:
                continue
            with seeded(number, where):
                encoder = ENCODERS[name](graph)
            record = train_encoder(encoder, sets, budget, number, where)
            shown.setdefault(name, record.pop("embedding"))
            runs.setdefault(name, []).append({"seed": number, **record})
            console.print(
                f"{name}, seed {number}: test MSE {record['test_mse']:.3f} (validation "
                f"{record['valid_mse']:.3f}) in {record['seconds']:.0f} s"
            )
            write_runs(path, given, runs, MEASURE)
    if shown:
        plot(shown, sets["test"][1], out / "embedding.png")
    console.print(table(summary(runs, MEASURE)))


if __name__ == "__main__":
    typer.run(main)
