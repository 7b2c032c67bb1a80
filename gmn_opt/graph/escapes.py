"""The ways in which values leave or enter tensors without an operator being run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from gmn_opt.graph.tracing import Tracer


class Escapes(TorchFunctionMode):
    """Catch the ways in which values leave or enter tensors without an operator being run."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer
        self.leaks: frozenset[Any] = frozenset(
            {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__}
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in self.leaks and args and isinstance(args[0], Tensor):
            self.tracer.fix(self.tracer.label(args[0]), f"its values leave the graph in {_n(func)}")
        out = func(*args, **(kwargs or {}))
        if func is _DATA_GETTER and isinstance(out, Tensor):
            self.tracer.set(out, self.tracer.label(args[0]))
        return out


_DATA_GETTER = Tensor.data.__get__  # type: ignore[attr-defined]


def _n(func: Any) -> str:
    return str(getattr(func, "__name__", func))
