"""Buffers: which ones a symmetry may move, told by how they are used and by their values.

A buffer that is a part of the model's state moves along with its channels: what only ever meets
parameters before data do (the mask of a pruned weight, the vectors of a spectral norm), what the
pass writes to (running averages), and the vectors of a frozen normalization. Other buffers are
constants: the order of a ramp, a table of positions or a causal mask counts. Along an axis where
all elements are alike (biases of zero, the same blur for every channel) any order does.

This only decides what is worth moving. That moving it is right follows from the labels, as for a
parameter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

MIN_NORM = 2
LAYERS = frozenset({"mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "_convolution"})
NOBODY: frozenset[str] = frozenset()


class Buffer(NamedTuple):
    """A buffer, what is known of it before a pass, and the dims along which it is all alike.

    ``saved``: it belongs to the state dict, so that it can be moved; ``frozen``: it is one of the
    vectors of a normalization whose parameters are buffers.
    """

    name: str
    tensor: Tensor
    alike: frozenset[int]
    saved: bool
    frozen: bool


def buffers_of(model: nn.Module) -> list[Buffer]:
    """All buffers of a model, each once."""
    known: set[int] = set()
    found = []
    for path, module in model.named_modules():
        frozen = _frozen_norm(module)
        for leaf, tensor in module._buffers.items():
            if tensor is None or id(tensor) in known:
                continue
            known.add(id(tensor))
            name = f"{path}.{leaf}" if path else leaf
            numbers = tensor.is_floating_point() or tensor.dtype == torch.bool
            saved = leaf not in module._non_persistent_buffers_set and numbers
            found.append(Buffer(name, tensor, alike_dims(tensor), saved, saved and leaf in frozen))
    return found


def alike_dims(tensor: Tensor) -> frozenset[int]:
    """The dims along which all elements of a tensor are the same."""
    plain = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized)
    if not plain or tensor.device.type == "meta" or not tensor.numel():
        return frozenset()
    tensor = tensor.detach()
    return frozenset(
        d for d, n in enumerate(tensor.shape)
        if n > 1 and bool((tensor == tensor.narrow(d, 0, 1)).all())
    )  # fmt: skip


def _frozen_norm(module: nn.Module) -> frozenset[str]:
    """Names of the vectors of a module that has no parameters, and several of one length."""
    if any(True for _ in module.parameters()):
        return frozenset()
    lengths = {
        leaf: tensor.numel()
        for leaf, tensor in module._buffers.items()
        if tensor is not None and tensor.is_floating_point() and tensor.numel() > 1
        and sum(n > 1 for n in tensor.shape) == 1
    }  # fmt: skip
    often = Counter(lengths.values())
    return frozenset(leaf for leaf, n in lengths.items() if often[n] >= MIN_NORM)


class BufferUses:
    """What becomes of the values of buffers, until they meet parameters or the model's inputs."""

    def __init__(self) -> None:
        self.fed: set[int] = set()
        self.own: set[int] = set()
        self.made_of: dict[int, frozenset[str]] = {}
        self.with_parameters: set[str] = set()
        self.with_data: set[str] = set()
        self.written: set[str] = set()
        self.homes: dict[int, str] = {}

    def add(self, name: str, tensor: Tensor, storage: int) -> None:
        """Watch a buffer."""
        self.made_of[id(tensor)] = frozenset({name})
        self.homes[storage] = name

    def follow(
        self,
        name: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        relatives: Iterable[Tensor],
    ) -> None:
        """Look at one operator; ``relatives`` share the memory of what it wrote to."""
        ids = [id(t) for t in inputs]
        names = frozenset().union(*(self.made_of.get(i, NOBODY) for i in ids))
        made = [id(t) for t in (*outputs, *relatives)]
        if not self.fed.isdisjoint(ids):
            self.with_data |= names
            self.fed.update(made)
        elif not self.own.isdisjoint(ids):
            # A table that layers are applied to is data that the model brings along.
            (self.with_data if name in LAYERS else self.with_parameters).update(names)
            self.own.update(made)
        elif names:
            self.made_of.update(dict.fromkeys(made, names))

    def moves(self, buffer: Buffer) -> bool:
        """Whether a buffer is a part of the state that a symmetry moves."""
        name = buffer.name
        alone = name in self.with_parameters and name not in self.with_data
        return buffer.saved and (alone or buffer.frozen or name in self.written)
