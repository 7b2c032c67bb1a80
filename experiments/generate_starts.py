"""Generated networks as initializations: steps to a target loss on data of another kind.

``python -m experiments.generate_starts --generator RUN`` takes the generator of a run of
`experiments.generate_mlps` (networks of MNIST) and trains what it generates on Fashion-MNIST,
beside torch's default initialization, the generator's own noise and the training networks
themselves, all with their output layer and with a fresh one. Every kind has the learning rate at
which it ends lowest. The target is the test loss at which the default initialization ends. What the
generator has cost is set against the steps that it saves. Writes ``result.json`` and
``losses.png``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from experiments.frame import (
    Out,
    Preset,
    Seed,
    Threads,
    begin,
    choose,
    read_json,
    refusing,
    table,
    write_record,
)
from experiments.generate_mlps import OURS
from experiments.generation.clock import Clock
from experiments.generation.populations import Stacked, initial, losses, network, train
from experiments.zoo.images import Images, flat_images
from gmn_opt.figures import legend_below, picture
from gmn_opt.generate import Generator
from gmn_opt.metanet import blocked

DEFAULT, FRESH = "default initialization", ", fresh output layer"


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    networks: int = 20
    steps: int = 400
    every: int = 10
    rates: tuple[float, ...] = (1e-3, 3e-3)
    images: int | None = None


PRESETS = {"smoke": Sizes(2, 4, 2, (1e-3,), 32), "cpu": Sizes()}


def main(
    generator: Annotated[Path, typer.Option(help="Folder of a run of generate_mlps.")],
    preset: Preset = "cpu",
    seed: Seed = 0,
    out: Out = Path("runs/generate_starts"),
    threads: Threads = 1,
) -> None:
    """See the module."""
    console = begin(threads)
    with refusing(console):
        choose("preset", preset, PRESETS)
        run(PRESETS[preset], generator, seed, out, console)


def run(sizes: Sizes, folder: Path, seed: int, out: Path, console: Console) -> dict[str, Any]:
    """All of it; the record."""
    record = read_json(folder / "result.json")
    made_with = record["sizes"]
    images = flat_images("fashion_mnist", made_with["size"], sizes.images)
    pixels, width = images.train.shape[1], made_with["width"]
    clock = Clock()
    kinds = starts(folder, pixels, width, sizes, seed, made_with["sampling"])
    clock.lap("sampling")
    curves = {name: curve(start, images, sizes, seed) for name, start in kinds.items()}
    # a step of one network, from all that were trained here
    seconds = sum(c["seconds"] for c in curves.values())
    step = seconds / (len(curves) * len(sizes.rates) * sizes.steps * sizes.networks)
    target = curves[DEFAULT]["mean"][-1]
    found = {name: judged(c, target, sizes) for name, c in curves.items()}
    parts = record["cpu_seconds"]
    cost = parts["training networks"] + parts[OURS] + clock.seconds["sampling"]
    saved = found[DEFAULT]["steps"] - (found["generated"]["steps"] or sizes.steps)
    facts = {
        "sizes": asdict(sizes), "seed": seed, "from": "mnist", "to": "fashion_mnist",
        "target_loss": target, "kinds": found, "generator_cpu_seconds": cost,
        "cpu_seconds_per_step": step,
        "trainings_until_the_generator_pays": cost / (saved * step) if saved > 0 else None,
    }  # fmt: skip
    made = write_record(out / "result.json", facts)
    draw(facts, out / "losses.png")
    tell(facts, console)
    return made


def starts(
    folder: Path, pixels: int, width: int, sizes: Sizes, seed: int, steps: int
) -> dict[str, Stacked]:
    """Networks to begin from, by kind."""
    count = sizes.networks
    generator = Generator.load(folder / "metanet.safetensors", network(pixels, width))
    random = torch.Generator().manual_seed(seed + 1)
    noise = generator.units.noise(generator.graph, count, random)
    default = initial(count, pixels, width, seed)
    whole = {
        "generated": generator.sample(count, steps=steps, method="euler", noise=noise),
        "noise of the generator": blocked(generator.graph).unflatten(
            generator.units.back(generator.graph, noise)
        ),
        "training networks": {
            n: t[:count] for n, t in load_file(folder / "training.safetensors").items()
        },
    }
    fresh = {
        name + FRESH: kind | {n: default[n] for n in ("2.weight", "2.bias")}
        for name, kind in whole.items()
    }
    return {DEFAULT: default, **whole, **fresh}


def curve(start: Stacked, images: Images, sizes: Sizes, seed: int) -> dict[str, Any]:
    """Test losses ``[checks, networks]`` at the rate at which they end lowest."""
    best: dict[str, Any] = {}
    clock = Clock()
    for rate in sizes.rates:
        rows: list[Tensor] = [losses(start, images)]

        def watch(step: int, params: Stacked) -> None:
            if step % sizes.every == 0:
                clock.lap("training", goes_on=True)
                rows.append(losses(params, images))  # noqa: B023
                clock.lap("judging")

        clock.lap("judging")
        train(start, images, sizes.steps, rate, seed + 2, decay=False, watch=watch)
        clock.lap("training", goes_on=True)
        seen = torch.stack(rows)
        mean = seen.mean(1).tolist()
        if not best or mean[-1] < best["mean"][-1]:
            best = {"rate": rate, "mean": mean, "losses": seen}
    return {**best, "seconds": clock.seconds["training"]}


def judged(found: dict[str, Any], target: float, sizes: Sizes) -> dict[str, Any]:
    """Steps until half of the networks have the target; None where they never do."""
    reached = found["losses"].cummin(0).values.median(1).values <= target
    first = int(reached.float().argmax()) * sizes.every if bool(reached.any()) else None
    return {
        "rate": found["rate"], "losses": found["mean"], "last_loss": found["mean"][-1],
        "lowest_loss": min(found["mean"]), "steps": first,
    }  # fmt: skip


def draw(facts: dict[str, Any], path: Path) -> None:
    """Loss by step, of every kind."""
    every = facts["sizes"]["every"]
    with picture(path, 7, 4.5) as figure:
        axes = figure.subplots()
        for i, (name, kind) in enumerate(facts["kinds"].items()):
            steps = [j * every for j in range(len(kind["losses"]))]
            style = "--" if name.endswith(FRESH) else "-"
            axes.plot(steps, kind["losses"], style, color=f"C{i % 8}", label=name)
        axes.axhline(facts["target_loss"], color="grey", linewidth=0.5)
        axes.set(xlabel="steps on Fashion-MNIST", ylabel="test loss", ylim=(None, 2.5))
        legend_below(figure, columns=2)


def tell(facts: dict[str, Any], console: Console) -> None:
    """Print what matters."""
    rows = [
        (name, f"{k['rate']:g}", str(k["steps"] if k["steps"] is not None else "never"),
         f"{k['last_loss']:.3f}")
        for name, k in facts["kinds"].items()
    ]  # fmt: skip
    title = f"Steps to a loss of {facts['target_loss']:.3f}"
    console.print(table(title, ("start", "rate", "steps", "loss in the end"), rows))
    pays = facts["trainings_until_the_generator_pays"]
    console.print(
        f"The generator took {facts['generator_cpu_seconds']:.0f} s, a step "
        f"{1e3 * facts['cpu_seconds_per_step']:.2f} ms: "
        + ("it saves no steps." if pays is None else f"it pays after {pays:,.0f} trainings.")
    )


if __name__ == "__main__":
    typer.run(main)
