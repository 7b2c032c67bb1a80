"""GMNOptimizer on sharded parameters: two gloo processes, every case against a single process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from gmn_opt import GMNOptimizer
from gmn_opt.optim import GraphWarning
from tests.optim.contract.kit import small_rule

with warnings.catch_warnings():  # torch's own, at import
    warnings.simplefilter("ignore")
    from torch.distributed.optim import ZeroRedundancyOptimizer

STEPS, BATCH, RANKS = 20, 8, 2


class Heads(nn.Module):
    """Three heads of four: two processes cut through the second, and through the packed keys.

    A bias of keys has a gradient of rounding errors alone, and so is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 12)
        self.attention = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.out = nn.Linear(12, 3)
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unsqueeze(1).expand(-1, 3, -1) * torch.arange(1, 4)[:, None])
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.out(self.norm(x)).mean(1)
        return out


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, two in pairwise(sizes):
        layers += [nn.Linear(one, two), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def shard(model: nn.Module) -> None:
    """Layer by layer, then what is left."""
    mesh = init_device_mesh("cpu", (RANKS,))
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)


def hybrid(model: nn.Module) -> None:
    fully_shard(model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("copy", "shard")))


def tensor_parallel(model: nn.Module) -> None:
    plan: dict[str, ParallelStyle] = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(model, init_device_mesh("cpu", (RANKS,)), plan)


def uneven_tensor_parallel(model: nn.Module) -> None:
    whole: dict[str, ParallelStyle] = {
        name: ColwiseParallel(output_layouts=Replicate()) for name in ("0", "2")
    }
    parallelize_module(model, init_device_mesh("cpu", (RANKS,)), whole)


@dataclass
class Case:
    """A model, how it is distributed, whether processes see parts of a batch, what happens."""

    model: Callable[[], nn.Module]
    spread: Callable[[nn.Module], None] = shard
    parts: bool = True
    before_step: Callable[[int, nn.Module, int | None], None] | None = None
    directly: bool = False


def forget(step: int, model: nn.Module, rank: int | None) -> None:
    """Every third step, the second process has no gradient for its share of the first weight."""
    weight: Any = model[0].weight  # type: ignore[index]
    if step % 3 == 1:
        if rank is None:
            weight.grad[4:] = 0  # of seven rows
        elif rank == 1:
            weight.grad = None


def break_one(step: int, model: nn.Module, rank: int | None) -> None:
    """At one step, the second process alone sees a gradient that is not finite."""
    grad: Any = model[0].weight.grad  # type: ignore[index]
    if step == 5 and rank is None:
        grad[-1, 0] = float("nan")
    elif step == 5 and rank == 1:
        grad.to_local()[-1, 0] = float("nan")


# Half a batch in each process is another order of summing: in float32 that alone makes 1e-5 in a
# single process, too. So most cases are in float64, and held to 1e-9.
CASES = {
    "even": Case(lambda: mlp(4, 8, 8, 4).double()),
    "uneven": Case(lambda: mlp(4, 7, 5, 1).double()),
    "heads": Case(lambda: Heads().double()),
    "hybrid": Case(lambda: mlp(4, 7, 3), hybrid),
    "tensor_parallel": Case(lambda: mlp(4, 8, 6, 3), tensor_parallel, parts=False),
    "uneven_tensor_parallel": Case(
        lambda: mlp(4, 7, 5, 3).double(), uneven_tensor_parallel, parts=False
    ),
    "bfloat16": Case(lambda: mlp(4, 7, 3).bfloat16(), parts=False),
    "missing_gradient": Case(lambda: mlp(4, 7, 3).double(), before_step=forget),
    "bad_gradient": Case(lambda: mlp(4, 7, 3).double(), before_step=break_one),
    "seen_by_one_process": Case(
        lambda: mlp(4, 8, 6, 3), tensor_parallel, parts=False, directly=True
    ),
}


