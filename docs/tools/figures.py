"""Tables of pages, made from the records in experiments/results.

A table stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``. After a record has changed,
``python -m docs.tools.figures`` writes all of them anew; a test compares pages with records.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from docs.tools import image_figures, training_figures  # noqa: F401 - they register tables
from docs.tools.registry import ROOT, TABLES, grid, loss, read, table
from experiments.spread import spread

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

# -- the optimizer ---------------------------------------------------------------------------------

_OURS = ("gmn_total_steps", "gmn", "gmn_initial_total_steps")
_RIVALS = ("adamw_cosine", "muon_cosine_fixed", "muon_cosine")


def _titles(record: Any) -> dict[str, str]:
    titles = {o["name"]: o["title"] for o in record["optimizers"]}
    return titles | {"gmn_initial_total_steps": "hand-made rule, total_steps"}


@table
def scope() -> str:
    """What the comparison of optimizers covers."""
    return _scope("comparison_default")


@table
def scope_seeds() -> str:
    """What the comparison over several seeds covers."""
    return _scope("comparison_seeds")


def _scope(folder: str) -> str:
    record = read(f"{folder}/result.json")
    done = {w["task"] for w in record["workloads"]}
    lengths = sorted({w["steps"] for w in record["workloads"]})
    seeds = record["request"]["seeds"]
    many = "s" if seeds > 1 else ""
    facts = [
        f"{len(done)} held-out tasks",
        f"{' and '.join(map(str, lengths))} steps",
        f"{seeds} seed{many}",
        record["environment"]["processor"],
        f"torch {record['environment']['torch'].split('+')[0]}",
    ]
    notes = [f"- {note}" for note in record["notes"]]
    return "\n".join([f"{', '.join(facts)}.", *(["", *notes] if notes else [])]) + "\n"


@table
def ratios() -> str:
    """How the learned rule ends against others, over all held-out tasks."""
    return _ratios("comparison_default")


@table
def ratios_seeds() -> str:
    """The same over several seeds and lengths, without the heaviest tasks."""
    return _ratios("comparison_seeds")


def _ratios(folder: str) -> str:
    record = read(f"{folder}/result.json")
    titles = _titles(record)
    header = ["Final loss over that of", *(titles[r] for r in _RIVALS)]
    rows = []
    for which in ("train", "test"):
        for name in _OURS:
            found = [record["ratios"][name][rival][which] for rival in _RIVALS]
            cells = [f"{f['value']:.2f} [{f['low']:.2f}, {f['high']:.2f}]" for f in found]
            rows.append([f"{which}: {titles[name]}", *cells])
    return grid(header, rows)


@table
def accuracies() -> str:
    """Right answers on test examples, means over the tasks that have classes."""
    rows = []
    for folder in ("comparison_default", "comparison_seeds"):
        record = read(f"{folder}/result.json")
        titles, seeds = _titles(record), record["request"]["seeds"]
        ran = [w["contestants"] for w in record["workloads"]]
        graded = [c for c in ran if all(c[name]["accuracy"] for name in titles)]
        means = (100 * mean(mean(c[name]["accuracy"]) for c in graded) for name in titles)
        rows.append([f"{len(graded)} cases, seeds: {seeds}", *(f"{m:.1f}" for m in means)])
    return grid(["", *titles.values()], rows)


@table
def held_out() -> str:
    """Final training losses, task by task."""
    from experiments.comparison.titles import title_of
    from tasks import suites

    record = read("comparison_default/result.json")
    names = {task.name: title_of(task) for task in suites.held_out()}
    order = [o["name"] for o in record["optimizers"]]
    rows = []
    for workload in record["workloads"]:
        ends = {n: mean(workload["contestants"][n]["train_loss"]) for n in order}
        cells = []
        for name in order:
            text = loss(ends[name])
            text = f"**{text}**" if ends[name] == min(ends.values()) else text
            rate = workload["contestants"][name]["rate"]
            tuned = name in ("adamw_cosine", "muon_cosine")
            cells.append(f"{text} ({rate:g})" if tuned else text)
        rows.append([f"{names[workload['task']]}", str(workload["steps"]), *cells])
    return grid(["Task", "Steps", *(_titles(record)[n] for n in order)], rows)


@table
def problems() -> str:
    """How often an untuned rule ends below AdamW on small random problems."""
    record = read("small_problems/result.json")
    runs = len(record["runs"])
    rows = [
        [name, *(f"{100 * v:.0f} %" for v in list(facts.values())[:2]), f"{facts['diverged']}"]
        for name, facts in record["summary"].items()
    ]
    header = [f"{runs} problems, {record['steps']} steps", "below AdamW 1e-3",
              "not above the better AdamW", "diverged"]  # fmt: skip
    return grid(header, rows)


@table
def step_cost() -> str:
    """Milliseconds of a step beside AdamW's and Muon's."""
    return _costs("step_cost/result.json")


@table
def step_cost_avx2() -> str:
    """The same on a processor that is not made for bfloat16."""
    return _costs("step_cost_avx2/result.json")


def _costs(path: str) -> str:
    rows = []
    for name, facts in read(path)["models"].items():
        ms = facts["milliseconds"]
        cells = [f"{ms[k]:.1f}" for k in ("gmn", "muon", "adamw", "pass")]
        rows.append([name, f"{facts['parameters']:,}", *cells, f"{ms['gmn'] / ms['muon']:.2f}"])
    header = ["Model", "Parameters", "GMN", "Muon", "AdamW", "Forward, backward", "GMN / Muon"]
    return grid(header, rows)


@table
def demo() -> str:
    """What `gmn-opt demo` prints."""
    rows = []
    for model in read("demo/result.json")["models"].values():
        for s in model["standings"]:
            to_target = "–" if s["steps_to_target"] is None else f"{s['steps_to_target']:g}"
            rows.append(
                [
                    model["title"],
                    s["title"],
                    f"{s['loss']['mean']:.3f}",
                    f"{100 * s['accuracy']['mean']:.1f}",
                    to_target,
                    f"{s['seconds']['mean']:.1f}",
                ]
            )
    header = ["Model", "Optimizer", "Training loss", "Test accuracy, %", "Steps to target"]
    return grid([*header, "Seconds"], rows, words=2)


# -- everything else -------------------------------------------------------------------------------


@table
def coverage() -> str:
    """What tracing finds, by family of models."""
    families: dict[str, list[Any]] = {}
    for row in read("graph_coverage/result.json")["rows"]:
        families.setdefault(row["family"], []).append(row)
    rows = []
    for family, found in families.items():
        errors = [r["error"] for r in found if r.get("error") is not None]
        shares = [r["coverage"] for r in found]
        worst = f"{max(errors):.0e}" if errors else "not run"
        seconds = max(r["seconds"] for r in found)
        rows.append(
            [family, str(len(found)), f"{100 * mean(shares):.0f} %", worst, f"{seconds:.1f}"]
        )
    header = ["Models", "How many", "Mean coverage", "Largest change of outputs", "Slowest, s"]
    return grid(header, rows)


@table
def barriers() -> str:
    """Loss barriers between two networks."""
    names = {"mlp": "MLP", "cnn": "CNN, no norm", "resnet": "ResNet, batch norm"}
    rows, header = [], []
    for name, title in names.items():
        pairs = read(f"align/{name}.json")["pairs"]
        ways = list(pairs[0]["curves"])
        header = ["Network", "Loss", *ways]
        for kind in ("train", "test"):
            cells = []
            for way in ways:
                curves = [p["curves"][way][f"{kind}_loss"] for p in pairs]
                cells.append(spread([barrier(c) for c in curves]))
            rows.append([title, kind, *cells])
    return grid(header, rows, words=2)


def barrier(losses: Sequence[float]) -> float:
    """How far the losses along a path rise above the line between its ends, at most."""
    steps = len(losses) - 1
    line = [losses[0] + (losses[-1] - losses[0]) * i / steps for i in range(steps + 1)]
    return max(value - on for value, on in zip(losses, line, strict=True))


@table
def metanet() -> str:
    """Speed and memory of executions of one metanet."""
    comparison = read("metanet_benchmark/result.json")["comparison"]
    first = next(iter(comparison.values()))
    base = next(iter(first))
    rows = []
    for way in list(first)[1:]:
        cells = []
        for found in comparison.values():
            if way not in found:
                cells.append("")
                continue
            speed = [found[way][k]["times_faster"]["median"] for k in _PASSES]
            memory = [found[way][k]["peak_bytes"] / found[base][k]["peak_bytes"] for k in _PASSES]
            cells.append(f"{speed[0]:.1f} / {speed[1]:.1f} ({memory[0]:.2f} / {memory[1]:.2f})")
        rows.append([way, *cells])
    return grid(["", *comparison], rows)


_PASSES = ("forward", "forward+backward")


@table
def predictors() -> str:
    """Accuracy of small MLPs from their weights."""
    kinds = read("predict_small/result.json")["kinds"]
    rows = [[k, spread(v["r2"]["values"]), spread(v["tau"]["values"])] for k, v in kinds.items()]
    return grid(["", "R²", "τ"], rows)


@table
def zoos() -> str:
    """How fast zoos are made, together and one by one."""
    rows = []
    for population in ("mlps", "cnns", "diverse"):
        found = read(f"model_zoo/{population}.json")
        speeds = [f"{found[name]:,.0f}" for name in ("per_minute", "per_minute_alone")]
        rows.append([population, str(found["batch"]), *speeds, f"{found['ratio']:.1f}"])
    return grid(["", "At once", "Networks a minute", "One by one", "Ratio"], rows)


_REGIMES = {
    "all": "all",
    "tenth": "a tenth",
    "wider": "narrow, judged on wide",
    "half": "half way through training",
}
_PREDICTORS = (
    "settings", "trees", "forest", "statnn", "deepsets", "dmc", "process", "process_scaled",
    "graph", "graph_scaled", "process_settings", "answers", "process_answers", "graph_answers",
)  # fmt: skip


def _by_regime(population: str) -> str:
    fits = read(f"accuracy_prediction_{population}/result.json")["fits"]
    rows = []
    for kind in _PREDICTORS:
        if not any(kind in found for found in fits.values()):
            continue
        cells = []
        for regime in _REGIMES:
            runs = fits[regime].get(kind)
            r2, tau = ([run[name] for run in runs or []] for name in ("r2", "tau"))
            cells.append(f"{spread(r2)} / {mean(tau):.3f}" if runs else "")
        rows.append([kind.replace("_", ", "), *cells])
    counts = {regime: fits[regime]["settings"][0]["train"] for regime in _REGIMES}
    titles = [f"{title} ({counts[regime]})" for regime, title in _REGIMES.items()]
    return grid(["R² / τ", *titles], rows)


@table
def regimes() -> str:
    """Accuracy of CNNs from their weights, in several regimes."""
    return _by_regime("cnns")


@table
def regimes_diverse() -> str:
    """The same of diverse architectures."""
    return _by_regime("diverse")


@table
def meta_training() -> str:
    """Inner steps per second of meta-training."""
    record = read("meta_training_benchmark/result.json")
    runs: dict[tuple[str, ...], list[float]] = {}
    for row in [*record["cases"], *record["peer"]]:
        if row.get("truncation", 50) != 50:
            continue
        ours = "gmn-opt" if row in record["cases"] else "learned_optimization"
        networks = str(row.get("networks", 16))
        size = f"{row['meta_parameters']:,}"
        key = (ours, row["way"].replace("_", " "), networks, size)
        runs.setdefault(key, []).append(row["inner_steps_per_cpu_second"])
    rows = [[*key, f"{median(speeds):,.0f}"] for key, speeds in runs.items()]
    header = ["", "Estimator", "Networks", "Meta-parameters", "Inner steps per second"]
    return grid(header, rows, words=2)


def updated(text: str) -> str:
    """A page with all its tables made anew."""
    return MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)


def main() -> None:
    """Rewrite all pages."""
    for page in PAGES:
        text = page.read_text("utf-8")
        if (new := updated(text)) != text:
            page.write_text(new, "utf-8")
            print(f"{page.relative_to(ROOT)} has new figures.")


if __name__ == "__main__":
    main()
