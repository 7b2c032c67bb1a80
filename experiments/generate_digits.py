"""Networks that are digits, generated for a class; how many are recognized, and how new they are.

``python -m experiments.generate_digits``: learns a common start for SIRENs on MNIST, fits one to
every training image from there in a few steps, fits a generator, and judges what it makes beside
its own noise, the fitted networks and real images. Writes the generator, ``sheet.png``,
``nearest.png`` (generated digits above their nearest training images) and ``result.json``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from experiments.frame import (
    Out,
    Preset,
    Resume,
    Seed,
    Threads,
    begin,
    choose,
    refusing,
    table,
    write_record,
)
from experiments.generation.clock import Clock
from experiments.generation.recognizer import features, frechet, recognized, train_recognizer
from gmn_opt.data import ImageDataset, load_bundled
from gmn_opt.generate import (
    FieldConfig,
    FlowConfig,
    Generator,
    Start,
    audit,
    fit_from,
    fit_generator,
    learn_start,
    load_start,
    nearest_images,
    save_start,
)
from gmn_opt.generate.digits import NAME, STEPS, TEMPERATURE, sheet, write_png
from gmn_opt.generate.fitting import CHECKPOINT
from gmn_opt.inr import Params, SirenConfig, render
from gmn_opt.inr.editor import traced
from gmn_opt.inr.gallery import levels
from gmn_opt.metanet import blocked

COOL = f"generated, temperature {TEMPERATURE}"
FIELD = FieldConfig(layers=1, edge_hidden=8, probes=25)
FLOW = FlowConfig(steps=3500, batch=64, lr=4e-3, check_every=250, shared_order=True, rank=64)


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    images: int = 12_000
    judged: int = 500
    width: int = 20
    omega: float = 10.0
    steps: int = 5
    rounds: int = 1000
    epochs: int = 6
    field: FieldConfig = FIELD
    flow: FlowConfig = FLOW


PRESETS = {
    "smoke": Sizes(
        200, 20, 6, steps=2, rounds=5, epochs=1,
        field=FieldConfig(hidden=8, edge_hidden=4, layers=1, probes=4),
        flow=FlowConfig(steps=3, batch=8, shared_order=True, rank=4),
    ),
    "cpu": Sizes(),
}  # fmt: skip


def main(
    preset: Preset = "cpu",
    seed: Seed = 0,
    out: Out = Path("runs/generate_digits"),
    resume: Resume = False,
    stop: Annotated[int | None, typer.Option(help="End the fit after so many steps.")] = None,
    threads: Threads = 1,
) -> None:
    """See the module."""
    console = begin(threads)
    with refusing(console):
        choose("preset", preset, PRESETS)
        run(PRESETS[preset], seed, out, resume, console, stop)


def run(
    sizes: Sizes, seed: int, out: Path, resume: bool, console: Console, stop: int | None = None
) -> dict[str, Any]:
    """All of it; the record."""
    data = load_bundled("mnist")
    images, labels = data.train_images[: sizes.images], data.train_labels[: sizes.images]
    clock = Clock()
    path = out / "start.safetensors"
    if resume and path.is_file():
        start = load_start(path)
    else:
        config = SirenConfig(widths=(sizes.width, sizes.width), omega=sizes.omega)
        start = learn_start(
            images, config, steps=sizes.steps, rounds=sizes.rounds, batch=24, pixels=784, seed=seed
        )
        save_start(path, start)
    networks = fit_from(start, images)
    clock.lap("start_and_networks")
    model = start.config.build(torch.Generator().manual_seed(0))
    generator = fit_generator(
        networks, traced(model), conditions=labels, field=sizes.field, flow=sizes.flow, model=model,
        seed=seed, out=out, resume=resume and (out / CHECKPOINT).is_file(), stop=stop,
        progress=console.is_terminal,
    )  # fmt: skip
    clock.lap("generator")
    generator.about |= {"data": "mnist", "images": sizes.images, "size": [28, 28]}
    generator.save(out / f"{NAME}.safetensors")
    facts = judge(generator, start, networks, data, sizes, seed, out)
    facts |= {"sizes": asdict(sizes), "seed": seed, "cpu_seconds_this_run": clock.seconds}
    record = write_record(out / "result.json", facts)
    tell(facts, console)
    return record


def judge(
    generator: Generator, start: Start, networks: Params, data: ImageDataset, sizes: Sizes,
    seed: int, out: Path,
) -> dict[str, Any]:  # fmt: skip
    """Recognized shares, Fréchet distances and audits; draws the pictures."""
    images, labels = data.train_images[: sizes.images], data.train_labels[: sizes.images]
    judge_model = train_recognizer(data.train_images, data.train_labels, sizes.epochs)
    count = sizes.judged
    wanted = torch.arange(count) * 10 // count
    made = generator.sample(count, wanted, steps=STEPS, seed=seed + 1)
    cool = generator.sample(count, wanted, steps=STEPS, seed=seed + 1, temperature=TEMPERATURE)
    start_noise = [noise_networks(generator, wanted, seed + 1, t) for t in (1.0, TEMPERATURE)]
    test = data.test_images[:count].float() / 255
    held_out = fit_from(start, data.test_images[:count])
    shown = {
        "real test images": (test, data.test_labels[:count]),
        "networks fitted to test images": (picture(start, held_out), data.test_labels[:count]),
        "noise of the class (no flow)": (picture(start, start_noise[0]), wanted),
        "generated": (picture(start, made), wanted),
        f"noise, temperature {TEMPERATURE}": (picture(start, start_noise[1]), wanted),
        COOL: (picture(start, cool), wanted),
    }
    rows = {n: measures(judge_model, x, y, test) for n, (x, y) in shown.items()}
    generated = shown[COOL][0]
    known = images.float() / 255
    apart, which = nearest_images(generated, known)
    held_apart, _ = nearest_images(shown["networks fitted to test images"][0], known)
    draw_sheets(generated, known[which], out)
    same = {"shared_order": True}
    return {
        "kinds": rows,
        "audit_generated": audit(made, networks, generator.graph, **same).summary(),
        "audit_generated_cool": audit(cool, networks, generator.graph, **same).summary(),
        "audit_held_out": audit(held_out, networks, generator.graph, **same).summary(),
        "nearest_training_image_rms": {
            "generated": float(apart.median()),
            "generated_smallest": float(apart.min()),
            "networks_fitted_to_test_images": float(held_apart.median()),
        },
        "right_neighbour": float((labels[which] == wanted).float().mean()),
        "parameters": sum(p.numel() for p in generator.field.parameters()),
    }


def noise_networks(generator: Generator, wanted: Tensor, seed: int, temperature: float) -> Params:
    """What generation begins with, as networks: the baseline that has no flow."""
    units, graph = generator.units, generator.graph
    draw = torch.Generator().manual_seed(seed)
    noise = units.noise(graph, len(wanted), draw, wanted)
    mean = units.mean(noise, torch.eye(10)[wanted])
    return blocked(graph).unflatten(units.back(graph, mean + temperature * (noise - mean)))


def measures(model: nn.Module, images: Tensor, labels: Tensor, real: Tensor) -> dict[str, float]:
    """Share recognized, and Fréchet distance to real images in the recognizer's features."""
    distance = frechet(features(model, images), features(model, real))
    return {"recognized": recognized(model, images, labels), "frechet": distance}


