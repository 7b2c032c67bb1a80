"""SIRENs from elsewhere: a plain state dict, whatever its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from gmn_opt.inr.siren import Siren, SirenConfig
from gmn_opt.weights import WeightsError
from gmn_opt.weights.plain import shown

#: Layers that a foreign SIREN may have.
MOST_LAYERS = 128


def siren_from_state_dict(
    state: Mapping[str, Tensor],
    *,
    omega: float = 30.0,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Siren:
    """A SIREN from a chain of ``*.weight`` [out, in] and ``*.bias`` [out] tensors of any names.

    A state dict does not say how a network computes. This reads it as a SIREN: sines between the
    layers, the last one linear, one frequency factor. Neither ``omega`` nor the meaning of the
    outputs can be seen in the tensors; the defaults are those of the common data sets, and a
    network that adds 0.5 to its output for pixels in [0, 1] has the range (-0.5, 0.5).

    Raises WeightsError when the tensors form no such chain.
    """
    weights, biases = _pairs(state)
    if len(weights) > MOST_LAYERS:
        raise WeightsError(
            f"This state dict is no SIREN: it has {len(weights):,} layers, at most {MOST_LAYERS} "
            "are read."
        )
    order = sorted(weights, key=_natural)
    chain = _chain(order, weights) or _chain(list(weights), weights)
    if chain is None:
        # names such as net.0, net.1, last_layer, which a file lists in alphabetical order
        moved = ([n for n in order if n != last] + [last] for last in order)
        fitting = [c for c in moved if _chain(c, weights)]
        chain = fitting[0] if len(fitting) == 1 else None
    if chain is None:
        shapes = shown(", ".join(f"{n}.weight {list(weights[n].shape)}" for n in order), 400)
        raise WeightsError(
            "This state dict is no SIREN: the inputs of every layer must be the outputs of the "
            f"one before, received {shapes}."
        )
    sizes = [weights[chain[0]].shape[1], *(weights[n].shape[0] for n in chain)]
    if len(chain) < 2:
        raise WeightsError(
            "This state dict is no SIREN: it has a single layer, "
            f"{chain[0]}.weight {list(weights[chain[0]].shape)}; at least two are needed."
        )
    if not all(sizes):
        raise WeightsError(f"This state dict is no SIREN: its layers have the sizes {sizes}.")
    config = SirenConfig(sizes[0], sizes[-1], tuple(sizes[1:-1]), value_range, omega)
    with torch.random.fork_rng(devices=[]):
        inr = Siren(config)
    tensors = {}
    for i, name in enumerate(chain):
        tensors[f"layers.{i}.weight"], tensors[f"layers.{i}.bias"] = weights[name], biases[name]
    inr.load_state_dict(tensors)
    return inr


def _pairs(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and biases by layer name."""
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise WeightsError(
                f"This is no state dict: {name!r} is {type(tensor).__name__}, not a tensor."
            )
        layer, _, leaf = name.rpartition(".")
        home = {"weight": weights, "bias": biases}.get(leaf)
        if home is None or tensor.dim() != (2 if leaf == "weight" else 1):
            raise WeightsError(
                f"This state dict is no SIREN: {shown(name)!r} {list(tensor.shape)} is neither a "
                "weight [out, in] nor a bias [out]. Only plain chains of linear layers can be read."
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise WeightsError(
                f"{shown(name)!r} ({tensor.dtype}) holds values that are no finite floating-point "
                "numbers."
            )
        home[layer] = tensor
    if weights.keys() != biases.keys() or not weights:
        odd = sorted(weights.keys() ^ biases.keys())
        raise WeightsError(
            "This state dict is no SIREN: every layer needs a weight and a bias, "
            + (
                f"but {shown(odd, 200)} have only one of them."
                if odd
                else "but there are no layers."
            )
        )
    for layer, weight in weights.items():
        if biases[layer].shape[0] != weight.shape[0]:
            raise WeightsError(
                f"This state dict is no SIREN: {shown(layer)}.bias {list(biases[layer].shape)} "
                f"does not fit {shown(layer)}.weight {list(weight.shape)}."
            )
    return weights, biases


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which layer 10 comes after layer 9.

    Numbers are compared by their lengths first: they need not be any that int() takes.
    """
    parts = re.split("([0-9]+)", name)
    digits = [p.lstrip("0") if i % 2 else "" for i, p in enumerate(parts)]
    return [
        (len(d), d) if i % 2 else (-1, p)
        for i, (d, p) in enumerate(zip(digits, parts, strict=True))
    ]


def _chain(order: list[str], weights: Mapping[str, Tensor]) -> list[str] | None:
    """``order`` if every layer takes what the one before gives."""
    fits = all(weights[a].shape[0] == weights[b].shape[1] for a, b in pairwise(order))
    return order if fits else None
