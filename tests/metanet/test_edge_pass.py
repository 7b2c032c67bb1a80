"""The pass over edges, native and on torch's operators, against the plain form."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmn_opt.graph import ParameterGraph
from gmn_opt.metanet import GraphMetanet, blocked
from gmn_opt.metanet.backends import native, plain, tiled
from gmn_opt.metanet.backends.plain import Messages
from gmn_opt.metanet.execution import Backend
from gmn_opt.metanet.layout import Sizes
from tests.cases import Case
from tests.metanet.backends import BUILT, FAST, fast
from tests.metanet.test_metanet import metanet
from tests.metanet.test_options import gradients
from tests.traced import PLAIN, largest_difference, random_tensors, traced

FLOAT64, FLOAT32 = 1e-12, 5e-6
SIREN = ((32, 2), (32, 1), (32, 32), (32, 1), (1, 32), (1, 1))
SIZES = {
    "short rows": ((3, 1), (4, 5), (1, 1), (2, 2), (3, 3), (700, 4)),
    "siren": SIREN,
    "two and three columns": ((300, 2), (5, 2), (400, 3), (7, 3), (100, 3), (171, 2)),
    "odd rows": ((5, 16), (7, 17), (3, 31), (2, 100), (9, 9), (1, 2000)),
}


class Problem:
    """Random inputs and gradients of the outputs, in float64."""

    def __init__(
        self,
        sizes: Sizes,
        batch: int,
        g: int,
        f: int,
        per_block: bool,
        residual: bool,
        seed: int = 0,
    ) -> None:
        random = torch.Generator().manual_seed(seed)

        def made(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random, dtype=torch.float64)

        d, e = (sum(size) for size in zip(*sizes, strict=True))
        edges = sum(a * b for a, b in sizes)
        shape = (batch, len(sizes), f, g) if per_block else (f, g)
        self.sizes = sizes
        self.inputs = (
            made(batch, g, edges), made(*shape) / g**0.5, made(*shape) if residual else None,
            made(batch, f, e), made(batch, f, d),
        )  # fmt: skip
        self.grads = (made(batch, f, edges), made(batch, f, d), made(batch, f, e))

    def run(
        self,
        form: Backend,
        dtype: torch.dtype = torch.float64,
        keep_edges: bool = True,
        outputs: tuple[bool, bool, bool] = (True, True, True),
        of_x: bool = True,
    ) -> dict[str, Tensor]:
        """Outputs, and gradients of those with a ``True``, by name."""
        inputs = [None if t is None else t.to(dtype) for t in self.inputs]
        for i, t in enumerate(inputs):
            if t is not None:
                t.requires_grad_(i > 0 or of_x)
        x, weight, residual, src, dst = inputs
        assert x is not None
        assert weight is not None
        assert src is not None
        assert dst is not None
        out: Messages = form.edge_pass(self.sizes, keep_edges, x, weight, residual, src, dst)
        loss = [
            (o * g.to(dtype)).sum()
            for o, g, used in zip(out, self.grads, outputs, strict=True)
            if o is not None and used
        ]
        names = ["x", "weight", "residual", "src", "dst"]
        wanted = {
            n: t for n, t in zip(names, inputs, strict=True) if t is not None and t.requires_grad
        }
        found = torch.autograd.grad(
            torch.stack(loss).sum(), list(wanted.values()), allow_unused=True
        )
        result = {
            f"grad of {n}": torch.zeros_like(wanted[n]) if g is None else g
            for n, g in zip(wanted, found, strict=True)
        }
        named = zip(("new", "at_dst", "at_src"), out, strict=True)
        return result | {n: o.detach() for n, o in named if o is not None}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor, relative to its norm."""
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        assert found[name].shape == t.shape, name
        error = float((found[name].double() - t).norm())
        assert error <= tolerance * float(t.norm()), (name, error)


@fast
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("per_block", [False, True], ids=["shared", "per block"])
@pytest.mark.parametrize("widths", [(1, 1), (3, 5), (8, 8), (64, 20)], ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_equals_plain_operators(
    name: str, widths: tuple[int, int], per_block: bool, dtype: torch.dtype, backend: str
) -> None:
    g, f = widths
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    for residual in {True, g != f}:
        problem = Problem(SIZES[name], 2, g, f, per_block, residual)
        agree(problem.run(FAST[backend], dtype), problem.run(plain), tolerance)


@fast
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("outputs", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1)])
def test_some_outputs_without_gradient(
    outputs: tuple[bool, bool, bool], residual: bool, backend: str
) -> None:
    problem = Problem(SIREN, 2, 8, 8, False, residual)
    agree(problem.run(FAST[backend], outputs=outputs), problem.run(plain, outputs=outputs), FLOAT64)