def picture(start: Start, params: Params) -> Tensor:
    """``[N, 28, 28]`` in [0, 1]."""
    with torch.random.fork_rng(devices=[]):
        inr = start.config.build()
    low, high = start.config.value_range
    return ((render(inr, 28, params)[..., 0] - low) / (high - low)).clamp(0, 1)


def draw_sheets(generated: Tensor, nearest: Tensor, out: Path) -> None:
    """``sheet.png``: ten of each class; ``nearest.png``: over their nearest training images."""
    count = min(10, len(generated) // 10)
    each = torch.arange(len(generated)).view(10, -1)[:, :count].flatten()
    write_png(levels(sheet(generated[each], count), (0, 1)), out / "sheet.png")
    some = each.view(10, -1)[:, :2].flatten()
    pairs = torch.cat([generated[some], nearest[some]])
    write_png(levels(sheet(pairs, len(some)), (0, 1)), out / "nearest.png")


def tell(facts: dict[str, Any], console: Console) -> None:
    """Print what matters."""
    rows = [
        (n, f"{100 * r['recognized']:.1f} %", f"{r['frechet']:.1f}")
        for n, r in facts["kinds"].items()
    ]
    console.print(table("Digits", ("what", "recognized", "Fréchet distance"), rows))
    for name in (
        "audit_generated",
        "audit_generated_cool",
        "audit_held_out",
        "nearest_training_image_rms",
    ):
        console.print(name, {k: round(v, 4) for k, v in facts[name].items()})


if __name__ == "__main__":
    typer.run(main)
