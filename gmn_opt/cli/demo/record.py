"""The demo's figures as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmn_opt.cli.demo.summary import ModelSummary
from gmn_opt.cli.demo.training import Settings
from gmn_opt.cli.demo.verdict import caveats, verdict
from gmn_opt.weights.atomic import write_atomically

_SCHEMA = 1
_DIGITS = 6


def make_record(
    summaries: list[ModelSummary],
    settings: Settings,
    *,
    command: list[str],
    environment: dict[str, Any],
    workers: int,
    threads: int,
    quick: bool,
    seconds: float,
) -> dict[str, Any]:
    """Everything that was measured and all that is needed to measure it again."""
    return {
        "schema": _SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "quick": quick,
        "dataset": "fashion_mnist (bundled subset)",
        "weights": "default",
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "seeds": summaries[0].seeds,
        "workers": workers,
        "threads_per_worker": threads,
        "seconds_in_all": seconds,
        "environment": environment,
        "notes": caveats(summaries, quick=quick),
        "models": {summary.name: _model(summary) for summary in summaries},
    }


def _model(summary: ModelSummary) -> dict[str, Any]:
    fields = asdict(summary)
    runs = fields.pop("runs")
    tuning = fields.pop("tuning")
    tuning["losses"] = [{"rate": r, "loss": loss} for r, loss in tuning["losses"].items()]
    tuning["at_edge"] = summary.tuning.at_edge
    fields |= {"verdict": verdict(summary), "tuning": tuning, "runs": runs}
    return fields


def dump(record: dict[str, Any]) -> str:
    """JSON text: indented, but every list of plain values on one line; no number is not finite."""
    return _dump(_clean(record), "")


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write the JSON file."""
    text = dump(record) + "\n"
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def _clean(value: Any) -> Any:
    """Round numbers; what JSON cannot say (infinity, not a number) becomes null."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, float):
        return round(value, _DIGITS) if math.isfinite(value) else None
    return value


def _dump(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{deeper}{json.dumps(str(k))}: {_dump(v, deeper)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = [deeper + _dump(item, deeper) for item in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
