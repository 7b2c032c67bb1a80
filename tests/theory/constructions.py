"""Metanets whose weights are put in by hand, to show what the general form can express.

Lim et al. 2023 (arXiv 2312.04501, section 3, "expressive power", proofs in the appendix): on
computation graphs, graph metanetworks express the forward pass of the input network; on parameter
graphs of MLPs, they express StatNN and NP-NFN. The paper argues with perceptrons that approximate;
here polynomials are exact, activation functions are those of the input network, and comparisons
are steps (which a perceptron approximates but for a band as narrow as one likes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet.baselines import NPLinear
from gmn_opt.metanet.baselines.statnn import QUANTILES
from gmn_opt.theory.computation import ComputationGraph
from gmn_opt.theory.general import GeneralLayer, Polynomial, SquareMLP

Function = Callable[[Tensor], Tensor]


class Start(NamedTuple):
    """What a metanet begins with: [2, E], ``[..., N, a]``, ``[..., E, b]``, ``[..., c]``."""

    edge_index: Tensor
    nodes: Tensor
    edges: Tensor
    graph: Tensor

    def run(self, *layers: GeneralLayer) -> Start:
        """The states after these layers."""
        states = self
        for layer in layers:
            states = Start(self.edge_index, *layer(*states))
        return states


class Append(nn.Module):
    """Functions of some linear combinations of the inputs, appended to the inputs."""

    def __init__(self, inputs: int, rows: Sequence[Polynomial], functions: Sequence[Function]):
        super().__init__()
        self.linear = nn.Linear(inputs, len(rows), dtype=torch.float64)
        self.functions = list(functions)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            for row, terms in enumerate(rows):
                for monomial, coefficient in terms.items():
                    if monomial:
                        self.linear.weight[row, monomial[0]] = coefficient
                    else:
                        self.linear.bias[row] = coefficient

    def forward(self, x: Tensor) -> Tensor:
        values = self.linear(x).unbind(-1)
        made = [f(v) for f, v in zip(self.functions, values, strict=True)]
        return torch.cat([x, torch.stack(made, -1)], -1)


def step(x: Tensor) -> Tensor:
    """1 above zero, else 0."""
    return (x > 0).to(x)


# ---------------------------------------------------------------- the forward pass


def forward_layer(functions: Sequence[Function]) -> GeneralLayer:
    """One round: every node sums edge value times source value and applies its function.

    Node states are (value, whether it is given, one flag per function); edge states are values.
    """
    width = 2 + len(functions)
    message = SquareMLP.of(2 * width + 1, [{(0, 2 * width): 1.0}])
    rows: list[Polynomial] = [{(width,): 1.0}] * len(functions)
    flags = range(2, width)
    value: dict[tuple[int, ...], float] = {(0, 1): 1.0}
    value |= {(f, width + 1 + i): 1.0 for i, f in enumerate(flags)}
    kept: list[Polynomial] = [{(i,): 1.0} for i in range(1, width)]
    node = nn.Sequential(
        Append(width + 1, rows, functions),
        SquareMLP.of(width + 1 + len(functions), [value, *kept]),
    )
    return GeneralLayer(message=message, node=node)


def states_for_forward(
    edge_index: Tensor, edges: Tensor, given: Mapping[int, Tensor], kinds: Sequence[int], count: int
) -> Start:
    """``given`` values by node, ``kinds`` the function of every node (ignored where given)."""
    lead = next(iter(given.values())).shape
    nodes = torch.zeros(*lead, len(kinds), 2 + count, dtype=torch.float64)
    for node, kind in enumerate(kinds):
        if node in given:
            nodes[..., node, 0] = given[node]
            nodes[..., node, 1] = 1
        else:
            nodes[..., node, 2 + kind] = 1
    return Start(edge_index, nodes, edges.unsqueeze(-1), torch.zeros(0, dtype=torch.float64))


def on_computation_graph(
    graph: ComputationGraph, parameters: Mapping[str, Tensor], inputs: Tensor
) -> tuple[Start, GeneralLayer, int]:
    """Start, layer and number of rounds for a batch of inputs ``[B, elements]``."""
    flat = {n: p.detach().reshape(-1) for n, p in parameters.items()}
    values = [
        torch.tensor(e.weight, dtype=torch.float64) if e.label is None
        else flat[e.label[0]][e.label[1]]
        for e in graph.edges
    ]  # fmt: skip
    names = ["sum", *sorted({graph.ops[n] for n in graph.functions})]
    by_name: dict[str, Function] = {graph.ops[n]: f for n, f in graph.functions.items()}
    functions = [lambda x: x, *(by_name[n] for n in names[1:])]
    given = {node: inputs[:, i] for i, node in enumerate(graph.inputs)}
    given |= {n: torch.full_like(inputs[:, 0], v) for n, v in graph.constants.items()}
    kinds = [names.index(op) if op in names else 0 for op in graph.ops]
    index = torch.tensor([[e.src for e in graph.edges], [e.dst for e in graph.edges]])
    start = states_for_forward(index, torch.stack(values), given, kinds, len(functions))
    level = [0] * len(graph.ops)
    for _ in graph.ops:
        before = list(level)
        for e in graph.edges:
            level[e.dst] = max(level[e.dst], level[e.src] + 1)
        if level == before:
            break
    return start, forward_layer(functions), max(level)


def on_parameter_graph(
    graph: ParameterGraph,
    tensors: Mapping[str, Tensor],
    inputs: Tensor,
    activations: Mapping[str | None, Function],
) -> tuple[Start, GeneralLayer, int, Tensor]:
    """As above on the parameter graph of an MLP, where bias nodes are 1; and the output nodes."""
    data = graph.to_pyg(tensors)
    groups = data.x[:, 0].tolist()
    names = list(activations)
    given, outputs, kinds, seen = {}, [], [], 0
    for node, number in enumerate(groups):
        group = graph.groups[number]
        kinds.append(names.index(group.activation))
        if group.role == "input":
            given[node] = inputs[:, seen]
            seen += 1
        elif group.role == "bias":
            given[node] = torch.ones_like(inputs[:, 0])
        elif group.role == "output":
            outputs.append(node)
    functions = list(activations.values())
    start = states_for_forward(data.edge_index, data.edge_attr, given, kinds, len(functions))
    rounds = sum(len(shape) == 2 for shape in graph.shapes.values())
    return start, forward_layer(functions), rounds, torch.tensor(outputs)


# ---------------------------------------------------------------- structure of edges


class Edges(NamedTuple):
    """Edges with a parameter: values ``[E, c]``, and ``own`` [E, T], 1 for the edge's tensor."""

    edge_index: Tensor
    nodes: int
    values: Tensor
    own: Tensor
    names: list[str]

    @classmethod
    def of(cls, graph: ParameterGraph, tensors: Mapping[str, Tensor]) -> Edges:
        """All edges that carry a parameter."""
        data = graph.to_pyg(tensors)
        kept = data.edge_mask
        names = list(graph.shapes)
        of_block = torch.tensor([names.index(b.tensor) for b in graph.blocks])
        tensor = of_block[data.edge_block[kept].long()]
        values = data.edge_attr[kept].reshape(len(tensor), -1)
        own = nn.functional.one_hot(tensor, len(names)).double()
        return cls(data.edge_index[:, kept], len(data.x), values, own, names)

    def start(self, *features: Tensor, graph: Tensor | None = None) -> Start:
        """States with these edge features and empty nodes."""
        nodes = self.values.new_zeros(self.nodes, 0)
        empty = self.values.new_zeros(0)
        return Start(
            self.edge_index, nodes, torch.cat(features, -1), empty if graph is None else graph
        )


