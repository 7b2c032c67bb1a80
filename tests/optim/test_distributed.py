"""GMNOptimizer under DistributedDataParallel: two gloo processes, one training.

The rest of the file asks the same of it that users do in one process: whatever form the parameters
come in, the model is found.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt import GMNOptimizer
from gmn_opt.optim import GraphWarning
from tests.optim.contract.kit import small_rule

STEPS, PER_RANK, RANKS = 5, 16, 2


def new(params: Any) -> GMNOptimizer:
    return GMNOptimizer(params, weights=small_rule())


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    """What all ranks see together in a step."""
    generator = torch.Generator().manual_seed(100 + step)
    n = PER_RANK * RANKS
    return torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def train(model: nn.Module, opt: torch.optim.Optimizer, part: slice = slice(None)) -> None:
    for step in range(STEPS):
        x, y = batch(step)
        opt.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        opt.step()


def worker(rank: int, store: str, out: str) -> None:
    """One rank: train, and save what came out."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", GraphWarning)  # tracing must have found the model
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    try:
        ddp = nn.parallel.DistributedDataParallel(network())
        opt = new(ddp.parameters())
        train(ddp, opt, slice(rank * PER_RANK, (rank + 1) * PER_RANK))
        found = {
            "weights": ddp.module.state_dict(),
            "spaces": [s.size for g in opt.graphs for s in g.spaces],
            "moments": [s["slow"] for s in opt.state_dict()["state"].values()],
        }
        torch.save(found, Path(out) / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def _gloo_works() -> bool:
    if not (dist.is_available() and dist.is_gloo_available()):
        return False
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not _gloo_works(), reason="gloo, or a local socket for it, is not available")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path / "store"), str(tmp_path)), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in range(RANKS)]
    for found in ranks:
        assert found["spaces"] == [8, 8], "the model was found, not islands"
    start = network().state_dict()
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name]), name
        assert not torch.equal(weight, start[name]), name
    for a, b in zip(ranks[0]["moments"], ranks[1]["moments"], strict=True):
        assert torch.equal(a, b)

    single = network()
    train(single, new(single.parameters()))
    for name, weight in single.state_dict().items():
        torch.testing.assert_close(ranks[0]["weights"][name], weight, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- forms of parameters


def identity(p: Tensor) -> Tensor:
    return p


FORMS: dict[str, Callable[[Any], Iterable[Any]]] = {
    "generator": lambda m: m.parameters(),
    "list": lambda m: list(m.parameters()),
    "tuple": lambda m: tuple(m.parameters()),
    "named": lambda m: m.named_parameters(),
    "generator expression": lambda m: (p for p in m.parameters() if p.requires_grad),
    "filter": lambda m: filter(lambda p: p.requires_grad, m.parameters()),
    "map": lambda m: map(identity, m.parameters()),
    "chain": lambda m: chain(m[0].parameters(), m[2].parameters(), m[4].parameters()),
    "values": lambda m: dict(m.named_parameters()).values(),
    "groups": lambda m: [
        {"params": m[0].parameters(), "lr": 0.5},
        {"params": [*m[2].parameters(), *m[4].parameters()], "weight_decay": 0.01},
    ],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_every_form_of_parameters_finds_the_model(form: str, compiled: bool) -> None:
    """The model is called for the first time after the optimizer is made."""
    torch._dynamo.reset()
    model = network()
    call: Any = torch.compile(model, backend="eager") if compiled else model
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)
        opt = new(FORMS[form](model))
        assert not opt.graphs
        train(call, opt)
    assert [s.size for g in opt.graphs for s in g.spaces] == [8, 8]
    assert len(opt.state) == 6


def test_groups_keep_settings_of_their_own() -> None:
    """A rate of zero leaves its group as it is; the other groups train as they would alone."""
    still, plain = network(), network()
    rest = [*still[2].parameters(), *still[4].parameters()]
    groups: list[dict[str, Any]] = [{"params": still[0].parameters(), "lr": 0.0}, {"params": rest}]
    train(still, new(groups))
    assert torch.equal(still[0].weight, plain[0].weight)
    assert not torch.equal(still[4].weight, plain[4].weight)


def test_part_of_the_parameters() -> None:
    """The last layers alone, as in fine-tuning: their module is found, the rest stays."""
    model, start = network(), network()
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)
        opt = new([*model[2].parameters(), *model[4].parameters()])
        train(model, opt)
    assert [s.size for g in opt.graphs for s in g.spaces] == [8, 8]
    for i, moved in ((0, False), (2, True), (4, True)):
        assert torch.equal(model[i].weight, start[i].weight) is not moved


@pytest.mark.parametrize("first", ["compiled", "optimizer"])
def test_models_compiled_as_a_whole(first: str) -> None:
    torch._dynamo.reset()
    model, expected = network(), network()
    train(expected, new(expected.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)
        if first == "compiled":
            call = torch.compile(model, backend="eager", fullgraph=True)
            opt = new(model.parameters())
        else:
            opt = new(model.parameters())
            call = torch.compile(model, backend="eager", fullgraph=True)
        train(call, opt)  # type: ignore[arg-type]
    assert [s.size for g in opt.graphs for s in g.spaces] == [8, 8]
    for a, b in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_fallback_warns_once_and_trains() -> None:
    model, start = network(), network()
    opt = new(model.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(STEPS):
            x, y = batch(step)
            opt.zero_grad()
            F.cross_entropy(model.forward(x), y).backward()  # no hook sees this call
            opt.step()
    assert [w.category for w in caught] == [GraphWarning]
    assert "example_inputs" in str(caught[0].message)
    assert not any(g.spaces for g in opt.graphs)
    assert not torch.equal(model[0].weight, start[0].weight)
