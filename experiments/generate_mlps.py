"""MLPs generated after a hundred trained on MNIST: how good they are, and how new.

``python -m experiments.generate_mlps --out DIR``, after the protocol of DeepWeightFlow (2026) at a
size for a CPU: 100 MLPs from different initializations, generators fitted to them, and the
accuracy of what they make as it is and after 1, 10 and 100 steps of training, beside flattened
flows, noise added to training networks, and averages of aligned pairs. Ours is fitted, by our own
optimizer, to the networks as they are, in no common order, to their weights and to what they say
of the training images (no labels are read); beside it, to weights alone.
Every kind is audited. Writes ``result.json``, the generators, ``training.safetensors`` and
``accuracy_and_novelty.png``; ``--resume`` goes on with the fits that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

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
from experiments.generation.flat import fit_flat, sample_flat
from experiments.generation.populations import (
    Stacked,
    accuracies,
    graph_of,
    initial,
    network,
    predictions,
    train,
)
from experiments.zoo.images import Images, flat_images
from gmn_opt.figures import legend_below, picture
from gmn_opt.generate import (
    FieldConfig,
    FlowConfig,
    Generator,
    Units,
    audit,
    fit_generator,
    paired,
    shared_errors,
)
from gmn_opt.generate.fitting import CHECKPOINT
from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import blocked

OURS = "graph metanet"
#: What a flow of weights alone does without.
ALONE = {"function": None, "corrections": 0, "unsure": 0.0}
#: File, and what of the flow and of the field is changed.
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    OURS: ("metanet", {}, {}),
    "graph metanet, weights alone": ("weights_alone", ALONE, {"anchors": 0}),
}
#: Of the noise, where networks are drawn nearer to each other.
COOL = 0.6
TRAINING, AVERAGES = "training networks", "averages of aligned pairs"

FIELD = FieldConfig(hidden=64, edge_hidden=4, layers=1, probes=48, carried=32, anchors=128)
FLOW = FlowConfig(
    steps=16_000, batch=16, optimizer="gmn", neurons=True, balance=0.5, function="kl",
    function_weight=16.0, corrections=16, unsure=0.5, check_every=250,
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    corrections: numbers of rounds that are compared; those that lead to no numbers are left out.
    alone_steps: of the flow of weights alone, which are cheaper.
    """

    networks: int = 100
    width: int = 32
    size: int = 10
    steps: int = 1500
    rate: float = 4e-3
    images: int | None = None
    judged: int = 20
    sampling: int = 32
    corrections: tuple[int, ...] = (0, 4, 8, 16, 24, 32, 40)
    fine_steps: tuple[int, ...] = (0, 1, 10, 100)
    fine_rate: float = 1e-3
    field: FieldConfig = FIELD
    flow: FlowConfig = FLOW
    alone_steps: int = 16_000
    flat_widths: tuple[int, ...] = (64,)
    flat_steps: int = 8000
    added: tuple[float, ...] = (0.1, 0.3)


PRESETS = {
    "smoke": Sizes(
        networks=6, width=6, size=4, steps=3, images=64, judged=3, sampling=2, corrections=(0, 1),
        fine_steps=(0, 1),
        field=FieldConfig(hidden=8, edge_hidden=4, layers=1, probes=4, carried=2, anchors=4),
        flow=replace(FLOW, steps=3, batch=4), alone_steps=3, flat_widths=(4,),
        flat_steps=3, added=(0.1,),
    ),
    "cpu": Sizes(),
    "wide": Sizes(width=64, flow=replace(FLOW, steps=5000), alone_steps=5000),
    "long": Sizes(
        width=64, size=28, judged=50, flat_widths=(64, 256), flat_steps=12_000,
        field=FieldConfig(hidden=64, edge_hidden=4, layers=2, probes=64, carried=32, anchors=128),
    ),
}  # fmt: skip


def main(
    preset: Preset = "cpu",
    seed: Seed = 0,
    out: Out = Path("runs/generate_mlps"),
    resume: Resume = False,
    threads: Threads = 1,
) -> None:
    """See the module."""
    console = begin(threads)
    with refusing(console):
        choose("preset", preset, PRESETS)
        run(PRESETS[preset], seed, out, resume, console)


