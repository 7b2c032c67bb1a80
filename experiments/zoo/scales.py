"""Networks of a zoo brought to one representative of their scale symmetries.

A neuron behind which a ReLU stands may have its weights and bias multiplied by any positive number,
if the weights that read it are divided by it, and the network says the same (Neyshabur et al. 2015,
Path-SGD). What is learned from networks in one such form does not depend on that choice: scale
equivariance by canonical form, in place of layers that are equivariant (Kalogeropoulos et al. 2024,
ScaleGMN). A bias before a batch norm says nothing and is zero in this form.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from experiments.zoo.networks import Dropout, GlobalMean, build
from gmn_opt.predict import NetworkDataset

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
#: What may stand between two weighted layers: channels stay apart, and ReLU is the only bend.
_BETWEEN = (BatchNorm, nn.ReLU, Dropout, GlobalMean)
_TINY = 1e-12


def in_one_scale(data: NetworkDataset, size: int = 14) -> NetworkDataset:
    """The same networks, each in its canonical form; those without such neurons as they are."""
    networks = []
    for network, row in zip(data.networks, data.table, strict=True):
        model = build(row, size)
        layers = list(model.named_children()) if isinstance(model, nn.Sequential) else []
        networks.append((network.graph, _rescaled(layers, network.tensors)))
    return NetworkDataset(networks, data.table)


def _rescaled(
    layers: list[tuple[str, nn.Module]], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    made = dict(tensors)
    weighted = [i for i, (_, layer) in enumerate(layers) if isinstance(layer, _WEIGHTED)]
    for here, there in pairwise(weighted):
        between = layers[here + 1 : there]
        norms = [name for name, layer in between if isinstance(layer, BatchNorm)]
        name, reader = layers[here][0], layers[there][0]
        if norms:
            made[f"{name}.bias"] = torch.zeros_like(made[f"{name}.bias"])
            name = norms[0]
        bends = [layer for _, layer in between if isinstance(layer, nn.ReLU)]
        if bends and all(isinstance(layer, _BETWEEN) for _, layer in between):
            weight, bias = made[f"{name}.weight"], made[f"{name}.bias"]
            scale = (weight.flatten(1) if weight.dim() > 1 else weight.unsqueeze(1)).square()
            scale = (scale.sum(1) + bias.square()).sqrt().clamp_min(_TINY)
            made[f"{name}.weight"] = weight / scale.view(-1, *[1] * (weight.dim() - 1))
            made[f"{name}.bias"] = bias / scale
            read = made[f"{reader}.weight"]
            made[f"{reader}.weight"] = read * scale.view(1, -1, *[1] * (read.dim() - 2))
    return made
