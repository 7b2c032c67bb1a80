"""Parameters whose elements are spread over processes: DTensors.

``fully_shard``, its hybrid form and tensor parallel make such parameters. A rule reads whole
matrices, so at every step each process gathers the whole of all gradients, parameters and
accumulators, computes the same update from them, and keeps its own shard of the outcome. What
happens between steps is as for any optimizer: accumulators are sharded like their parameter.

All processes must enter the same collectives in the same order. What could differ between them
(who has a gradient, whether it is finite, what tracing found) is agreed upon first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_sharded(tensor: object) -> bool:
    """Whether ``tensor`` is a DTensor; costs nothing where nobody has imported them."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def whole(tensor: Tensor) -> Tensor:
    """All elements, detached: gathered from all processes, which must all call this."""
    full: Tensor = tensor.detach()
    if is_sharded(tensor):
        full = full.full_tensor()  # type: ignore[attr-defined]
    return full


def own(tensor: Tensor) -> Tensor:
    """The elements that this process has, detached, in the same memory."""
    kept: Tensor = tensor.detach()
    if is_sharded(tensor):
        kept = kept.to_local()  # type: ignore[attr-defined]
    return kept


def own_part(full: Tensor, like: Tensor) -> Tensor:
    """The part of ``full`` that belongs to this process; all of it where ``like`` is not sharded.

    Args:
        full: ``[*like.shape, ...]``.
        like: says what belongs where.
    """
    if not is_sharded(like):
        return full
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    shape, offset = compute_local_shape_and_global_offset(like.shape, mesh, placements)
    if 0 in shape:
        return full.new_zeros((*shape, *full.shape[like.dim() :]))
    return full[tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))]


def placed_like(tensor: Tensor, p: Tensor) -> Tensor:
    """A tensor of the shape of ``p``, whole or sharded in any way, as ``p`` is sharded."""
    if not is_sharded(p):
        return whole(tensor)
    from torch.distributed.tensor import DTensor

    mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
    if is_sharded(tensor) and (tensor.device_mesh, tensor.placements) == (mesh, placements):  # type: ignore[attr-defined]
        return tensor.detach()
    part = own_part(whole(tensor), p).to(own(p).device)
    return DTensor.from_local(
        part.contiguous(), mesh, placements, run_check=False, shape=p.shape, stride=p.stride()
    )


def zeros_placed_like(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros in the shape of ``p``, contiguous, sharded as ``p`` is."""
    if is_sharded(p):
        return torch.zeros_like(p, dtype=dtype, requires_grad=False)
    return torch.zeros(p.shape, dtype=dtype, device=p.device)


def check_layout(p: Tensor) -> None:
    """Raise RuntimeError when shards are not where :func:`own_part` looks for them."""
    if is_sharded(p) and not torch.equal(own_part(whole(p), p).nan_to_num(), own(p).nan_to_num()):
        raise RuntimeError(
            f"GMNOptimizer does not understand how a parameter of shape {tuple(p.shape)} is "
            f"sharded: {p.placements} on {p.device_mesh}. Use shards that are contiguous."  # type: ignore[attr-defined]
        )


def refuse_pieces(params: Iterable[Tensor]) -> None:
    """Raise TypeError for pieces of matrices that do not know of what."""
    for p in params:
        kind = type(p.data).__name__ if type(p) is nn.Parameter else type(p).__name__
        if kind == "FlatParameter" or getattr(p, "_fsdp_flattened", False):
            raise TypeError(
                "GMNOptimizer cannot train the flat parameters of FullyShardedDataParallel: the "
                "rule reads matrices, and each process has a stretch of numbers. Use "
                "torch.distributed.fsdp.fully_shard, or DistributedDataParallel."
            )
        if is_sharded(p) and any(at.is_partial() for at in p.placements):  # type: ignore[attr-defined]
            raise TypeError(
                f"GMNOptimizer cannot train a parameter of shape {tuple(p.shape)} whose processes "
                "hold terms of a sum (a Partial placement). Redistribute it to Shard or Replicate."
            )


def refuse_partitions() -> None:
    """Raise TypeError when the optimizer is being made by one that gives it some tensors only."""
    home = sys.modules.get("torch.distributed.optim")
    kind = getattr(home, "ZeroRedundancyOptimizer", None)
    frame: Any = sys._getframe(1)
    for _ in range(8):
        if kind is None or frame is None:
            return
        # the locals of a frame, once looked at, live as long as it does: look at no other's
        own = frame.f_globals.get("__name__") == kind.__module__
        if own and isinstance(frame.f_locals.get("self"), kind):
            raise TypeError(
                "GMNOptimizer cannot work inside a ZeroRedundancyOptimizer: it reads the whole "
                "network, and each process would have the state of some tensors only. To shard its "
                "state, use torch.distributed.fsdp.fully_shard; otherwise DistributedDataParallel "
                "with a GMNOptimizer in every process."
            )
        frame = frame.f_back


class Team:
    """The processes that share the sharded parameters among them, and what they agree upon.

    Without sharded parameters it has one member, and asks nobody.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._groups: list[Any] = []
        self._device = "cpu"
        meshes: list[Any] = []
        for p in params:
            if is_sharded(p) and p.device_mesh not in meshes:  # type: ignore[attr-defined]
                meshes.append(p.device_mesh)  # type: ignore[attr-defined]
        for mesh in meshes:
            self._device = mesh.device_type
            for group in mesh.get_all_groups():
                if dist.get_world_size(group) > 1 and group not in self._groups:
                    self._groups.append(group)

    def __len__(self) -> int:
        """How many kinds of neighbours there are; 0 for a process of its own."""
        return len(self._groups)

    def most(self, values: Sequence[int]) -> list[int]:
        """The largest of each of some numbers (of 63 bits) over all processes."""
        if not self._groups:
            return list(values)
        found = torch.tensor(values, dtype=torch.int64, device=self._device)
        for group in self._groups:
            dist.all_reduce(found, dist.ReduceOp.MAX, group)
        return [int(n) for n in found.tolist()]

    def agrees(self, value: int) -> bool:
        """Whether all have the same ``value`` of at most 62 bits."""
        largest, negative = self.most([value, -value])
        return largest == -negative

    def first(self, value: Any, rank: int) -> Any:
        """The plain value of the process with the largest ``rank``, the first among equals."""
        best = (rank, value)
        for group in self._groups:
            found: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(found, best, group)
            best = max(found, key=lambda pair: int(pair[0]))
        return best[1]
