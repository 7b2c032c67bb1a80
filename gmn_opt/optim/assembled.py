"""A model of sharded parts as one that can be called in a single process.

Nothing is gathered for it: tracing asks which operators meet which axes, and checks that on random
weights. So the twin's tensors have the whole shapes, filled with what this process has of them.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gmn_opt.optim.sharded import is_sharded, own


def has_shards(model: nn.Module) -> bool:
    """Whether some parameter of ``model`` is a DTensor."""
    return any(is_sharded(p) for p in model.parameters())


def assembled_twin(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with whole tensors, of the classes the user wrote.

    It has no hooks that gather, reduce or log. Tensors that are not sharded are shared.
    """
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                memo[id(tensor)] = filled(tensor)
        kind = _written(type(module))
        memo[id(module)] = kind.__new__(kind)
    for module in modules:
        copied = {
            name: _function_hooks(value) if "_hooks" in name else _copy(value, memo)
            for name, value in vars(module).items()
            if name != "_compiled_call_impl"
        }
        vars(memo[id(module)]).update(copied)
    twin: nn.Module = memo[id(model)]
    return twin


def assembled_inputs(inputs: Any) -> Any:
    """Arguments of a call, with sharded tensors as whole ones."""
    return tree_map(lambda leaf: filled(leaf) if isinstance(leaf, Tensor) else leaf, inputs)


def filled(tensor: Tensor) -> Tensor:
    """A tensor of the whole shape, the shard repeated; the tensor itself if it is not sharded."""
    if not is_sharded(tensor):
        return tensor
    part, size = own(tensor).flatten(), tensor.numel()
    if part.numel() == 0:
        part = torch.full((1,), 1, dtype=tensor.dtype, device=part.device)
    values = part.repeat(-(-size // part.numel()))[:size].reshape(tensor.shape)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _written(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that ``fully_shard`` put another in front of."""
    wrapper = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    while wrapper is not None and issubclass(kind, wrapper):
        kind = kind.__bases__[-1]
    return kind


def _function_hooks(hooks: Any) -> Any:
    """Those of torch's weight norm and the like, which are part of the function."""
    kept = type(hooks)()
    for key, hook in hooks.items():
        home = getattr(hook, "__module__", None) or type(hook).__module__
        if home.startswith("torch.") and not home.startswith("torch.distributed."):
            kept[key] = hook
    return kept


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # meshes and process groups have no copies
        return value
