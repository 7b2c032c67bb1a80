"""Tables of networks that are images, and of generated networks."""

from __future__ import annotations

from docs.tools.registry import RESULTS, grid, read, table
from experiments.inr.width_transfer import percents
from experiments.spread import plus_minus, spread


@table
def editors() -> str:
    """Test errors of the editors that ship."""
    rows = []
    for folder in sorted(RESULTS.glob("inr_editing/inr-*")):
        record = read(f"inr_editing/{folder.name}/result.json")
        for test in record["tests"]:
            bounds = test["bounds"]
            values = (bounds["identity"], test["test_mse"], bounds["floor"])
            rows.append([folder.name, test["data"], *(f"{v:#.2g}" for v in values)])
    header = ["Editor", "Images", "No edit", "Edited", "Fitted to the edited image itself"]
    return grid(header, rows, words=2)


@table
def widths() -> str:
    """One editor for several architectures."""
    rows = []
    for test in read("inr_editing/many/result.json")["tests"]:
        before, after = test["bounds"]["identity"], test["test_mse"]
        seen = "yes" if test["seen"] else "no"
        name = ", ".join(map(str, test["widths"]))
        rows.append(
            [name, seen, f"{before:.3f}", f"{after:.3f}", f"{100 * (1 - after / before):.1f}"]
        )
    return grid(
        ["Hidden layers", "In training", "No edit", "Edited", "Error gone, %"], rows, words=2
    )


@table
def short_editors() -> str:
    """Editors of several kinds after 100 seconds of training each."""
    found = read("inr_editing/short/table.json")["rows"]
    rows = [[f"`{r['kind']}`", str(len(r["seeds"])), spread(r["test_mse"])] for r in found]
    return grid(["Kind", "Seeds", "Test MSE"], rows)


@table
def fitters() -> str:
    """GMNOptimizer and Adam as fitters of images."""
    rows = []
    for name, found in read("inr_fitters/result.json")["summary"].items():
        steps, seconds = found["steps_to_goal"], found["seconds_to_goal"]
        ends = ["–", "–"] if steps is None else [f"{steps:g}", f"{seconds:.2f}"]
        rows.append([name, f"{found['psnr']:.1f}", *ends])
    return grid(["", "dB at the end", "Steps to 30 dB", "Seconds to 30 dB"], rows)


@table
def sines() -> str:
    """Embeddings of sine networks, learned without labels."""
    found = read("inr_ssl/result.json")["summary"]
    rows = [
        [k, plus_minus(v["test_mse_mean"], v["test_mse_std"], 2), f"{v['parameters']:,}"]
        for k, v in found.items()
    ]
    return grid(["", "Test MSE", "Parameters"], rows)


@table
def digits() -> str:
    """Generated digits."""
    kinds = read("generate_digits/result.json")["kinds"]
    rows = [
        [k, f"{100 * v['recognized']:.1f} %", f"{abs(v['frechet']):.1f}"] for k, v in kinds.items()
    ]
    return grid(["", "Recognized", "Fréchet distance"], rows)


@table
def inr_classes() -> str:
    """What networks show, read from their weights."""
    folders = ("inr_classification_mnist", "inr_classification")
    records = [read(f"{folder}/result.json") for folder in folders]
    listening = set(records[0]["function access"])
    rows = []
    for name, first in records[0]["summary"].items():
        found = [record["summary"][name] for record in records]
        rows.append([
            name, "weights and what they draw" if name in listening else "weights",
            *(plus_minus(100 * f["test_accuracy_mean"], 100 * f["test_accuracy_std"], 1)
              for f in found),
            f"{first['parameters']:,}", f"{first['seconds_mean']:.0f}",
        ])  # fmt: skip
    return grid(["", "Reads", "MNIST, %", "Fashion-MNIST, %", "Parameters", "Seconds"], rows)


@table
def unseen_widths() -> str:
    """Wide networks, read after narrow ones alone."""
    record = read("width_transfer/result.json")
    rows = [
        [name, *(spread(found, 1) for found in row)]
        for name, row in percents(record["runs"]).items()
    ]
    return grid(["", *record["psnr"]], rows)


@table
def mlps() -> str:
    """Generated MLPs: accuracy after some steps of training, and how new they are."""
    return _mlps("generate_mlps/result.json")


@table
def mlps_wide() -> str:
    """The same of MLPs twice as wide."""
    return _mlps("generate_mlps/wide.json")


def _mlps(path: str) -> str:
    record = read(path)
    steps = record["sizes"]["fine_steps"]
    rows = [
        [
            name,
            f"{record['parameters'][name]:,}" if name in record["parameters"] else "",
            *(f"{100 * kind['accuracy'][str(s)]['mean']:.1f}" for s in steps),
            f"{kind['novelty']:.2f}",
            f"{kind['shared_errors']['most']:.2f}",
        ]
        for name, kind in record["kinds"].items()
    ]
    return grid(
        ["", "Parameters", *(f"{s} steps" for s in steps), "Nearest", "Shared errors"], rows
    )


@table
def corrections() -> str:
    """Generated MLPs after rounds of correction."""
    record = read("generate_mlps/result.json")
    rows = [
        [
            rounds,
            f"{100 * found['accuracy']['mean']:.1f} ± {100 * found['accuracy']['std']:.1f}",
            f"{found['novelty']:.2f}",
            f"{found['shared_errors']['most']:.2f}",
            f"{min(found['sizes'].values()):.2f} to {max(found['sizes'].values()):.2f}",
        ]
        for rounds, found in record["corrections"].items()
    ]
    return grid(["Rounds", "Right, %", "Nearest", "Shared errors", "Sizes of tensors"], rows)


@table
def starts() -> str:
    """Generated networks as initializations."""
    record = read("generate_starts/result.json")
    rows = [
        [name, f"{kind['rate']:g}", "never" if kind["steps"] is None else str(kind["steps"]),
         f"{kind['last_loss']:.3f}"]
        for name, kind in record["kinds"].items()
    ]  # fmt: skip
    title = f"Steps to a loss of {record['target_loss']:.3f}"
    last = f"Loss after {record['sizes']['steps']}"
    return grid(["", "Rate", title, last], rows)


@table
def photo_editors() -> str:
    """Test errors of the editors of photographs."""
    rows = []
    for edit in ("warm", "contrast", "sharpen", "denoise", "sketch", "neon"):
        found = read(f"photo_editing/inr-photo-{edit}-colour/result.json")["results"]
        errors = [f"{found['no_edit']:.4f}", f"{found['test_mse']:.5f}", f"{found['floor']:.5f}"]
        worst = [f"{found['share_of_no_edit']:.3f}", f"{found['times_floor']:.2f}"]
        rows.append([edit, *errors, *worst, f"{found['seam_ratio']:.3f}"])
    header = ["Edit", "No edit", "Edited", "Floor", "Share of no edit", "Times floor", "Seams"]
    return grid(header, rows)
