"""The tensors of a model's output that a symmetry has to leave as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmn_opt.graph.walking import PLAIN, parts_of, referents

CACHES = frozenset({"past_key_values", "past_key_value", "cache_params", "mems"})
"""Entries of an output that hold inner states for the next call."""
BESIDE = frozenset({"encoder_last_hidden_state", "text_model_output", "vision_model_output"})
"""Entries that a ``transformers`` output always carries along beside its result."""
MAX_DEPTH = 12


class Results(NamedTuple):
    """What an output holds.

    Attributes:
        tensors: Its tensors, in order.
        numbers: Its numbers outside of tensors, as tensors.
        skipped: Names of entries that were left out on purpose, or could not be looked into.
    """

    tensors: list[Tensor]
    numbers: list[Tensor]
    skipped: list[str]

    @property
    def found(self) -> bool:
        """Whether there is anything that says what the model computes."""
        return bool(self.tensors) or any(x.is_floating_point() for x in self.numbers)

    def every(self) -> list[Tensor]:
        """All numbers, dense."""
        return [p for t in (*self.tensors, *self.numbers) for p in _plain(t)]


def results_of(
    output: Any,
    model: nn.Module,
    stored: Callable[[], Iterable[tuple[str, Tensor]]],
    every: bool = False,
) -> Results:
    """The results in an output; iterators are consumed.

    Whatever can be looked into is: containers and mappings of any kind, objects with a
    ``__dict__`` or slots, functions and what they captured, iterators. Where no tensor is found,
    those count that the pass ``stored`` in the model.

    Left out are inner states for the next call, and what an output object of ``transformers``
    carries beside its logits, losses or embeddings: the encoder's last state. With ``every``
    nothing is left out, nor is what was stored in the model.
    """
    found = Results([], [], [])
    own = {id(m) for m in model.modules()}
    _walk(output, "", found, own, set(), every, 0)
    if every or not found.found:
        known = {id(t) for t in found.tensors}
        found.tensors.extend(t for _, t in stored() if id(t) not in known)
    return found


def _walk(
    value: Any, path: str, into: Results, own: set[int], seen: set[int], every: bool, depth: int
) -> None:
    if isinstance(value, Tensor):
        if id(value) not in seen:
            into.tensors.append(value)
        seen.add(id(value))
        return
    if isinstance(value, (float, complex, np.number)) or type(value) in (bool, int):
        with suppress(OverflowError, RuntimeError):
            into.numbers.append(torch.as_tensor(value))
        return
    if isinstance(value, PLAIN) or id(value) in own or id(value) in seen:
        return
    seen.add(id(value))
    if depth > MAX_DEPTH:
        into.skipped.append(f"{path} (nested too deeply)")
        return
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.dtype.kind in "biufc":
            into.numbers.append(torch.from_numpy(np.ascontiguousarray(value)))
        return
    skipped = _skipped(value) if isinstance(value, Mapping) and not every else frozenset()
    for key, item in _parts(value):
        inner = key if isinstance(key, str) else f"[{key!r}]"
        inner = f"{path}.{inner}" if path and isinstance(key, str) else path + inner
        if not every and ((isinstance(key, str) and key in skipped) or is_cache(item)):
            if inner not in into.skipped:
                into.skipped.append(inner)
        else:
            _walk(item, inner, into, own, seen, every, depth + 1)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, np.ndarray):
        return enumerate(value.flat)
    known = parts_of(value, ask=True)
    if known is not None:
        return known
    if isinstance(value, Iterator):
        return enumerate(value)
    return referents(value)


def is_cache(value: Any) -> bool:
    """Whether a value is an inner state for the next call, as ``transformers`` writes them.

    That is an object of that library that is called a cache, or that can be updated layer by
    layer and asked how long it is.
    """
    kind = type(value)
    if not any(c.__module__.startswith("transformers.") for c in kind.__mro__):
        return False
    named = any(c.__name__.endswith("Cache") for c in kind.__mro__)
    return named or all(callable(getattr(kind, n, None)) for n in ("update", "get_seq_length"))


def _skipped(output: Mapping[Any, Any]) -> frozenset[str]:
    if not any(c.__name__ == "ModelOutput" for c in type(output).__mro__):
        return CACHES
    states = frozenset(k for k, x in output.items() if is_cache(x) or _is_per_layer(x))
    rest = output.keys() - CACHES - BESIDE - states
    return CACHES | BESIDE | states if rest else CACHES


def _is_per_layer(value: Any) -> bool:
    """Whether a value is keys and values layer by layer: a sequence of sequences of tensors."""
    return (
        isinstance(value, (list, tuple)) and len(value) > 0
        and all(isinstance(x, (list, tuple)) and len(x) > 1 for x in value)
        and all(isinstance(t, Tensor) and t.dim() > 2 for x in value for t in x)
    )  # fmt: skip


def _plain(tensor: Tensor) -> list[Tensor]:
    """A tensor as dense ones that can be compared element by element."""
    tensor = tensor.detach()
    if tensor.is_nested:
        return [part.clone() for part in tensor.unbind()]
    if tensor.layout != torch.strided:
        return [tensor.to_dense()]
    return [tensor.dequantize() if tensor.is_quantized else tensor.clone()]
