"""Sizes that modules keep as attributes, set anew after their tensors were replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gmn_opt.graph import ParameterGraph
from gmn_opt.widening.copies import groups_along
from gmn_opt.widening.growth import Growth

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def set_sizes(model: nn.Module, growth: Growth) -> None:
    """Bring the attributes of torch's own modules in line with their tensors."""
    groups = {
        b.tensor.rpartition(".")[0]
        for b in growth.before.blocks
        if groups_along(growth.before, b, growth.space)
    }
    ratio = growth.size / growth.before.factors[growth.space].size
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            if name in groups:
                module.groups = round(module.groups * ratio)
            _set_convolution(module)
        elif isinstance(module, nn.GroupNorm) and module.affine:
            if _counts_groups(growth.before, f"{name}.weight", module.num_groups, growth.space):
                module.num_groups = round(module.num_groups * ratio)
            module.num_channels = len(module.weight)
        elif isinstance(module, nn.MultiheadAttention):
            _set_attention(module, growth)
        else:
            _set_plain(module)


def _set_plain(module: nn.Module) -> None:
    m: Any = module
    if isinstance(module, nn.Linear):
        m.out_features, m.in_features = module.weight.shape
    elif isinstance(module, nn.Bilinear):
        m.out_features, m.in1_features, m.in2_features = module.weight.shape
    elif isinstance(module, nn.Embedding):
        m.num_embeddings, m.embedding_dim = module.weight.shape
    elif isinstance(module, _NormBase):
        tensor = module.running_mean if module.running_mean is not None else module.weight
        m.num_features = m.num_features if tensor is None else len(tensor)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.weight is not None:
        m.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        m.num_parameters = module.weight.numel()
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # of transformers
        m.nx, m.nf = m.weight.shape
    elif isinstance(module, nn.RNNBase):
        m.input_size, m.hidden_size = m.weight_ih_l0.shape[1], m.weight_hh_l0.shape[1]
    elif isinstance(module, nn.RNNCellBase):
        m.input_size, m.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _set_convolution(module: _ConvNd) -> None:
    first, second = module.weight.shape[:2]
    if isinstance(module, _ConvTransposeNd):
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.in_channels, module.out_channels = second * module.groups, first


def _set_attention(module: nn.MultiheadAttention, growth: Growth) -> None:
    """The width follows the output projection; heads those of the widened space, if it is one."""
    module.embed_dim = module.out_proj.weight.shape[0]
    if growth.before.factors[growth.space].size == module.num_heads and _heads(module, growth):
        module.num_heads = growth.size
    if module._qkv_same_embed_dim:
        module.kdim = module.vdim = module.in_proj_weight.shape[1]
    else:
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
    module.head_dim = module.out_proj.weight.shape[1] // module.num_heads


def _heads(module: nn.MultiheadAttention, growth: Growth) -> bool:
    """Whether the space stands above others in the module's output projection."""
    size = growth.before.factors[growth.space].size
    above = {p for f in growth.before.factors for p in f.parents}
    return growth.space in above and size == module.num_heads


def _counts_groups(graph: ParameterGraph, name: str, groups: int, space: int) -> bool:
    legs = next((b.dims[0] for b in graph.blocks if b.tensor == name and b.dims), ())
    return bool(legs) and legs[0] == space and graph.factors[space].size == groups


def norm_over(model: nn.Module, growth: Growth) -> str | None:
    """The name of a norm that takes means over the space."""
    for block in growth.before.blocks:
        owner = block.tensor.rpartition(".")[0]
        if any(growth.space in dim for dim in block.dims):
            try:
                module = model.get_submodule(owner)
            except AttributeError:
                continue
            if isinstance(module, NORMS):
                return owner
    return None


def own_sizes(model: nn.Module, renamed: Mapping[int, int]) -> Iterator[tuple[str, str, Any]]:
    """Attributes of modules other than torch's own that hold one of some old sizes.

    Yields the module's name, the attribute's, and the value to try in its place; ``renamed`` are
    old sizes and new ones. Norms without parameters count as well.
    """
    for name, module in model.named_modules():
        home = type(module).__module__
        if home.startswith("torch.nn"):
            shape = getattr(module, "normalized_shape", None)
            bare = isinstance(module, NORMS) and getattr(module, "weight", None) is None
            if bare and shape and shape[-1] in renamed:
                yield name, "normalized_shape", (*shape[:-1], renamed[shape[-1]])
            continue
        for attribute, value in vars(module).items():
            if type(value) is int and value in renamed and not attribute.startswith("_"):
                yield name, attribute, renamed[value]


__all__ = ["norm_over", "own_sizes", "set_sizes"]