# ---------------------------------------------------------------- StatNN


def moments_layer(count: int) -> GeneralLayer:
    """Mean and variance of every tensor, exactly, in one round: the graph state [2 T].

    Edge states are (value, T shares): 1 / size at the edge's own tensor, else 0.
    """
    shares = range(2, 2 + count)
    kept: list[Polynomial] = [{(i,): 1.0} for i in range(1, 1 + count)]
    edge = SquareMLP.of(1 + count, [{(0,): 1.0}, {(0, 0): 1.0}, *kept])
    means: list[Polynomial] = [{(i, s): 1.0} for i in (0, 1) for s in shares]
    from_edge = SquareMLP.of(2 + count, means)
    first: list[Polynomial] = [{(i,): 1.0} for i in range(count)]
    variances: list[Polynomial] = [{(count + i,): 1.0, (i, i): -1.0} for i in range(count)]
    whole = SquareMLP.of(2 * count, [*first, *variances])
    return GeneralLayer(edge=edge, from_edge=from_edge, whole=whole)


def moments(graph: ParameterGraph, tensors: Mapping[str, Tensor]) -> tuple[Start, GeneralLayer]:
    """Start and layer; the resulting graph state holds T means, then T variances."""
    edges = Edges.of(graph, tensors)
    shares = edges.own / edges.own.sum(0)
    return edges.start(edges.values, shares), moments_layer(len(edges.names))


