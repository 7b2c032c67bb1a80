from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt.eager import constant, eagerly

seen: list[bool] = []


@eagerly(reason="It keeps a list.")
def kept(x: Tensor) -> Tensor:
    """Adds one."""
    seen.append(torch.compiler.is_compiling())
    return inner(x) + 1


def inner(x: Tensor) -> Tensor:
    seen.append(torch.compiler.is_compiling())
    return x


@constant
def three() -> float:
    seen.append(torch.compiler.is_compiling())
    return 3.0


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.clear()
    torch._dynamo.reset()


def test_called_as_it_is() -> None:
    assert torch.equal(kept(torch.ones(2)), torch.full((2,), 2.0))
    assert kept.__name__ == "kept"
    assert kept.__doc__ == "Adds one."


def test_a_compiled_program_calls_it_outside() -> None:
    program = torch.compile(lambda x: kept(x * 2) * 3, backend="eager")
    for _ in range(2):
        assert torch.equal(program(torch.ones(2)), torch.full((2,), 9.0))
    assert seen == [False] * 4


def test_a_program_without_breaks_refuses_it_with_the_reason() -> None:
    program = torch.compile(lambda x: kept(x), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"It keeps a list\."):
        program(torch.ones(2))


def test_a_constant_is_asked_for_while_compiling() -> None:
    program = torch.compile(lambda x: x * three(), backend="eager", fullgraph=True)
    for _ in range(2):
        assert torch.equal(program(torch.ones(2)), torch.full((2,), 3.0))
    assert len(seen) == 1