@fast
@pytest.mark.parametrize("residual", [False, True])
def test_without_new_edges(residual: bool, backend: str) -> None:
    problem = Problem(SIREN, 2, 8, 8, True, residual)
    found = problem.run(FAST[backend], keep_edges=False)
    assert "new" not in found
    agree(found, problem.run(plain, keep_edges=False), FLOAT64)


@fast
def test_input_without_gradient(backend: str) -> None:
    problem = Problem(SIREN, 2, 3, 8, False, True)
    agree(problem.run(FAST[backend], of_x=False), problem.run(plain, of_x=False), FLOAT64)


@fast
def test_no_networks(backend: str) -> None:
    found = Problem(SIREN, 0, 4, 4, False, False).run(FAST[backend])
    assert found["new"].shape == (0, 4, 1185)
    assert not found["grad of weight"].any()


@fast
def test_leading_dimensions_and_strides(backend: str) -> None:
    """Any number of leading dimensions, and inputs that are not contiguous."""
    problem = Problem(SIREN, 6, 4, 4, True, False)
    x, weight, _, src, dst = problem.inputs
    edge_pass = FAST[backend].edge_pass
    expected = plain.edge_pass(SIREN, True, x, weight, None, src, dst)
    assert weight is not None
    turned = [t.mT.contiguous().mT for t in (x, weight, src, dst)]
    shaped = [t.unflatten(0, (2, 3)) for t in turned]
    assert not shaped[0].is_contiguous()
    found = edge_pass(SIREN, True, shaped[0], shaped[1], None, *shaped[2:])
    one = edge_pass(SIREN, True, x[0], weight[0], None, src[0], dst[0])
    for together, alone, t in zip(found, one, expected, strict=True):
        assert together is not None
        assert alone is not None
        assert t is not None
        assert torch.allclose(together.flatten(0, 1), t, rtol=1e-12, atol=1e-12)
        assert torch.allclose(alone, t[0], rtol=1e-12, atol=1e-12)


