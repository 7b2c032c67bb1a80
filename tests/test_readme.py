"""What the README tells people to type does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_loop_trains(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    assert "GMNOptimizer(model.parameters())" in code

    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    printed = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]

    assert printed[0] == pytest.approx(2.3, abs=0.3)
    assert printed[-1] < 0.5 * printed[0]
    with torch.no_grad():
        loss = F.cross_entropy(names["model"](names["images"]), names["labels"]).item()
    assert loss < 0.5 * printed[0]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_those_of_the_makefile(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)

    assert recipe is not None
    assert recipe.group(1).strip() in [block.strip() for block in blocks("sh")]


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).exists(), link