def ranks(size: int) -> list[int]:
    """The order statistics (from 1) that the quantiles of ``size`` numbers lie between."""
    found = []
    for q in QUANTILES:
        low = int(q * (size - 1))
        found += [low + 1, min(low + 1, size - 1) + 1]
    return found


def bisection_layer(count: int, per_tensor: int) -> GeneralLayer:
    """Halve the interval that holds each order statistic.

    The graph state is (lower ends, upper ends, ranks), each [T * per_tensor]; edge states are
    (value, T flags). Every edge reads the middles of its tensor's intervals from the graph state
    and says whether it lies at or below; the sums are compared with the ranks.
    """
    total = count * per_tensor
    low, high = range(total), range(total, 2 * total)
    u = 1 + count  # where the graph state begins in what from_edge reads
    differences: list[Polynomial] = [
        {(0,): 1.0, (u + a,): -0.5, (u + b,): -0.5} for a, b in zip(low, high, strict=True)
    ]
    inputs = u + 3 * total
    below: list[Polynomial] = [
        {(1 + i // per_tensor,): 1.0, (1 + i // per_tensor, inputs + i): -1.0} for i in range(total)
    ]
    from_edge = nn.Sequential(
        Append(inputs, differences, [step] * total), SquareMLP.of(inputs + total, below)
    )
    size = 4 * total
    enough: list[Polynomial] = [
        {(3 * total + i,): 1.0, (2 * total + i,): -1.0, (): 0.5} for i in range(total)
    ]
    lower: list[Polynomial] = [
        {(a,): 0.5, (b,): 0.5, (a, size + a): 0.5, (b, size + a): -0.5}
        for a, b in zip(low, high, strict=True)
    ]
    upper: list[Polynomial] = [
        {(b,): 1.0, (a, size + a): 0.5, (b, size + a): -0.5} for a, b in zip(low, high, strict=True)
    ]
    kept: list[Polynomial] = [{(2 * total + i,): 1.0} for i in range(total)]
    whole = nn.Sequential(
        Append(size, enough, [step] * total), SquareMLP.of(size + total, [*lower, *upper, *kept])
    )
    return GeneralLayer(from_edge=from_edge, whole=whole)


def quantiles(
    graph: ParameterGraph, tensors: Mapping[str, Tensor], bound: float = 16.0
) -> tuple[Start, GeneralLayer, nn.Linear]:
    """Start, layer to repeat, and the linear map from the graph state to ``T * 5`` quantiles.

    Values must lie within ±``bound``. After r rounds, they are off by at most 2 bound / 2^r.
    """
    edges = Edges.of(graph, tensors)
    sizes = [int(n) for n in edges.own.sum(0)]
    wanted = torch.tensor([ranks(n) for n in sizes], dtype=torch.float64).flatten()
    ends = torch.full_like(wanted, bound)
    start = edges.start(edges.values, edges.own, graph=torch.cat([-ends, ends, wanted]))
    total, levels = len(wanted), len(QUANTILES)
    read = nn.Linear(3 * total, len(sizes) * levels, bias=False, dtype=torch.float64)
    with torch.no_grad():
        read.weight.zero_()
        for t, n in enumerate(sizes):
            for level, q in enumerate(QUANTILES):
                share = q * (n - 1) - int(q * (n - 1))
                column = total + 2 * (t * levels + level)
                read.weight[t * levels + level, column] = 1 - share
                read.weight[t * levels + level, column + 1] = share
    return start, bisection_layer(len(sizes), 2 * levels), read


# ---------------------------------------------------------------- NP-NFN


def np_nfn(
    layer: NPLinear, graph: ParameterGraph, tensors: Mapping[str, Tensor]
) -> tuple[Start, GeneralLayer, GeneralLayer]:
    """Two rounds that equal ``layer`` on ``{name: [*shape, c_in]}``; the edges are the outputs.

    The first round gives nodes and graph the means of every tensor (slots by tensor and channel);
    in the second, every edge takes the linear map of its own tensor, by products with its flags.
    """
    edges = Edges.of(graph, tensors)
    count, c = len(edges.names), layer.inputs
    fan_out = torch.tensor([graph.shapes[n][0] for n in edges.names], dtype=torch.float64)
    fan_in = edges.own.sum(0) / fan_out
    shares = [edges.own / fan_in, edges.own / fan_out, edges.own / edges.own.sum(0)]
    start = edges.start(edges.values, edges.own, *shares)
    width = c + 4 * count

    def slots(kind: int) -> list[Polynomial]:
        at = c + (1 + kind) * count
        return [{(channel, at + t): 1.0} for t in range(count) for channel in range(c)]

    first = GeneralLayer(
        message=SquareMLP.of(width, slots(0)),
        reverse=SquareMLP.of(width, slots(1)),
        node=nn.Identity(),
        from_edge=SquareMLP.of(width, slots(2)),
        whole=nn.Identity(),
    )
    v = 2 * count * c  # what a node knows: over incoming edges, over outgoing edges
    src, dst, own_value = 0, v, 2 * v
    flags, mean = 2 * v + c, 2 * v + width

    def linear(module: nn.Module) -> Tensor:
        assert isinstance(module, nn.Linear)
        return module.weight

    outputs: list[dict[tuple[int, ...], float]] = [
        {} for _ in range(linear(layer.to_weight[0]).shape[0])
    ]

    def add(t: int, matrix: Tensor, blocks: Sequence[int]) -> None:
        for o, row in enumerate(matrix.detach().tolist()):
            for i, coefficient in enumerate(row):
                monomial = (flags + t, blocks[i // c] + i % c)
                outputs[o][monomial] = outputs[o].get(monomial, 0.0) + coefficient

    number = {name: t for t, name in enumerate(edges.names)}
    pairs = [(number[w], number[b]) for w, b in layer.layers]
    everything = [mean + t * c for t in (*(w for w, _ in pairs), *(b for _, b in pairs))]
    for i, (w, b) in enumerate(pairs):
        at_rows = [dst + w * c, dst + b * c]
        if i + 1 < len(pairs):
            at_rows.append(dst + (count + pairs[i + 1][0]) * c)
        at_columns = [src + (count + w) * c]
        if i > 0:
            at_columns += [src + pairs[i - 1][0] * c, src + pairs[i - 1][1] * c]
        add(w, linear(layer.to_weight_rows[i]), at_rows)
        add(w, linear(layer.to_weight_columns[i]), at_columns)
        add(w, linear(layer.to_weight[i]), [own_value])
        add(b, linear(layer.to_bias[i]), at_rows)
        for t, module in ((w, layer.overall[2 * i]), (b, layer.overall[2 * i + 1])):
            add(t, linear(module), everything)
            assert isinstance(module, nn.Linear)
            for o, constant in enumerate(module.bias.detach().tolist()):
                outputs[o][(flags + t,)] = constant
    second = GeneralLayer(edge=SquareMLP.of(2 * v + width + count * c, outputs))
    return start, first, second
