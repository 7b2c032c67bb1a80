"""Embeddings of INRs without labels: ``python -m experiments.inr.ssl --preset cpu``.

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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from experiments import frame
from experiments.inr.classifiers import EmbeddingMetanet
from experiments.inr.data import folder_of
from experiments.inr.runs import Normalizer, compare, epochs, runs_before, summary_table
from gmn_opt import ParameterGraph
from gmn_opt.cli.settings import with_settings
from gmn_opt.figures import picture
from gmn_opt.inr import FitConfig, InrSet, Params, SirenConfig, fit_images, load_inr_set
from gmn_opt.inr.editor import traced
from gmn_opt.meta.seeding import seeded
from gmn_opt.metanet.baselines import NPNFN, FlatMLP, StatNN

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

    def loss_of(chosen: Tensor, generator: torch.Generator) -> Tensor:
        pair = [
            disturbed({n: p[chosen] for n, p in source.items()}, budget, generator)
            for source in (inputs["train"], inputs.get(AGAIN, inputs["train"]))
        ]
        both = {n: torch.cat([p[n] for p in pair]) for n in pair[0]}
        first, second = encoder(both).chunk(2)
        return info_nce(first, second, budget.temperature)

    curve: list[dict[str, float]] = []
    count = len(sets["train"][1])
    for point in epochs(encoder, count, budget, seed, device, loss_of, 50):
        curve.append(point)
        if point["epoch"] % 5 == 0 or point["epoch"] == budget.epochs:
            z = {s: embed(encoder, inputs[s]) for s in SPLITS}
            curve[-1]["valid_mse"] = linear_error(
                z["train"], sets["train"][1], z["valid"], sets["valid"][1]
            )[0]
    error, each = linear_error(z["train"], sets["train"][1], z["test"], sets["test"][1])
    return {
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "seconds": round(curve[-1]["seconds"], 1),
        "valid_mse": curve[-1]["valid_mse"],
        "test_mse": error,
        "test_mse_amplitude": each[0],
        "test_mse_frequency": each[1],
        "curve": curve,
        "embedding": z["test"],
    }


def plot(embeddings: Mapping[str, Tensor], coefficients: Tensor, path: Path) -> None:
    """The first two principal components of the test embeddings, coloured by a and by b."""
    with picture(path, 3 * len(embeddings), 5.4) as figure:
        axes = figure.subplots(2, len(embeddings), squeeze=False)
        for column, (name, z) in enumerate(embeddings.items()):
            z = z - z.mean(0)
            plane = z @ torch.linalg.svd(z, full_matrices=False).Vh[:2].mT
            for row, what in enumerate(("amplitude", "frequency")):
                axis = axes[row][column]
                of = {"c": coefficients[:, row], "s": 6, "cmap": "viridis"}
                dots = axis.scatter(plane[:, 0], plane[:, 1], **of)
                axis.set_title(name)
                axis.set_xticks([])
                axis.set_yticks([])
                if column == len(embeddings) - 1:
                    figure.colorbar(dots, ax=axes[row].tolist(), label=what)


def main(
    preset: frame.Preset = "cpu",
    out: frame.Out = Path("runs/inr_ssl"),
    inrs: Annotated[Path | None, typer.Option(help="Folder of INRs; made if missing.")] = None,
    models: Annotated[str, typer.Option(help="Which encoders.")] = ",".join(ENCODERS),
    seed: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs per encoder.")] = 5,
    settings: frame.Settings = None,
    resume: frame.Resume = False,
    device: frame.Device = "auto",
    threads: frame.Threads = 1,
) -> None:
    """Learn embeddings of sine INRs by contrast, and read the waves off them."""
    console = frame.begin(threads)
    path = out / "result.json"
    with frame.refusing(console):
        frame.choose("preset", preset, PRESETS)
        names = frame.chosen("model", models, ENCODERS)
        (budget,) = with_settings([PRESETS[preset]], settings or [])
        where = frame.choose_device(device)
        given = {"budget": asdict(budget), "inr": SIREN.to_dict()}
        runs = runs_before(path, given, resume)
        out.mkdir(parents=True, exist_ok=True)
        folder = inrs or folder_of("sines", preset)
        sets = data_sets(folder, budget, console.is_terminal, where)
    graph = traced(SIREN.build())
    shown: dict[str, Tensor] = {}

    def run(name: str, number: int) -> dict[str, Any]:
        with seeded(number, where):
            encoder = ENCODERS[name](graph)
        record = train_encoder(encoder, sets, budget, number, where)
        shown.setdefault(name, record.pop("embedding"))
        return record

    compare(names, range(seed, seed + seeds), run, path, given, runs, MEASURE, console)
    if shown:
        plot(shown, sets["test"][1], out / "embedding.png")
    console.print(summary_table("linear regression of (a, b) from embeddings", runs, MEASURE))


if __name__ == "__main__":
    typer.run(main)
