"""From the gradients of a step to real, dense, bounded numbers that a rule can square."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gmn_opt.optim.sharded import Team, whole
from gmn_opt.optim.twin import without_global_hooks

#: Binary exponent of the largest number whose squares may be added up by the hundred million.
_LARGEST = {torch.float32: 48, torch.float64: 480}


def compute_dtype(p: Tensor) -> torch.dtype:
    """The real dtype in which updates of ``p`` are computed and accumulated."""
    return torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32


def real_shape(p: Tensor) -> tuple[int, ...]:
    """The shape of :func:`as_real` of ``p``."""
    return (*p.shape, 2) if p.is_complex() else tuple(p.shape)


def as_real(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or a complex one as pairs of reals, ``[*shape, 2]``, in the same memory.

    As in ``torch.optim``, both parts of a complex number are parameters of their own.
    """
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class Gradients:
    """The gradients of one step, by the ``id`` of their parameter, and their largest entries.

    Attributes:
        are_finite: whether they hold neither NaN nor infinity, in no process.
        are_zero: whether all entries are zero, in all processes.

    Each is whole, real, dense and in the parameter's :func:`compute_dtype`. Where a parameter is
    sharded and only some processes have a gradient for it, the others have one of zero.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], team: Team) -> None:
        self.of: dict[int, Tensor] = {}
        listed = [(p, group["maximize"]) for group in groups for p in group["params"]]
        seen = team.most([p.grad is not None and p.numel() > 0 for p, _ in listed])
        for (p, upwards), somewhere in zip(listed, seen, strict=True):
            if somewhere:
                given = torch.zeros_like(p) if p.grad is None else p.grad
                grad = _dense(whole(given)).to(compute_dtype(p))
                self.of[id(p)] = -grad if upwards else grad
        self._largest = _largest_entries(self.of)
        finite = all(math.isfinite(x) for x in self._largest.values())
        failed, moved = team.most([not finite, any(self._largest.values())])
        self.are_finite, self.are_zero = not failed, not moved

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.of)

    def __contains__(self, p: Tensor) -> bool:
        return id(p) in self.of

    def bound(self) -> None:
        """Scale down, by a power of two each, tensors whose squares would overflow.

        The direction of such a gradient is kept exactly, and the accumulators see what they would
        have seen of a clipped one.
        """
        for key, largest in self._largest.items():
            grad = self.of[key]
            excess = math.frexp(largest)[1] - _LARGEST[grad.dtype]
            if excess > 0:
                self.of[key] = grad * 2.0**-excess


def bounded(values: Tensor) -> Tensor:
    """Flat weights as a rule may read them: within the same bounds, zero for NaN. In place."""
    limit = 2.0 ** _LARGEST[values.dtype]
    return values.clamp_(-limit, limit).nan_to_num_(nan=0.0)


def _dense(grad: Tensor) -> Tensor:
    dense = grad if grad.layout == torch.strided else grad.to_dense()
    return as_real(dense.resolve_conj()).resolve_neg()


def _largest_entries(grads: Mapping[int, Tensor]) -> dict[int, float]:
    """The largest magnitude in each; one transfer to the CPU for each device and dtype."""
    kinds: dict[Any, list[int]] = {}
    for key, grad in grads.items():
        kinds.setdefault((grad.device, grad.dtype), []).append(key)
    found: dict[int, float] = {}
    for kind, keys in kinds.items():
        listed = [grads[key] for key in keys]
        if kind[0].type == "cpu":  # ten times faster there than the norm
            ends = torch.stack([end for grad in listed for end in torch.aminmax(grad)])
            largest = ends.view(-1, 2).abs().amax(1)
        else:
            largest = torch.stack(torch._foreach_norm(listed, math.inf))
        found.update(zip(keys, largest.tolist(), strict=True))
    return found


@contextmanager
def plain_arithmetic(params: Iterable[Tensor]) -> Iterator[None]:
    """Shield a step from what surrounds it: no autocast, no gradients, no hooks for all modules."""
    with ExitStack() as stack:
        stack.enter_context(without_global_hooks())
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", *(p.device.type for p in params)}:
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
