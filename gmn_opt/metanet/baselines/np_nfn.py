"""NP-NFN: neural functional networks of Zhou et al. 2023 (arXiv 2302.14040) for MLPs.

With weights W_i [n_i, n_{i-1}] and biases v_i [n_i] of layers i, a star for the mean over an index
(the paper writes sums; its authors' code takes means), and a matrix of channels in place of every
coefficient, the NP layer (section 2.2, equation 3, and appendix B with biases) is

    W'_i[j, k] = Σ_s a W_s[*, *] + Σ_s a v_s[*] + constant
                 + b W_i[*, k] + b W_{i-1}[k, *] + b v_{i-1}[k]
                 + c W_i[j, *] + c W_{i+1}[*, j] + c v_i[j]
                 + d W_i[j, k]
    v'_i[j]    = Σ_s a W_s[*, *] + Σ_s a v_s[*] + constant
                 + c W_i[j, *] + c W_{i+1}[*, j] + c v_i[j]

every term with coefficients of its own per output tensor. It is equivariant to permutations of all
neurons, of inputs and outputs too. To tell these apart, :class:`NPNFN` adds what it learned for
every input and output to the features of the first and last layer ("IO encoding", section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gmn_opt.metanet.baselines.common import Head, Shapes, fixed_shapes, leading

Features = dict[str, Tensor]


def mlp_layers(shapes: Shapes) -> list[tuple[str, str]]:
    """Names of weight and bias of every layer of an MLP, in order.

    Raises ValueError for shapes that are not those of an MLP, weight and bias by turns.
    """
    known = fixed_shapes(shapes)
    names = list(known)
    pairs = list(zip(names[::2], names[1::2], strict=False))
    fits = len(names) % 2 == 0 and all(
        len(known[w]) == 2 and known[b] == known[w][:1] for w, b in pairs
    )
    for (before, _), (after, _) in pairwise(pairs):
        fits = fits and known[before][0] == known[after][1]
    if not fits:
        raise ValueError(
            "An NP-NFN serves MLPs alone: weight [n_1, n_0], bias [n_1], weight [n_2, n_1], ...; "
            f"received {known}."
        )
    return pairs


class NPLinear(nn.Module):
    """The NP layer: ``{name: [..., *shape, c_in]}`` to ``{name: [..., *shape, c_out]}``.

    Args:
        shapes: Shape of every parameter of the MLP, weight and bias by turns.
        inputs: c_in.
        outputs: c_out.
    """

    def __init__(self, shapes: Shapes, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shapes, self.inputs = fixed_shapes(shapes), inputs
        self.layers = mlp_layers(shapes)
        count = len(self.layers)

        def linear(terms: int, bias: bool = False) -> nn.Linear:
            return nn.Linear(terms * inputs, outputs, bias=bias)

        # nn.ModuleDict takes no dots in names, so everything goes by the layer's number
        self.overall = nn.ModuleList(linear(2 * count, bias=True) for _ in range(2 * count))
        self.to_weight_rows = nn.ModuleList(linear(2 + (i + 1 < count)) for i in range(count))
        self.to_weight_columns = nn.ModuleList(linear(1 + 2 * (i > 0)) for i in range(count))
        self.to_weight = nn.ModuleList(linear(1) for _ in range(count))
        self.to_bias = nn.ModuleList(linear(2 + (i + 1 < count)) for i in range(count))

    def forward(self, tensors: Mapping[str, Tensor]) -> Features:
        """Apply the layer; raises ValueError for tensors of other names or shapes."""
        leading(tensors, self.shapes, self.inputs)
        weights = [tensors[w] for w, _ in self.layers]
        biases = [tensors[b] for _, b in self.layers]
        over_columns = [w.mean(-2) for w in weights]  # W_i[j, *]
        over_rows = [w.mean(-3) for w in weights]  # W_i[*, k]
        means = [m.mean(-2) for m in over_columns] + [b.mean(-2) for b in biases]
        everything = torch.cat(means, -1)
        out: Features = {}
        for i, (weight, bias) in enumerate(self.layers):
            neurons = [over_columns[i], biases[i]]
            if i + 1 < len(self.layers):
                neurons.append(over_rows[i + 1])
            sources = [over_rows[i]]
            if i > 0:
                sources += [over_columns[i - 1], biases[i - 1]]
            at_rows = torch.cat(neurons, -1)
            rows = self.to_weight_rows[i](at_rows) + self.overall[2 * i](everything).unsqueeze(-2)
            columns = self.to_weight_columns[i](torch.cat(sources, -1))
            out[weight] = self.to_weight[i](weights[i]) + rows.unsqueeze(-2) + columns.unsqueeze(-3)
            everywhere = self.overall[2 * i + 1](everything).unsqueeze(-2)
            out[bias] = self.to_bias[i](at_rows) + everywhere
        return out


class IOEncoding(nn.Module):
    """Learned features of every input and output, added to the first and last layer's."""

    def __init__(self, shapes: Shapes, channels: int) -> None:
        super().__init__()
        layers = mlp_layers(shapes)
        self.first, (self.last, self.last_bias) = layers[0][0], layers[-1]
        inputs, outputs = shapes[self.first][1], shapes[self.last][0]
        self.at_inputs = nn.Parameter(torch.randn(inputs, channels) / 2)
        self.at_outputs = nn.Parameter(torch.randn(outputs, channels) / 2)

    def forward(self, features: Mapping[str, Tensor]) -> Features:
        """``{name: [..., *shape, channels]}`` as it came, with the encoding added."""
        out = dict(features)
        out[self.first] = out[self.first] + self.at_inputs
        out[self.last] = out[self.last] + self.at_outputs.unsqueeze(-2)
        out[self.last_bias] = out[self.last_bias] + self.at_outputs
        return out


