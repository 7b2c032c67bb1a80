"""Fused operators, written out in sums, products and functions of single elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmn_opt.theory.computation.table import written_out


@written_out("native_layer_norm")
def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, None, None]:
    """Every row less its mean, times the reciprocal of its deviation."""
    normal = _normalized(x, list(range(-len(shape), 0)), eps)
    return _affine(normal, weight, bias), None, None


@written_out("native_group_norm")
def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, c: int, hw: int, groups: int,
    eps: float,
) -> tuple[Tensor, None, None]:  # fmt: skip
    """The same over each group of channels."""
    normal = _normalized(x.reshape(n, groups, -1), [2], eps).reshape(x.shape)
    return _affine(normal, _per_channel(weight, x), _per_channel(bias, x)), None, None


@written_out("native_batch_norm", "_native_batch_norm_legit_no_training")
def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None,
    var: Tensor | None, *rest: Any,
) -> tuple[Tensor, None, None]:  # fmt: skip
    """Running statistics in evaluation mode; an instance norm, which has none, takes the input's.

    Raises:
        NotImplementedError: In training mode with running statistics, which would change.
    """
    *training, _, eps = rest
    if mean is None or var is None:
        normal = _normalized(x, [0, *range(2, x.dim())], eps)
    elif any(training):
        raise NotImplementedError(
            "No computation graph: batch norm in training mode. Call model.eval() first."
        )
    else:
        scale = torch.rsqrt(_per_channel(var, x) + eps)
        normal = (x - _per_channel(mean, x)) * scale
    return _affine(normal, _per_channel(weight, x), _per_channel(bias, x)), None, None


@written_out("_softmax", "_safe_softmax")
def softmax(x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
    """Exponentials by their sum."""
    raised = torch.exp(x)
    return raised / raised.sum(dim, keepdim=True)


@written_out("_log_softmax")
def log_softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    """Numbers less the logarithm of the sum of their exponentials."""
    return x - torch.log(torch.exp(x).sum(dim, keepdim=True))


@written_out("glu")
def glu(x: Tensor, dim: int = -1) -> Tensor:
    """One half times the sigmoid of the other."""
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


@written_out("embedding")
def embedding(weight: Tensor, indices: Tensor, *_: Any) -> Tensor:
    """Every row of the table, times whether the index is that row's."""
    hits = torch.stack([indices.eq(i) for i in range(len(weight))], -1).to(weight.dtype)
    return (hits.reshape(-1, len(weight)) @ weight).reshape(*indices.shape, -1)


def _normalized(x: Tensor, dims: list[int], eps: float) -> Tensor:
    centered = x - x.mean(dims, keepdim=True)
    return centered * torch.rsqrt(centered.pow(2).mean(dims, keepdim=True) + eps)


def _per_channel(value: Any, x: Tensor) -> Any:
    return None if value is None else value.reshape(1, -1, *[1] * (x.dim() - 2))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
