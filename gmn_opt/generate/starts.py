"""A common start for INRs, from which a few gradient steps reach every image.

Networks that begin at different places end at different places for the same image, and most of
what a generator would have to learn is where they began. INRs that all take a few steps from one
learned start (Tancik et al. 2021, arXiv 2012.02189) differ by their image alone. The start and one
step size per parameter (Li et al. 2017, arXiv 1707.09835) are learned by differentiating through
the steps.

What this buys is said plainly: the networks share the order of their neurons, so they are no
sample of what independent trainings find, and near to each other by construction.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmn_opt.inr import Inr, InrConfig, Params, config_from_dict, coordinates
from gmn_opt.inr.fitting import as_targets
from gmn_opt.weights import WeightSet, load, save

KIND = "inr start"


@dataclass(frozen=True)
class Start:
    """Where INRs of one config begin, and how far each parameter goes per unit of gradient.

    Attributes:
        config: Of the INRs.
        params: ``{name: [*shape]}``.
        rates: ``{name: [*shape]}``.
        steps: Gradient steps.
    """

    config: InrConfig
    params: Params
    rates: Params
    steps: int


def _walk(inr: Inr, start: Params, rates: Params, targets: Tensor, points: Tensor, steps: int,
          create_graph: bool) -> Params:  # fmt: skip
    """Parameters ``{name: [N, *shape]}`` after some steps towards targets ``[N, P, outputs]``."""
    params = {n: p.expand(len(targets), *p.shape) for n, p in start.items()}
    if not create_graph:
        params = {n: p.clone().requires_grad_() for n, p in params.items()}
    for _ in range(steps):
        error = (inr.batched(params, points) - targets).square().mean((1, 2)).sum()
        slopes = torch.autograd.grad(error, list(params.values()), create_graph=create_graph)
        pairs = zip(params.items(), slopes, strict=True)
        params = {n: p - rates[n] * slope for (n, p), slope in pairs}
        if not create_graph:
            params = {n: p.detach().requires_grad_() for n, p in params.items()}
    return params


def learn_start(
    images: Tensor,
    config: InrConfig,
    *,
    steps: int = 3,
    rounds: int = 600,
    batch: int = 32,
    pixels: int = 256,
    rate: float = 3e-3,
    inner_rate: float = 3e-3,
    seed: int = 0,
    on_round: Callable[[int, float], None] | None = None,
) -> Start:
    """Learn a start and step sizes on some images.

    Args:
        images: See `gmn_opt.inr.fitting.as_targets`.
        config: Of the INRs.
        steps: Gradient steps from the start to an image.
        rounds: Steps of Adam on start and step sizes.
        batch: Images per round.
        pixels: Drawn per round, the same for all images of it.
        rate: Of Adam, falling along a half cosine.
        inner_rate: First value of all step sizes.
        seed: Of everything random.
        on_round: Called with the number of rounds done and the PSNR in dB after the steps.

    Raises ValueError for images that do not fit the config.
    """
    targets = as_targets(images, config)
    generator = torch.Generator().manual_seed(seed)
    points = coordinates(targets.shape[1:-1], config.inputs)
    flat = targets.flatten(1, -2)
    with torch.random.fork_rng(devices=[]):
        inr = config.build(generator)
    start = {n: p.detach().clone().requires_grad_() for n, p in inr.named_parameters()}
    logs = {n: torch.full_like(p, math.log(inner_rate)).requires_grad_() for n, p in start.items()}
    groups: list[dict[str, Any]] = [
        {"params": list(start.values())},
        {"params": list(logs.values()), "lr": 10 * rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    peak = config.value_range[1] - config.value_range[0]
    for number in range(rounds):
        chosen = torch.randint(len(flat), (batch,), generator=generator)
        places = torch.randperm(len(points), generator=generator)[:pixels]
        some, at = flat[chosen][:, places], points[places]
        rates = {n: log.exp() for n, log in logs.items()}
        reached = _walk(inr, start, rates, some, at, steps, True)
        error = (inr.batched(reached, at) - some).square().mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_([*start.values(), *logs.values()], 1.0)
        optimizer.step()
        schedule.step()
        if on_round is not None:
            on_round(number + 1, 10 * math.log10(peak**2 / max(error.item(), 1e-12)))
    return Start(
        config,
        {n: p.detach().clone() for n, p in start.items()},
        {n: log.detach().exp() for n, log in logs.items()},
        steps,
    )


def fit_from(start: Start, images: Tensor, batch: int = 256) -> Params:
    """``{name: [N, *shape]}``: INRs of images, some gradient steps from the start.

    Raises ValueError for images that do not fit the config.
    """
    targets = as_targets(images, start.config)
    points = coordinates(targets.shape[1:-1], start.config.inputs)
    with torch.random.fork_rng(devices=[]):
        inr = start.config.build()
    parts = [
        _walk(inr, start.params, start.rates, some, points, start.steps, False)
        for some in targets.flatten(1, -2).split(batch)
    ]
    return {n: torch.cat([p[n].detach() for p in parts]) for n in start.params}


def save_start(path: str | os.PathLike[str], start: Start) -> None:
    """Write a start to a safetensors file, whole or not at all."""
    tensors = {f"params.{n}": t for n, t in start.params.items()}
    tensors |= {f"rates.{n}": t for n, t in start.rates.items()}
    config = {"inr": start.config.to_dict(), "steps": start.steps}
    save(path, WeightSet(Path(path).stem, KIND, config, tensors))


def load_start(path: str | os.PathLike[str]) -> Start:
    """Read what `save_start` wrote.

    Raises WeightsError when the file is missing, damaged, or holds something else.
    """
    found = load(path, KIND)
    parts: dict[str, Params] = {"params": {}, "rates": {}}
    for name, tensor in found.tensors.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = tensor
    return Start(config_from_dict(found.config["inr"]), steps=found.config["steps"], **parts)


__all__ = ["Start", "fit_from", "learn_start", "load_start", "save_start"]
