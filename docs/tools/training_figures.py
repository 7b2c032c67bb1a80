"""Tables of trainings with GMNOptimizer that are no part of the comparison."""

from __future__ import annotations

from docs.tools.registry import grid, loss, read, table
from experiments.spread import plus_minus


@table
def fine_tuning() -> str:
    """Losses on new and old data after fine-tuning."""
    record = read("fine_tuning/result.json")
    rows = []
    for pair in dict.fromkeys(r["pair"] for r in record["summary"]):
        for way in ("full", "LoRA"):
            own = [r for r in record["summary"] if (r["pair"], r["way"]) == (pair, way)]
            adamw = min((r for r in own if "AdamW" in r["optimizer"]), key=lambda r: r["new"])
            for r in [*(r for r in own if "GMN" in r["optimizer"]), adamw]:
                name = r["optimizer"].replace("GMN x ", "GMN, lr ")
                rows.append([pair, way, name, f"{r['new']:.3f}", f"{r['old']:.3f}"])
    return grid(["Network", "Trained", "Optimizer", "New data", "Old data"], rows, words=3)


@table
def scaling() -> str:
    """Final training losses over width and depth."""
    rows = read("scaling/result.json")["rows"]
    kinds = dict.fromkeys((r["what"], r["value"]) for r in rows)
    titles = list(dict.fromkeys(r["optimizer"] for r in rows))
    made = []
    for what, value in kinds:
        found = {r["optimizer"]: r for r in rows if (r["what"], r["value"]) == (what, value)}
        name = f"width {value}" if what == "width" else f"{value} layers of 64"
        made.append([name, *(loss(found[t]["train_loss"]) for t in titles)])
    return grid(["", *titles], made)


@table
def ablation() -> str:
    """What every part of the learned rule earns."""
    record = read("ablation/result.json")
    rows = [
        [
            row["title"],
            str(row["seeds"]),
            f"{row['outer_steps']:.0f}",
            row["share"],
            plus_minus(row["score"], row["spread"], sign="+"),
            f"{row['median']:.3f}",
            f"{row['worst']:.2f}",
        ]
        for row in record["table"]
    ]
    header = [
        "Learned",
        "Seeds",
        "Outer steps",
        "Share kept",
        "Score",
        "Median ratio",
        "Worst ratio",
    ]
    return grid(header, rows)