class NPStack(nn.Module):
    """IO encoding and NP layers with SiLU between them, all of ``channels`` but the ends.

    ``{name: [..., *shape, inputs]}`` to ``{name: [..., *shape, outputs]}``; equivariant to
    permutations of hidden neurons.
    """

    def __init__(
        self, shapes: Shapes, inputs: int, outputs: int, channels: int = 32, layers: int = 3
    ) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"NPStack needs at least 2 layers, received {layers}.")
        sizes = [inputs, *[channels] * (layers - 1), outputs]
        self.layers = nn.ModuleList(NPLinear(shapes, a, b) for a, b in pairwise(sizes))
        self.encoding = IOEncoding(shapes, channels)

    def forward(self, tensors: Mapping[str, Tensor]) -> Features:
        """Apply all layers."""
        features: Features = dict(tensors)
        for i, layer in enumerate(self.layers):
            features = layer(features)
            if i == 0:
                features = self.encoding(features)
            if i + 1 < len(self.layers):
                features = {n: silu(t) for n, t in features.items()}
        return features


class NPNFN(nn.Module):
    """NP layers and an invariant readout: ``{name: [..., *shape]}`` to ``[..., outputs]``.

    The readout averages every tensor over its hidden neurons, keeps inputs and outputs apart, and
    ends in an MLP (the NP invariant layer, section 2.4, with the HNP one's treatment of inputs and
    outputs).

    Args:
        shapes: Shape of every parameter of the MLP, weight and bias by turns.
        outputs: Numbers to predict.
        channels: Channels of the NP layers.
        layers: NP layers, at least 2.
        hidden: Width of the MLP's hidden layer.
    """

    def __init__(
        self,
        shapes: Shapes,
        outputs: int,
        channels: int = 32,
        layers: int = 3,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.shapes = fixed_shapes(shapes)
        self.stack = NPStack(shapes, 1, channels, channels, layers)
        pairs = mlp_layers(shapes)
        self.first, self.last, self.last_bias = pairs[0][0], *pairs[-1]
        kept = self.shapes[self.first][1] + 2 * self.shapes[self.last][0]
        sizes = [(len(self.shapes) - 3 + kept) * channels, hidden, outputs]
        if len(pairs) == 1:
            raise ValueError("An NP-NFN needs an MLP with at least one hidden layer.")
        self.head = Head(sizes)

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Predict; raises ValueError for tensors of other names or shapes."""
        leading(tensors, self.shapes)
        features = cast(Features, self.stack({n: t.unsqueeze(-1) for n, t in tensors.items()}))
        seen = []
        for name, t in features.items():
            t = silu(t)
            if name == self.first:
                seen.append(t.mean(-3).flatten(-2))
            elif name == self.last:
                seen.append(t.mean(-2).flatten(-2))
            elif name == self.last_bias:
                seen.append(t.flatten(-2))
            else:
                seen.append(t.flatten(-1 - len(self.shapes[name]), -2).mean(-2))
        out: Tensor = self.head(torch.cat(seen, -1))
        return out
