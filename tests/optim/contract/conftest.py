"""Every check runs for torch's AdamW and for ours."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.optim.contract.kit import KINDS, New


@pytest.fixture(params=KINDS)
def new(request: pytest.FixtureRequest) -> New:
    """A kind of optimizer."""
    return KINDS[request.param]


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """Looking for models among all objects in memory takes a tenth of a second otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Loose parameters have no graph, and that is said elsewhere."""
    for item in items:
        if "contract" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore:GMNOptimizer treats"))
