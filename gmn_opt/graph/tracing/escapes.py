"""The ways in which values leave or enter tensors without an operator being run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from gmn_opt.graph.tracing.tracer import Tracer


class Escapes(TorchFunctionMode):
    """Catch the ways in which values leave or enter tensors without an operator being run."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer
        self.leaks: frozenset[Any] = frozenset(
            {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__,
             Tensor.untyped_storage, Tensor.storage}
        )  # fmt: skip

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.tracer.busy:  # our own questions
            return func(*args, **(kwargs or {}))
        if func is Tensor.__deepcopy__:
            return self._copied(func, *args)
        if func in self.leaks and args and isinstance(args[0], Tensor):
            self.tracer.leak(args[0], _n(func))
        if func is Tensor.__getitem__ and args[0].device.type == "meta" and not self.tracer.leaked:
            as_slice = _run(args[1])
            if as_slice is not None:
                return args[0][as_slice].clone()
        if func is _DATA_SETTER:
            for tensor in args[:2]:
                self.tracer.fix(self.tracer.label(tensor).axes, "its memory is exchanged")
        out = func(*args, **(kwargs or {}))
        if func is _DATA_GETTER and isinstance(out, Tensor):
            self.tracer.set(out, self.tracer.label(args[0]))
        return out

    def _copied(self, func: Callable[..., Any], tensor: Tensor, *rest: Any) -> Any:
        """A deep copy reads memory, not tensors; it has the axes of what it copies."""
        with self.tracer.aside():
            out = func(tensor, *rest)
        self.tracer.set(out, self.tracer.label(tensor))
        return out


_DATA_GETTER = Tensor.data.__get__  # type: ignore[attr-defined]
_DATA_SETTER = Tensor.data.__set__  # type: ignore[attr-defined]


def _n(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def _run(index: Any) -> tuple[Any, ...] | None:
    """``x[:, [2, 3]]`` as the slice ``x[:, 2:4]``: on the meta device, numbers would be lost."""
    parts = index if isinstance(index, tuple) else (index,)
    lists = [k for k, part in enumerate(parts) if isinstance(part, list)]
    if len(lists) != 1 or any(isinstance(part, Tensor) for part in parts):
        return None
    found = parts[lists[0]]
    if not found or not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
        return None
    first, last = found[0], found[-1]
    if found != list(range(first, last + 1)) or first < 0 <= last:
        return None
    return (*parts[: lists[0]], slice(first, last + 1 or None), *parts[lists[0] + 1 :])
