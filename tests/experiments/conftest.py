"""What several tests of experiments share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted meta-training run."""
    from tests.experiments.meta_training import ARGUMENTS, invoke

    folder = tmp_path_factory.mktemp("whole")
    assert invoke(*ARGUMENTS, "--out", folder).exit_code == 0
    return folder