def run(sizes: Sizes, seed: int, out: Path, resume: bool, console: Console) -> dict[str, Any]:
    """All of it; the record."""
    out.mkdir(parents=True, exist_ok=True)
    images = flat_images("mnist", sizes.size, sizes.images)
    pixels = images.train.shape[1]
    graph = graph_of(pixels, sizes.width)
    clock = Clock(out / "seconds.json", resume)
    training = _training(sizes, images, seed, out / "training.safetensors", resume)
    clock.lap("training networks", goes_on=True)
    kinds: dict[str, Stacked] = {TRAINING: {n: t[: sizes.judged] for n, t in training.items()}}
    parameters = {}
    for name, (file, of_flow, of_field) in VARIANTS.items():
        flow, field = replace(sizes.flow, **of_flow), replace(sizes.field, **of_field)
        if flow.function is None:
            flow = replace(flow, steps=sizes.alone_steps)
        changed = replace(sizes, flow=flow, field=field)
        generator = fit(training, graph, images, changed, seed, out / file, resume, console)
        kinds[name] = sampled(generator, sizes, seed)
        if name == OURS:
            kinds[f"{name}, temperature {COOL}"] = sampled(generator, sizes, seed, COOL)
            rounds = {k: sampled(generator, sizes, seed, corrections=k) for k in sizes.corrections}
        clock.lap(name, goes_on=True)
        parameters[name] = sum(p.numel() for p in generator.field.parameters())
    kinds |= plain(training, generator.units, graph, sizes, seed)
    for name, made, count in flattened(training, graph, sizes, seed):
        kinds[name], parameters[name] = made, count
        clock.lap(name)
    facts: dict[str, Any] = {
        "sizes": asdict(sizes), "seed": seed, "parameters": parameters, "kinds": {},
        "network_parameters": sum(t[0].numel() for t in training.values()),
    }  # fmt: skip
    errors = predictions(training, images)
    for name, made in kinds.items():
        facts["kinds"][name] = judge(name, made, training, graph, images, errors, sizes, seed)
    facts["corrections"] = {
        str(k): at_once(made, training, graph, images, errors)
        for k, made in rounds.items()
        if all(bool(t.isfinite().all()) for t in made.values())
    }
    clock.lap("judging")
    facts["cpu_seconds"] = clock.rounded()
    record = write_record(out / "result.json", facts)
    draw(facts, out / "accuracy_and_novelty.png")
    tell(facts, console)
    return record


def _training(sizes: Sizes, images: Images, seed: int, path: Path, resume: bool) -> Stacked:
    """The networks to learn from."""
    begun = initial(sizes.networks, images.train.shape[1], sizes.width, seed)
    if resume and path.is_file():
        kept = load_file(path)
        return {n: kept[n] for n in begun}  # in the order of the first run
    trained = train(begun, images, sizes.steps, sizes.rate, seed)
    save_file({n: t.contiguous() for n, t in trained.items()}, path)
    return trained


def fit(
    training: Stacked, graph: ParameterGraph, images: Images, sizes: Sizes, seed: int,
    folder: Path, resume: bool, console: Console,
) -> Generator:  # fmt: skip
    """Ours; checkpoints go to ``folder``, the generator to the file of that name."""
    generator = fit_generator(
        training, graph, field=sizes.field, flow=sizes.flow,
        model=network(images.train.shape[1], sizes.width), example=images.train[:128],
        inputs=images.train, seed=seed, out=folder,
        resume=resume and (folder / CHECKPOINT).is_file(), progress=console.is_terminal,
    )  # fmt: skip
    generator.save(folder.with_suffix(".safetensors"))
    return generator


def sampled(
    generator: Generator, sizes: Sizes, seed: int, temperature: float = 1.0,
    corrections: int | None = None,
) -> Stacked:  # fmt: skip
    """Networks to judge. Where energies are followed, the way is stiff: many simple steps."""
    return generator.sample(
        sizes.judged, steps=sizes.sampling, method="euler", corrections=corrections,
        temperature=temperature, seed=seed + 1,
    )  # fmt: skip


def plain(
    training: Stacked, units: Units, graph: ParameterGraph, sizes: Sizes, seed: int
) -> dict[str, Stacked]:
    """What no flow is needed for."""
    random = torch.Generator().manual_seed(seed + 2)
    count, total = sizes.judged, len(training["0.weight"])
    layout = blocked(graph)
    kinds = {"default initialization": initial(count, *_shape(training), seed=seed + 3)}
    for size in sizes.added:
        kinds[f"training networks and {size:.0%} noise"] = {
            n: t[:count] + size * t.std() * torch.randn(t[:count].shape, generator=random)
            for n, t in training.items()
        }
    first = torch.randint(total, (count,), generator=random)
    second = (first + torch.randint(1, total, (count,), generator=random)) % total
    flat = layout.flatten(training)
    moved = paired(graph, flat[second], flat[first], sweeps=3)
    kinds[AVERAGES] = layout.unflatten((flat[first] + moved) / 2)
    noise = units.noise(graph, count, random)
    kinds["independent neurons, Gaussian"] = layout.unflatten(units.back(graph, noise))
    kinds["independent neurons, drawn"] = _drawn(training, count, random)
    return kinds


def _shape(training: Stacked) -> tuple[int, int]:
    """Pixels and width."""
    return training["0.weight"].shape[2], training["0.weight"].shape[1]


