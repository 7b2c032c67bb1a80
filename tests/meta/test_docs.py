"""The page on meta-training: its code runs, and what it says of presets and names is so."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from gmn_opt import meta
from gmn_opt.cli.meta_train.running import PRESETS, SHORT_NAMES
from tests.meta.small_tasks import busy_rule

PAGE = (Path(__file__).parents[2] / "docs" / "meta_training.md").read_text("utf-8")


def test_the_snippet_is_about_thirty_lines() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 32


def test_the_estimator_alone_works_as_shown() -> None:
    (code,) = re.findall(r"^```py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    from tests.meta.small_tasks import Float64

    class Single(Float64):
        def batch(self, split, count, generator):  # type: ignore[no-untyped-def]
            batch = super().batch(split, count, generator)
            return {**batch, "x": batch["x"].float()}

    task = Single("mnist", 8, (5,), batch_size=4)
    names = {
        "meta": meta, "rule": busy_rule().float(), "task": task,
        "generator": torch.Generator().manual_seed(0),
    }  # fmt: skip
    exec(compile(code, "meta_training.md", "exec"), names)
    assert names["out"].losses.shape == (21, 8)  # type: ignore[attr-defined]


def test_tables_name_what_exists() -> None:
    for name in ("TruncatedBackprop", "FullBackprop", "PersistentES", "TruncatedES", "FullES"):
        assert f"| `{name}(" in PAGE
        assert hasattr(meta, name)
    assert "--estimator " + "|".join(SHORT_NAMES) in PAGE
    for name, config in PRESETS.items():
        low, high = config.horizon
        row = f"| `{name}` | {config.meta_steps} | {config.runs} | {low} to {high}"
        assert row in PAGE
