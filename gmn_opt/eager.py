"""What compiled programs leave alone, said without importing the compiler.

``torch.compiler.disable`` and ``torch.compiler.assume_constant_result`` import ``torch._dynamo``
and sympy where a function is defined: over a second, which everyone would pay on importing us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def eagerly(reason: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As ``torch.compiler.disable(reason=reason)``: the function and what it calls run as they are.

    The compiler is imported by the first call, as by those of torch's own optimizers.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        outside: Any = torch._disable_dynamo(function)
        # the marks that torch.compiler.disable sets: a program that is being compiled ends here
        outside._torchdynamo_disable = True
        outside._torchdynamo_disable_msg = reason
        outside._torchdynamo_disable_recursive = True
        marked: Callable[P, R] = outside
        return marked

    return decorate


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """As ``torch.compiler.assume_constant_result``: called once, while a program is compiled."""
    marked: Any = function
    marked._dynamo_marked_constant = True
    return function
