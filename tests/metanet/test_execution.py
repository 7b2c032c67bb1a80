"""The one choice of backend, and what is kept per graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmn_opt import ParameterGraph
from gmn_opt.metanet import native as compiled
from gmn_opt.metanet.backends import native, plain, tiled
from gmn_opt.metanet.execution import Backend, choose
from tests.metanet.backends import BUILT
from tests.metanet.test_metanet import metanet
from tests.metanet.test_options import gradients
from tests.traced import largest_difference, random_tensors, traced


@BUILT
def test_what_suits_the_circumstances(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.zeros(2, 3)
    assert choose(like) is native
    assert choose(like, like.double()) is tiled
    assert choose(like.half()) is tiled
    with torch.autocast("cpu", torch.bfloat16):
        assert choose(like) is plain
    seen: list[Backend] = []

    def inside(x: Tensor) -> Tensor:
        seen.append(choose(x))
        return x

    torch.func.vmap(inside)(like)
    assert seen[0] is plain
    monkeypatch.setattr(compiled, "kernel", lambda: None)
    assert choose(like) is tiled


def test_a_new_graph_in_a_compiled_program() -> None:
    """The compiler stops at what is kept per graph; a full program says what to do."""
    known = traced("mlp")[1]
    net = metanet()
    tensors = random_tensors(known, 2, features=2)
    expected = net(known, tensors)
    torch.compiler.reset()
    whole = torch.compile(net, backend="eager", fullgraph=True)
    fresh = ParameterGraph.from_json(known.to_json())
    with pytest.raises(RuntimeError, match="Call it once on"):
        whole(fresh, tensors)
    fresh = ParameterGraph.from_json(known.to_json())
    with torch.no_grad():  # else the compiler warns of itself at every break
        found = torch.compile(net, backend="eager")(fresh, tensors)
    assert all(torch.equal(found[n], t) for n, t in expected.items())


def test_what_is_kept_serves_later_calls() -> None:
    """Constants made in inference mode or inside a transform are used outside of it as well."""
    graph = ParameterGraph.from_json(traced("mlp")[1].to_json())
    tensors = random_tensors(graph, 2, features=2)
    net = metanet()
    with torch.inference_mode():
        net(graph, tensors)
    inside = gradients(net, graph, tensors)
    fresh = ParameterGraph.from_json(graph.to_json())
    torch.func.vmap(lambda t: net(fresh, t))(tensors)
    torch.func.grad(lambda t: next(iter(net(fresh, t).values())).sum())(tensors)
    assert largest_difference(inside, gradients(net, fresh, tensors)) < 1e-12