def build(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.model()


def new(model: nn.Module) -> GMNOptimizer:
    return GMNOptimizer(model.parameters(), weights=small_rule(), weight_decay=1.0)


def train(case: Case, model: Any, opt: Any, steps: range, rank: int | None = None) -> None:
    """The same numbers in all processes, or a part of each batch in each."""
    dtype = next(model.parameters()).dtype
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(BATCH, 4, generator=generator)
        y = torch.randn(BATCH, 1, generator=generator)
        if rank is not None and case.parts:
            x, y = x.chunk(RANKS)[rank], y.chunk(RANKS)[rank]
        opt.zero_grad()
        out = (model.forward if case.directly and rank == 1 else model)(x.to(dtype))
        (out - y.to(dtype)).square().mean().backward()
        if case.before_step is not None:
            case.before_step(step, model, rank)
        opt.step()


def outcome(model: nn.Module, opt: GMNOptimizer) -> dict[str, Any]:
    """Weights and state as whole tensors, and what kind they are of."""

    def full(t: Any) -> Any:
        return t.full_tensor() if isinstance(t, DTensor) else t

    found: dict[str, Any] = {"spaces": [s.size for g in opt.graphs for s in g.spaces]}
    for name, p in model.named_parameters():
        found[name] = full(p.detach())
        for key, value in opt.state.get(p, {}).items():
            found[f"{name} {key}"] = full(value)
            if isinstance(p, DTensor) and key != "step":
                assert isinstance(value, DTensor)
                assert value.placements == p.placements
                assert value.to_local().shape == p.to_local().shape
    return found


def save(model: nn.Module, opt: GMNOptimizer, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"model": get_model_state_dict(model), "opt": get_optimizer_state_dict(model, opt)}
        dcp.save(state, checkpoint_id=path)


def load(model: nn.Module, opt: GMNOptimizer, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, Any] = {
            "model": get_model_state_dict(model),
            "opt": get_optimizer_state_dict(model, opt),
        }
        dcp.load(state, checkpoint_id=path)
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, opt, state["opt"])


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    out = Path(folder)
    warnings.simplefilter("error", GraphWarning)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(out / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    found: dict[str, Any] = {}
    try:
        for name, case in CASES.items():
            with warnings.catch_warnings():
                if name in ("bad_gradient", "seen_by_one_process"):
                    warnings.simplefilter("ignore")
                model = build(case)
                case.spread(model)
                opt = new(model)
                train(case, model, opt, range(STEPS), rank)
                found[name] = outcome(model, opt)
        case = CASES["uneven"]
        model = build(case)
        case.spread(model)
        opt = new(model)
        load(model, opt, out / "from_one")
        train(case, model, opt, range(10, STEPS), rank)
        found["one_to_two"] = outcome(model, opt)
        model = build(case)
        case.spread(model)
        opt = new(model)
        train(case, model, opt, range(10), rank)
        save(model, opt, out / "from_two")
        torch.save(found, out / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def alone(case: Case, steps: range = range(STEPS)) -> tuple[nn.Module, GMNOptimizer]:
    model = build(case)
    opt = new(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "GMNOptimizer skipped")
        train(case, model, opt, steps)
    return model, opt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind."""
    out = tmp_path_factory.mktemp("sharded")
    save(*alone(CASES["uneven"], range(10)), out / "from_one")
    mp.spawn(worker, (str(out),), nprocs=RANKS)
    return out


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert found["spaces"] == expected["spaces"]
    expected_dtype = next(t.dtype for n, t in expected.items() if n.endswith("weight"))
    for name, value in expected.items():
        if name != "spaces":
            assert found[name].dtype == value.dtype, name
            limit = 1e-9 if expected_dtype == torch.float64 else 1e-5
            torch.testing.assert_close(found[name], value, rtol=limit, atol=limit, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name: str, folder: Path) -> None:
    start, (model, opt) = build(CASES[name]), alone(CASES[name])
    expected = outcome(model, opt)
    assert expected["spaces"]
    for key, p in start.named_parameters():
        assert torch.equal(p, expected[key]) != p.requires_grad
    for rank in range(RANKS):
        assert_close(torch.load(folder / f"rank{rank}.pt")[name], expected)


@pytest.mark.slow
def test_state_of_16_bit_parameters_is_float32(folder: Path) -> None:
    found = torch.load(folder / "rank0.pt")["bfloat16"]
    assert found["0.weight"].dtype == torch.bfloat16
    moments = [t for name, t in found.items() if name.startswith("0.weight ")]
    assert {t.dtype for t in moments} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one_to_two", "two_to_one"])
def test_a_checkpoint_goes_on_in_another_number_of_processes(way: str, folder: Path) -> None:
    expected = outcome(*alone(CASES["uneven"]))
    if way == "one_to_two":
        found = torch.load(folder / "rank1.pt")[way]
    else:
        model = build(CASES["uneven"])
        opt = new(model)
        load(model, opt, folder / "from_two")
        train(CASES["uneven"], model, opt, range(10, STEPS))
        found = outcome(model, opt)
    assert_close(found, expected)


# ---- what cannot work says so


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("original", [False, True])
def test_flat_parameters_are_refused_with_what_to_use(lonely: None, original: bool) -> None:
    model = FullyShardedDataParallel(
        mlp(4, 8, 3), use_orig_params=original, device_id=torch.device("cpu")
    )
    with pytest.raises(TypeError, match="FullyShardedDataParallel.*Use torch.*fully_shard"):
        new(model)


def test_zero_redundancy_is_refused_with_what_to_use(lonely: None) -> None:
    with pytest.raises(TypeError, match="ZeroRedundancyOptimizer.*use torch.*fully_shard"):
        ZeroRedundancyOptimizer(mlp(4, 8, 3).parameters(), GMNOptimizer, weights="initial")


def test_a_gmn_optimizer_beside_a_zero_redundancy_optimizer(lonely: None) -> None:
    model = mlp(4, 8, 3)
    ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW)
    new(model)


def test_terms_of_a_sum_are_refused(lonely: None) -> None:
    mesh = init_device_mesh("cpu", (1,))
    p = nn.Parameter(DTensor.from_local(torch.ones(2, 3), mesh, [Partial()]))
    with pytest.raises(TypeError, match="Redistribute it"):
        GMNOptimizer([p], weights=small_rule())
