"""Several processes do together what one does alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gmn_opt.meta import LostRankError, MetaTrainer, World
from tests.meta.problems import vector
from tests.meta.worker import ESTIMATORS, Alternating, config_for, work

ROOT = Path(__file__).parents[2]


def together(size: int, folder: Path, estimator: str) -> list[dict[str, Any]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.meta.worker", str(rank), str(size),
             str(folder / "store"), str(folder), estimator],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_processes_find_the_meta_gradient_of_one(tmp_path: Path, estimator: str) -> None:
    alone = work(estimator)
    for found in together(2, tmp_path, estimator):
        assert found["tasks"] == alone["tasks"]
        a, b = vector(alone["gradient"]), vector(found["gradient"])
        assert float((a - b).norm()) <= 1e-10 * float(a.norm())
        assert float(a.norm()) > 1e-3
        for name, p in alone["state"]["rule"].items():
            assert torch.allclose(p, found["state"]["rule"][name], rtol=1e-9, atol=1e-12)
        for mine, theirs in zip(alone["steps"], found["steps"], strict=True):
            assert [w["task"] for w in mine["windows"]] == [w["task"] for w in theirs["windows"]]
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-9)
        assert found["score"] == pytest.approx(alone["score"], abs=1e-4)
        assert found["state"]["counts"] == alone["state"]["counts"]
        # all runs are in every process's state, and go on in one process
        assert [r["slot"] for r in found["state"]["runs"]] == [0, 1, 2, 3]
        goes_on, stayed = (MetaTrainer(Alternating(), config_for(estimator)) for _ in range(2))
        goes_on.load_state_dict(found["state"])
        stayed.load_state_dict(alone["state"])
        one, two = goes_on.meta_gradient()[0], stayed.meta_gradient()[0]
        assert one is not None
        assert two is not None
        assert float((vector(one) - vector(two)).norm()) < 1e-8 * float(vector(two).norm())


def test_one_process_needs_no_group() -> None:
    world = World()
    assert (world.rank, world.size) == (0, 1)
    assert world.gather("x") == ["x"]
    assert world.first(3) == 3
    assert torch.equal(world.sum(torch.ones(2)), torch.ones(2))


def test_a_lost_process_is_told() -> None:
    world = World()

    def fail() -> None:
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(LostRankError, match="waited for the others in vain: Connection closed"):
        world._meet(fail)