def _drawn(training: Stacked, count: int, random: torch.Generator) -> Stacked:
    """Networks whose neurons are each of another training network."""
    total, width = training["0.bias"].shape
    of = torch.randint(total, (count, width), generator=random)
    which = torch.randint(width, (count, width), generator=random)
    return {
        "0.weight": training["0.weight"][of, which],
        "0.bias": training["0.bias"][of, which],
        "2.weight": training["2.weight"].mT[of, which].mT,
        "2.bias": training["2.bias"].mean(0).expand(count, -1),
    }


def in_common_order(graph: ParameterGraph, flat: Tensor, rounds: int = 3) -> Tensor:
    """Networks ``[N, P]``, each permuted to be near to the mean of all; begun from the first."""
    moved, center = flat, flat[:1]
    for _ in range(rounds):
        moved = paired(graph, flat, center.expand_as(flat))
        center = moved.mean(0, keepdim=True)
    return moved


def flattened(
    training: Stacked, graph: ParameterGraph, sizes: Sizes, seed: int
) -> Iterator[tuple[str, Stacked, int]]:
    """Flows on flattened weights, of networks as they are and after all were aligned."""
    plain_order = blocked(graph).flatten(training)
    aligned = in_common_order(graph, plain_order)
    for width in sizes.flat_widths:
        for name, flat in (("", plain_order), (", aligned", aligned)):
            units = Units.of([(graph, flat)], shared_order=True)
            values = units.into(graph, flat)
            field = fit_flat(values, graph, width, sizes.flat_steps, seed)
            made = sample_flat(field, units, graph, sizes.judged, sizes.sampling, seed + 1)
            count = sum(p.numel() for p in field.parameters())
            yield f"flattened, width {width}{name}", blocked(graph).unflatten(made), count


def judge(
    name: str, made: Stacked, training: Stacked, graph: ParameterGraph, images: Images,
    errors: Tensor, sizes: Sizes, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The same as :func:`at_once`, and accuracies after some steps of training."""
    own = name == TRAINING
    found = at_once(made, training, graph, images, errors, own)
    accuracy = {"0": found["accuracy"]}
    for steps in filter(None, sizes.fine_steps):
        tuned = accuracies(
            train(made, images, steps, sizes.fine_rate, seed + 4, decay=False), images
        )
        accuracy[str(steps)] = {"mean": float(tuned.mean()), "std": float(tuned.std())}
    return {**found, "accuracy": accuracy}


def at_once(
    made: Stacked, training: Stacked, graph: ParameterGraph, images: Images, errors: Tensor,
    own: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Accuracies as they are, distances, sizes by tensor, and shared errors.

    ``own``: of training networks.
    """
    right = accuracies(made, images)
    shared = shared_errors(predictions(made, images), errors, images.test_labels)
    if own:
        shared.fill_diagonal_(0)
    apart = audit(made, training, graph, candidates=len(errors))
    # a training network is its own nearest: the nearest other one is meant
    nearest = apart.among if own else apart.nearest
    return {
        "accuracy": {"mean": float(right.mean()), "std": float(right.std())},
        "each": right.tolist(),
        "nearest": nearest.tolist(),
        "sizes": {
            n: float(t.square().mean().sqrt() / training[n].square().mean().sqrt())
            for n, t in made.items()
        },
        "novelty": float(nearest.median() / apart.pairs.median()),
        "nearest_by_training_nearest": float(nearest.median() / apart.among.median()),
        "shared_errors": {
            "mean": float(shared.sum(1).mean() / (len(errors) - own)),
            "most": float(shared.max(1).values.mean()),
        },
    }


def draw(facts: dict[str, Any], path: Path) -> None:
    """Accuracy of every network against its distance to the nearest training network."""
    with picture(path, 7, 4.5) as figure:
        axes = figure.subplots()
        for i, (name, kind) in enumerate(facts["kinds"].items()):
            percent = [100 * a for a in kind["each"]]
            color, marker = f"C{i % 8}", "o^"[i // 8 % 2]
            axes.scatter(kind["nearest"], percent, s=14, label=name, color=color, marker=marker)
        axes.set(xlabel="distance to the nearest training network, aligned", ylabel="accuracy, %")
        axes.set_xscale("log")
        legend_below(figure, columns=2)


def tell(facts: dict[str, Any], console: Console) -> None:
    """Print what matters."""
    steps = [str(s) for s in facts["sizes"]["fine_steps"]]
    percent: Callable[[float], str] = lambda x: f"{100 * x:.1f}"  # noqa: E731
    rows = [
        (
            name,
            f"{facts['parameters'][name]:,}" if name in facts["parameters"] else "",
            *(percent(k["accuracy"][s]["mean"]) for s in steps),
            f"{k['novelty']:.2f}",
            f"{k['shared_errors']['most']:.2f}",
        )
        for name, k in facts["kinds"].items()
    ]
    columns = ("kind", "parameters", *(f"{s} steps" for s in steps), "novelty", "shared errors")
    console.print(table("Accuracy in %", columns, rows))


if __name__ == "__main__":
    typer.run(main)
