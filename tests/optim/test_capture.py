from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from gmn_opt.optim.capture import InputCapture


class Net(nn.Module):
    """Positional and keyword arguments, batch norm and dropout: state and randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor, *, scale: float | Tensor = 1.0, flag: bool = False) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x))))) * scale


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def hooks(model: nn.Module) -> int:
    return sum(
        len(m._forward_pre_hooks) + len(m._forward_pre_hooks_with_kwargs) for m in model.modules()
    )


def test_records_the_first_call_only_and_removes_itself() -> None:
    net = Net()
    capture = InputCapture(net)
    assert capture.inputs is None
    assert capture.module is None
    assert hooks(net) > 0
    x, scale = torch.randn(4, 3), torch.tensor(2.0, requires_grad=True)
    net(x, scale=scale, flag=True)
    assert hooks(net) == 0
    net(torch.zeros(5, 3))
    assert capture.inputs is not None
    (seen,), kwargs = capture.inputs
    assert torch.equal(seen, x)
    assert set(kwargs) == {"scale", "flag"}
    assert kwargs["flag"] is True
    assert torch.equal(kwargs["scale"], scale)
    assert kwargs["scale"] is not scale
    assert kwargs["scale"].requires_grad  # a forward pass may differentiate by it
    assert kwargs["scale"].is_leaf
    assert capture.module is net


def test_later_changes_of_the_inputs_do_not_reach_the_record() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    capture = InputCapture(net)
    x = -torch.ones(4, 3)
    net(x)
    assert x.eq(0).all()
    assert capture.inputs is not None
    assert capture.inputs[0][0].eq(-1).all()


def test_nested_containers_and_other_objects() -> None:
    class Eater(nn.Linear):
        def forward(self, batch: Any) -> Tensor:
            return super().forward(batch["x"][0])

    net, marker = Eater(3, 2), object()
    capture = InputCapture(net)
    x = torch.randn(4, 3, requires_grad=True)
    net({"x": [x, None], "marker": marker, "ids": (1, "two")})
    assert capture.inputs is not None
    batch = capture.inputs[0][0]
    assert torch.equal(batch["x"][0], x)
    assert batch["x"][0].grad_fn is None
    assert batch["x"][1] is None
    assert batch["marker"] is marker
    assert batch["ids"] == (1, "two")


def test_other_hooks_see_what_they_would_have_seen() -> None:
    net = Net()
    order: list[str] = []
    net.register_forward_pre_hook(lambda m, a: (a[0] * 2,))
    net.register_forward_hook(lambda m, a, out: order.append("after"))
    capture = InputCapture(net)
    x = torch.randn(4, 3)
    net(x)
    assert capture.inputs is not None
    assert torch.equal(capture.inputs[0][0], x)  # as the caller gave it
    assert order == ["after"]
    assert len(net._forward_pre_hooks) == 1


def test_remove_before_and_after_the_call() -> None:
    net = Net()
    capture = InputCapture(net)
    capture.remove()
    capture.remove()
    net(torch.randn(4, 3))
    assert capture.inputs is None
    assert hooks(net) == 0


def test_inside_a_shell_that_is_never_called() -> None:
    class Lightning(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

        def training_step(self, x: Tensor) -> Tensor:
            return self.model(x).sum()

    net = Net()
    shell = Lightning(net)
    capture = InputCapture(shell)
    shell.training_step(torch.randn(4, 3))
    assert capture.module is net
    assert hooks(shell) == 0

    capture = InputCapture(shell)
    shell(torch.randn(4, 3))
    assert capture.module is shell
    assert hooks(shell) == 0


def train(net: Net, call: Callable[..., Tensor], steps: int = 3) -> tuple[list[Tensor], list[Any]]:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    torch.manual_seed(2)
    for _ in range(steps):
        loss = call(torch.randn(6, 3, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, [tensor.clone() for tensor in net.state_dict().values()]


@pytest.mark.parametrize("compiled", [False, True])
def test_training_is_bitwise_the_same(compiled: bool) -> None:
    def run(watch: bool) -> tuple[list[Tensor], list[Any]]:
        torch.manual_seed(0)
        net = Net()
        capture = InputCapture(net) if watch else None
        call = torch.compile(net, backend="eager") if compiled else net
        result = train(net, call)
        assert capture is None or capture.inputs is not None
        return result

    for plain, watched in zip(run(False), run(True), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_before_the_capture(fullgraph: bool) -> None:
    net = Net()
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter, fullgraph=fullgraph)
    capture = InputCapture(net)
    x = torch.randn(4, 3)
    for _ in range(3):
        compiled(x, scale=2.0)
    assert capture.inputs is not None
    assert torch.equal(capture.inputs[0][0], x)
    assert capture.inputs[1] == {"scale": 2.0}
    assert capture.module is net
    assert counter.frame_count == 1  # no graph break, no recompilation
    assert hooks(net) == 0


def test_compiled_after_the_capture() -> None:
    net = Net()
    capture = InputCapture(net)
    compiled = torch.compile(net, backend="eager")
    x = torch.randn(4, 3)
    for _ in range(3):
        compiled(x)
    assert capture.inputs is not None
    assert torch.equal(capture.inputs[0][0], x)
    assert capture.module is net


def test_compiled_in_place() -> None:
    net = Net()
    capture = InputCapture(net)
    net.compile(backend="eager")
    net(torch.randn(4, 3))
    assert capture.inputs is not None


def test_a_model_compiled_as_a_whole_is_recorded_while_it_compiles() -> None:
    net = Net()
    capture: InputCapture | None = InputCapture(net)
    assert capture is not None
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    x = torch.randn(4, 3)
    compiled(x, scale=2.0)
    assert capture.inputs is not None
    assert torch.equal(capture.inputs[0][0], x)
    assert capture.inputs[1] == {"scale": 2.0}
    assert capture.module is net
    capture = None
    for _ in range(3):
        compiled(x, scale=2.0)
    assert counter.frame_count == 1


def test_a_model_compiled_in_place_as_a_whole() -> None:
    net = Net()
    capture = InputCapture(net)
    net.compile(backend="eager", fullgraph=True)
    x = torch.randn(4, 3)
    net(x)
    assert capture.inputs is not None
    assert torch.equal(capture.inputs[0][0], x)


def test_a_function_that_must_not_break_stays_whole() -> None:
    net = Net()
    capture = InputCapture(net)
    compiled = torch.compile(lambda x: net(2 * x), backend="eager", fullgraph=True)
    compiled(torch.randn(4, 3))
    assert capture.inputs is None
    net(torch.randn(4, 3))  # an ordinary call still counts
    assert capture.inputs is not None


def test_data_parallel_and_distributed(tmp_path: Path) -> None:
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = Net()
        wrapped = nn.parallel.DistributedDataParallel(net)
        capture = InputCapture(net)
        wrapped(torch.randn(4, 3), scale=3.0)
        assert capture.inputs is not None
        assert capture.inputs[1] == {"scale": 3.0}
    finally:
        torch.distributed.destroy_process_group()
    net = Net()
    capture = InputCapture(net)
    nn.DataParallel(net)(torch.randn(4, 3))
    assert capture.module is net


def test_transforms_and_fake_tensors_are_let_through() -> None:
    net = nn.Linear(3, 2)
    capture = InputCapture(net)
    parameters: dict[str, Tensor] = dict(net.named_parameters())

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(net, p, (x,)).sum()

    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, torch.randn(5, 3))
    assert capture.inputs is None
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        net(mode.from_tensor(torch.randn(4, 3)))
    assert capture.inputs is None
    net(torch.randn(4, 3))
    assert capture.inputs is not None


def test_a_failing_first_call_is_recorded_all_the_same() -> None:
    net = Net()
    capture = InputCapture(net)
    with pytest.raises(RuntimeError):
        net(torch.randn(4, 7))
    assert capture.inputs is not None
    assert hooks(net) == 0


def test_copies_and_pickles_of_the_model_are_inert() -> None:
    net = Net()
    capture = InputCapture(net)
    twin = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (twin, loaded):
        other(torch.randn(4, 3))
        assert capture.inputs is None
    net(torch.randn(4, 3))
    assert capture.inputs is not None


def test_the_model_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        net = Net()
        capture = InputCapture(net)
        waiting = weakref.ref(net)
        del net
        assert waiting() is None

        net = Net()
        capture = InputCapture(net)
        net(torch.randn(4, 3))
        called = weakref.ref(net)
        del net
        assert called() is None
        assert capture.module is None
        assert capture.inputs is not None
    finally:
        gc.enable()


def test_dropping_the_capture_removes_the_hooks() -> None:
    net = Net()
    capture = InputCapture(net)
    assert hooks(net) > 0
    del capture
    assert hooks(net) == 0


def test_large_inputs_are_kept_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmn_opt.optim.capture._CLONE_BYTES", 8)
    net = Net()
    capture = InputCapture(net)
    x = torch.randn(4, 3)
    net(x)
    assert capture.inputs is not None
    assert capture.inputs[0][0].data_ptr() == x.data_ptr()
