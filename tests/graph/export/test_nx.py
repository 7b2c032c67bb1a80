"""Parameter graphs as networkx graphs."""

from __future__ import annotations

import torch

from gmn_opt.graph import trace
from tests.cases import BY_NAME


def test_networkx_names_every_element() -> None:
    model, inputs = BY_NAME["cnn"].make()
    graph = trace(model, *inputs)
    state = dict(model.named_parameters())
    found = graph.to_networkx(state)
    seen = set()
    for _, dst, edge in found.edges(data=True):
        assert state[edge["tensor"]][edge["index"]].item() == edge["value"]
        seen.add((edge["tensor"], edge["index"]))
        if edge["kind"] == "conv":
            assert edge["kernel"] == edge["index"][2:]
            assert found.nodes[dst]["place"] is None
    assert len(seen) == sum(p.numel() for p in state.values())
    outputs = [d["place"] for _, d in found.nodes(data=True) if d["role"] == "output"]
    assert outputs == list(range(len(outputs)))
    two = graph.to_networkx({n: torch.stack([p, 2 * p], -1) for n, p in state.items()})
    for _, _, edge in two.edges(data=True):
        assert edge["value"][1] == 2 * edge["value"][0]
    assert "value" not in next(iter(graph.to_networkx().edges(data=True)))[2]
