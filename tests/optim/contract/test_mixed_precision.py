"""Mixed precision: autocast and gradient scalers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.optim.contract.kit import (
    New,
    batches,
    close,
    network,
    same,
    train,
)


@pytest.mark.parametrize("inside", [False, True])
def test_training_under_autocast(new: New, inside: bool) -> None:
    model, expected = network(), network()
    opt, other = new(model.parameters()), new(expected.parameters())
    for x, y in batches(4):
        for m, o in ((model, opt), (expected, other)):
            o.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(m(x), y)
            loss.backward()
            if inside and m is model:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    o.step()
            else:
                o.step()
    assert same(model, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_closure_under_autocast(new: New, dtype: torch.dtype) -> None:
    model = network()
    opt, seen = new(model.parameters()), []
    x, y = batches(1)[0]

    def closure() -> Tensor:
        opt.zero_grad()
        out = model(x)
        seen.append(out.dtype)
        loss = F.cross_entropy(out.float(), y)
        loss.backward()
        return loss

    with torch.autocast("cpu", dtype=dtype):
        opt.step(closure)  # type: ignore[arg-type]
    assert seen == [dtype]


@pytest.mark.parametrize("unscale", [False, True])
def test_a_gradient_scaler(new: New, unscale: bool) -> None:
    model, expected = network(), network()
    opt, other = new(model.parameters()), new(expected.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for x, y in batches(3):
        opt.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if unscale:
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(model.parameters(), 1e6)
        scaler.step(opt)
        scaler.update()
    train(expected, other)
    assert close(model, expected)


def test_a_gradient_scaler_skips(new: New) -> None:
    model = network()
    opt = new(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = batches(1)[0]
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    model[0].weight.grad[0, 0] = float("inf")
    scaler.step(opt)
    scaler.update()
    assert same(model, network())
    assert scaler.get_scale() == 512.0
