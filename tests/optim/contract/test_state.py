"""State dicts, checkpoints, copies."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from tests.optim.contract.kit import New, network, same, train, with_gradient

alone = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_pickle(state: Any) -> Any:
    return pickle.loads(pickle.dumps(state))


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "file": through_file,
    "pickle": through_pickle,
}


def test_a_state_has_groups_and_states(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    state = opt.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert list(state["state"]) == [0, 1, 2, 3]
    assert state["param_groups"][0]["params"] == [0, 1, 2, 3]


def test_state_is_made_of_tensors_of_the_parameters_shape(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    for p in model.parameters():
        step = opt.state[p]["step"]
        assert float(step) == 3
        assert step.device.type == "cpu"
        rest = [t for name, t in opt.state[p].items() if name != "step"]
        assert len(rest) >= 2
        assert all(t.shape == p.shape and t.device == p.device for t in rest)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["before_a_call", "after_a_step"])
def test_going_on_is_exact(new: New, way: str, when: str) -> None:
    whole, first, second = network(), network(), network(9)
    opt = new(whole.parameters())
    train(whole, opt)
    train(whole, opt, seed=1)
    opt = new(first.parameters())
    train(first, opt)
    saved = WAYS[way]({"model": first.state_dict(), "opt": opt.state_dict()})
    train(first, opt, seed=1)  # must not disturb what was saved
    assert same(whole, first)
    other = new(second.parameters())
    if when == "after_a_step":
        train(second, other)
    second.load_state_dict(saved["model"])
    other.load_state_dict(saved["opt"])
    train(second, other, seed=1)
    assert same(whole, second)


def test_settings_come_back(new: New) -> None:
    one = new(network().parameters(), lr=0.25 * new.lr, weight_decay=0.3)
    two = new(network().parameters())
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]["lr"] == 0.25 * new.lr
    assert two.param_groups[0]["weight_decay"] == 0.3


def test_a_state_without_steps_loads(new: New) -> None:
    one, two = network(), network()
    opt = new(two.parameters())
    opt.load_state_dict(new(network().parameters()).state_dict())
    train(one, new(one.parameters()))
    train(two, opt)
    assert same(one, two)


@pytest.mark.parametrize("change", ["groups", "parameters", "shape"])
def test_a_state_that_does_not_fit(new: New, change: str) -> None:
    model, wide = network(), nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 3))
    opt = new(model.parameters())
    if change == "shape":
        other: Optimizer = new(wide.parameters())
        train(wide, other)
        if new.lr < 1:  # AdamW finds out at the step
            opt.load_state_dict(other.state_dict())
            with pytest.raises(RuntimeError):
                train(model, opt)
            return
    elif change == "groups":
        other = new([{"params": wide[0].parameters()}, {"params": wide[2].parameters()}])
    else:
        other = new(list(wide.parameters())[:2])
    with pytest.raises(ValueError, match=r"group|Build the same model"):
        opt.load_state_dict(other.state_dict())


def test_hooks_of_state_dicts(new: New) -> None:
    model, seen = network(), []
    opt = new(model.parameters())
    opt.register_state_dict_pre_hook(lambda o: seen.append("pre"))
    opt.register_state_dict_post_hook(lambda o, s: s | {"mine": 1})
    opt.register_load_state_dict_pre_hook(lambda o, s: seen.append(f"load {s['mine']}"))
    opt.register_load_state_dict_post_hook(lambda o: seen.append(f"loaded {len(o.state)}"))
    train(model, opt)
    state = opt.state_dict()
    assert state["mine"] == 1
    opt.load_state_dict(state)
    assert seen == ["pre", "load 1", "loaded 4"]


def test_a_load_hook_that_changes_the_state(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    opt.register_load_state_dict_pre_hook(
        lambda o, s: {**s, "param_groups": [{**s["param_groups"][0], "lr": 0.125}]}
    )
    opt.load_state_dict(opt.state_dict())
    assert opt.param_groups[0]["lr"] == 0.125


@alone
@pytest.mark.parametrize(("flat", "full"), [(False, False), (False, True), (True, False)])
def test_distributed_checkpoints_go_on_exactly(
    new: New, flat: bool, full: bool, tmp_path: Path
) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat, full_state_dict=full)
    one, two = network(), network(9)
    opt, other = new(one.parameters()), new(two.parameters())
    train(one, opt)
    saved = {"model": one.state_dict(), "opt": get_optimizer_state_dict(one, opt, options=options)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    target = {
        "model": two.state_dict(),
        "opt": get_optimizer_state_dict(two, other, options=options),
    }
    dcp.load(target, checkpoint_id=tmp_path, no_dist=True)
    two.load_state_dict(target["model"])
    set_optimizer_state_dict(two, other, target["opt"], options=options)
    train(one, opt, seed=1)
    train(two, other, seed=1)
    assert same(one, two)


@alone
@pytest.mark.parametrize("full", [False, True])
def test_asking_a_fresh_optimizer_for_its_state(new: New, full: bool) -> None:
    """The tool takes a step with gradients of zero at a rate of zero, which leaves no trace."""
    model, expected = network(), network()
    opt = new(model.parameters())
    options = StateDictOptions(full_state_dict=full)
    state = get_optimizer_state_dict(model, opt, options=options)
    assert set(state["state"]) == {n for n, _ in model.named_parameters()}
    assert same(model, expected)
    opt, other = new(model.parameters()), new(expected.parameters())
    get_optimizer_state_dict(model, opt, options=options)
    for p in model.parameters():
        p.grad = None
    if new.lr < 1:  # AdamW has counted the step
        for kept in opt.state.values():
            kept["step"].zero_()
    train(model, opt)
    train(expected, other)
    assert same(model, expected)


def test_states_by_name_with_several_groups(new: New) -> None:
    model = network()
    opt = new(
        [{"params": model[0].parameters(), "lr": 0.5 * new.lr}, {"params": model[2].parameters()}]
    )
    train(model, opt)
    _, state = get_state_dict(model, opt)
    assert set(state["state"]) == {n for n, _ in model.named_parameters()}
    set_optimizer_state_dict(model, opt, state)
    assert [g["lr"] for g in opt.param_groups] == [0.5 * new.lr, new.lr]
    train(model, opt)


# ---- copies


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch_save"])
def test_copies_of_model_and_optimizer_go_on_alike(new: New, way: str) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    if way == "deepcopy":
        twin, other = copy.deepcopy((model, opt))
    elif way == "pickle":
        twin, other = pickle.loads(pickle.dumps((model, opt)))
    else:
        file = io.BytesIO()
        torch.save((model, opt), file)
        file.seek(0)
        twin, other = torch.load(file, weights_only=False)
    assert other.param_groups[0]["params"][0] is twin[0].weight
    train(model, opt, seed=1)
    train(twin, other, seed=1)
    assert same(model, twin)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_before_the_first_step(new: New, way: str) -> None:
    model = network()
    opt = new(model.parameters())
    twin, other = (
        copy.deepcopy((model, opt))
        if way == "deepcopy"
        else pickle.loads(pickle.dumps((model, opt)))
    )
    train(twin, other)
    train(model, opt)
    assert same(model, twin)


def test_a_copy_is_independent(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    twin, other = copy.deepcopy((model, opt))
    train(twin, other, seed=1)
    other.param_groups[0]["lr"] = 0.0
    assert opt.param_groups[0]["lr"] == new.lr
    assert float(opt.state[model[0].weight]["step"]) == 3


def test_nothing_lives_on(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    seen = weakref.ref(model[0].weight), weakref.ref(opt)
    del model, opt
    gc.collect()
    assert [s() for s in seen] == [None, None]


def test_without_a_step_nothing_lives_on(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    seen = weakref.ref(model[0].weight), weakref.ref(opt)
    del opt
    gc.collect()
    assert seen[1]() is None
    model(torch.randn(2, 4))
    del model
    gc.collect()
    assert seen[0]() is None


def test_state_survives_a_change_of_the_weights(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    train(model, opt)
    model.load_state_dict(network(5).state_dict())
    train(model, opt)
    assert float(opt.state[model[0].weight]["step"]) == 6


def test_steps_are_counted_where_there_were_gradients(new: New) -> None:
    p, q = with_gradient([1.0]), with_gradient([1.0])
    opt = new([p, q])
    opt.step()
    q.grad = None
    opt.step()
    assert [float(opt.state[t]["step"]) for t in (p, q)] == [2, 1]