def use(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have metanets run by this backend."""
    for name in ("message", "scale"):
        monkeypatch.setattr(f"gmn_opt.metanet.layers.{name}.choose", lambda *_: backend)


block_sizes = st.lists(
    st.tuples(st.integers(1, 40), st.one_of(st.integers(1, 5), st.integers(6, 70))),
    min_size=1,
    max_size=4,
)


@BUILT
@settings(max_examples=150)
@given(
    block_sizes, st.integers(0, 3), st.integers(1, 17), st.integers(1, 17),
    st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_native_on_random_sizes(
    sizes: list[tuple[int, int]], batch: int, g: int, f: int, per_block: bool, keep: bool,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    problem = Problem(tuple(sizes), batch, g, f, per_block, residual=True)
    tolerance = FLOAT64 if dtype == torch.float64 else 2 * FLOAT32
    found = problem.run(native, dtype, keep)
    agree(found, problem.run(plain, keep_edges=keep), tolerance)


@BUILT
@pytest.mark.parametrize("case", PLAIN, ids=lambda c: c.name)
def test_native_on_the_case_models(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = traced(case.name)[1]
    tensors = random_tensors(graph, 2, features=2)
    net = metanet()
    found, grads = net(graph, tensors), gradients(net, graph, tensors)
    use(plain, monkeypatch)
    assert largest_difference(net(graph, tensors), found) < 1e-12
    assert largest_difference(gradients(net, graph, tensors), grads) < 1e-10


few = pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "attention", "unet"])


@few
@pytest.mark.parametrize("limit", [1 << 8, 1 << 12])
def test_tiles_of_any_size(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE_BYTES", limit)
    use(tiled, monkeypatch)
    graph = traced(name)[1]
    tensors = random_tensors(graph, 3, features=2)
    net = metanet()
    cut, grads = net(graph, tensors), gradients(net, graph, tensors)
    use(plain, monkeypatch)
    assert largest_difference(net(graph, tensors), cut) < 1e-12
    assert largest_difference(gradients(net, graph, tensors), grads) < 1e-11


@fast
def test_can_be_differentiated_twice(backend: str) -> None:
    torch.manual_seed(0)
    sizes = ((2, 3), (1, 1))
    problem = Problem(sizes, 1, 2, 3, False, True)
    inputs = [t.requires_grad_() for t in problem.inputs if t is not None]

    def outputs(*given: Tensor) -> tuple[Tensor, ...]:
        found = FAST[backend].edge_pass(sizes, True, *given)
        return tuple(t for t in found if t is not None)

    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs, fast_mode=True)


@BUILT
def test_numbers_out_of_range_pass_through() -> None:
    """Large arguments saturate without overflow, and NaN is not hidden."""
    sizes = ((1, 8),)
    given = [-1e30, -200.0, -88.5, -1.0, 0.0, 89.0, 1e30, float("nan")]
    x = torch.tensor([[given]], requires_grad=True)
    one, zero = torch.ones(1, 1), torch.zeros(1, 1, 8)
    new, _, _ = native.edge_pass(sizes, True, x, one, torch.zeros(1, 1), zero, zero[..., :1])
    assert new is not None
    expected = torch.nn.functional.silu(x.detach())
    assert torch.allclose(new[0, 0], expected[0, 0], rtol=1e-6, atol=1e-30, equal_nan=True)
    (slope,) = torch.autograd.grad(new.sum(), x)
    assert torch.isfinite(slope[0, 0, :7]).all()
    assert slope[0, 0, 7].isnan()


@BUILT
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_share_the_work(threads: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function, and bitwise the same result every time."""
    monkeypatch.setattr("gmn_opt.metanet.native.edge_calls.PART", 1 << 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    used: list[int] = []
    submit = ThreadPoolExecutor.submit

    def counted(self: ThreadPoolExecutor, function: object, part: int) -> object:
        used.append(part)
        return submit(self, function, part)  # type: ignore[arg-type]

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    problem = Problem(SIREN, batch, 8, 8, True, True)
    first = problem.run(native, torch.float32)
    assert set(used) == set(range(1, threads))
    agree(first, problem.run(plain), FLOAT32)
    for _ in range(3):
        again = problem.run(native, torch.float32)
        assert all(torch.equal(t, again[n]) for n, t in first.items())


def test_what_the_kernel_cannot_take_runs_on_operators(graph: ParameterGraph) -> None:
    net = GraphMetanet(1, 1).to(torch.bfloat16)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    tensors = random_tensors(graph, features=1)
    with torch.no_grad():
        out = net(graph, {n: t.bfloat16() for n, t in tensors.items()})
        expected = net.double()(graph, tensors)
    assert all(float((out[n] - t).norm() / t.norm()) < 0.1 for n, t in expected.items())


@fast
def test_tensors_of_one_type(backend: str) -> None:
    x, weight, _, src, dst = Problem(SIREN, 1, 2, 2, False, False).inputs
    assert weight is not None
    with pytest.raises(RuntimeError, match="type"):
        FAST[backend].edge_pass(SIREN, True, x, weight.float(), None, src, dst)


@pytest.fixture
def graph() -> ParameterGraph:
    found = traced("mlp")[1]
    assert blocked(found).blocks
    return found


@BUILT
@pytest.mark.parametrize("keep_edges", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_operators_for_the_compiler(residual: bool, keep_edges: bool) -> None:
    """Their fake forms, schemas and gradients; see torch.library.opcheck."""
    problem = Problem(((2, 3), (4, 1)), 2, 3, 3, False, residual)
    inputs = [None if t is None else t.requires_grad_() for t in problem.inputs]
    flat = [2, 3, 4, 1]
    operators = torch.ops.gmn_opt
    torch.library.opcheck(operators.edge_pass.default, (flat, keep_edges, *inputs))
    new, at_dst, at_src = operators.edge_pass(flat, keep_edges, *inputs)
    needed = [True, True, residual, False, True]
    given = (*inputs, needed, torch.randn_like(new) if keep_edges else None, at_dst, at_src)
    given = tuple(t.detach() if isinstance(t, Tensor) else t for t in given)
    torch.library.opcheck(operators.edge_pass_backward.default, (flat, *given))
