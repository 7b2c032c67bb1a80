"""What the commands on a model share: its factory, example inputs, and tracing it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gmn_opt.cli.errors import fail
from gmn_opt.cli.locate import kind_of, locate

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gmn_opt.graph import ParameterGraph
    from gmn_opt.graph.progress import Say

_FLOATS = {"float": "float32", "double": "float64", "half": "float16", "bfloat16": "bfloat16"}


def parse_input(text: str) -> tuple[str | None, tuple[int, ...]]:
    """An input's name, if it has one, and its shape."""
    name, equals, shape = text.rpartition("=")
    if (equals and not name.isidentifier()) or not re.fullmatch(r"\d+(x\d+)*", shape):
        fail(f"not a shape: {text!r}; write sizes with an x between, such as 1x3x32x32")
    return name or None, tuple(int(n) for n in shape.split("x"))


def parse_dtype(text: str) -> tuple[str, int]:
    """A dtype's name, and the number of different integers."""
    if text in _FLOATS:
        return _FLOATS[text], 0
    if match := re.fullmatch(r"long:([1-9]\d*)", text):
        return "int64", int(match[1])
    return fail(f"no dtype {text!r}; there are {', '.join(_FLOATS)}, and long:N such as long:50257")


def prepare(
    where: str,
    specs: list[tuple[str | None, tuple[int, ...]]],
    kinds: list[tuple[str, int]],
    meta: bool,
) -> tuple[nn.Module, list[torch.Tensor], dict[str, torch.Tensor]]:
    """The model, and example inputs by position and by name."""
    import torch

    torch.manual_seed(0)
    with torch.device("meta" if meta else "cpu"):
        network = _load(where)
        args: list[torch.Tensor] = []
        kwargs: dict[str, Any] = {}
        for number, (name, shape) in enumerate(specs):
            kind, below = kinds[number if len(kinds) > 1 else 0]
            tensor = (
                torch.randint(below, shape)
                if below
                else torch.randn(shape).to(getattr(torch, kind))
            )
            if name is None:
                args.append(tensor)
            else:
                kwargs[name] = tensor
    return network, args, kwargs


def _load(where: str) -> nn.Module:
    """The model behind ``package.module:factory`` or ``file.py:factory``."""
    from torch import nn

    found = locate(where, "torchvision.models:resnet18")
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        fail(f"{where} is {kind_of(found)}, neither a torch.nn.Module nor something that makes one")
    try:
        network = found()
    except Exception as error:
        fail(f"{where} could not be called without arguments: {type(error).__name__}: {error}")
    if not isinstance(network, nn.Module):
        fail(f"{where} gave {kind_of(network)}, not a torch.nn.Module")
    return network


def trace_or_fail(
    network: nn.Module,
    args: list[torch.Tensor],
    kwargs: dict[str, Any],
    verify: bool,
    say: Say,
) -> ParameterGraph:
    """The graph of a model; ends with a message where it cannot be traced."""
    from gmn_opt.graph import TraceError, trace

    try:
        return trace(network, *args, verify=None if verify else False, progress=say, **kwargs)
    except TraceError as error:
        hint = "" if args or kwargs else " Give its inputs with --input."
        return fail(f"{error}{hint}")
