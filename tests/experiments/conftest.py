"""What several tests of experiments share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted meta-training run."""
    from tests.experiments.meta_training import ARGUMENTS, invoke

    folder = tmp_path_factory.mktemp("whole")
    assert invoke(*ARGUMENTS, "--out", folder).exit_code == 0
    return folder


@contextmanager
def _on_tiny_tasks() -> Iterator[None]:
    from experiments import compare_optimizers
    from tests.experiments.comparison.tiny import TASKS

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compare_optimizers.SUITES, "held_out", lambda: list(TASKS))
        yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_suite() -> Iterator[None]:
    """Comparisons of optimizers are on two tiny tasks, and leave torch its threads."""
    with _on_tiny_tasks():
        yield


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a comparison on these tasks that ran through."""
    from tests.experiments.comparison.tiny import compare

    folder = tmp_path_factory.mktemp("compare") / "whole"
    with _on_tiny_tasks():
        compare(folder)
    return folder
