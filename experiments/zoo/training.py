"""Many networks of one architecture trained at once, each with settings of its own.

The parameters of K networks lie in one matrix ``[K, P]``, of which the modules see views. A step is
one forward and backward pass of all of them under ``vmap`` and a handful of operators for four
optimizers at once. Networks are sorted by their number of steps, so those that are done fall off
the end of a prefix. :func:`train_alone` is the slow reference: one network, ``torch.optim``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from experiments.zoo.images import Images
from experiments.zoo.networks import build
from experiments.zoo.settings import BatchPlan, Setting

_BETA, _EPSILON = 0.9, 1e-8
#: Decay of the second moment, as in torch.optim.
_SECOND = {"adam": 0.999, "rmsprop": 0.99}
#: Training images on which a network's training loss is measured.
_MEASURED = 500

Stacked = dict[str, Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """K networks: ``{name: [K, *shape]}`` at the end and half way, and what they are worth.

    ``metrics`` are ``[K]`` each; ``finite`` says which networks did not diverge.
    """

    template: nn.Module
    params: Stacked
    half: Stacked
    buffers: Stacked
    metrics: dict[str, Tensor]
    finite: Tensor


class _Feed:
    """The images and labels that a network sees, step by step: ``[steps, minibatch]``."""

    def __init__(self, setting: Setting, images: Images, minibatch: int) -> None:
        generator = torch.Generator().manual_seed(setting.seed)
        total = len(images.labels)
        count = max(minibatch, int(setting.data_share * total))
        mine = torch.randperm(total, generator=generator)[:count]
        labels = images.labels[mine].clone()
        wrong = torch.rand(count, generator=generator) < setting.label_noise
        classes = int(images.labels.max()) + 1
        labels[wrong] = torch.randint(classes, (int(wrong.sum()),), generator=generator)
        picked = torch.randint(count, (setting.steps, minibatch), generator=generator)
        self.places, self.labels = mine[picked], labels[picked]


def _initial(plan: BatchPlan, setting: Setting) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model = build(plan.config, plan.size)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.mul_(setting.init_scale)
    for name, buffer in model.named_buffers():
        if name.endswith("rate"):
            buffer.fill_(setting.dropout)
    return model


def _padded(parts: list[Tensor], length: int) -> Tensor:
    """``[steps, B]`` each to ``[length, K, B]``; what is beyond a network's steps is not read."""
    return torch.stack([nn.functional.pad(p, (0, 0, 0, length - len(p))) for p in parts], 1)


class _Update:
    """Four optimizers at once on a matrix of parameters, row by row, in few passes over it."""

    def __init__(self, settings: list[Setting], like: Tensor) -> None:
        def column(read: Callable[[Setting], float]) -> Tensor:
            return torch.tensor([read(s) for s in settings]).unsqueeze(1)

        self.decay = column(lambda s: s.weight_decay)
        beta = column(lambda s: _BETA if s.optimizer in ("adam", "momentum") else 0.0)
        second = column(lambda s: _SECOND.get(s.optimizer, 0.0))
        adam = column(lambda s: s.optimizer == "adam") > 0
        adaptive = column(lambda s: s.optimizer in _SECOND) > 0
        self.into_first, self.into_second = 1 - beta, 1 - second
        steps = torch.arange(1, settings[0].steps + 1).view(-1, 1, 1)
        # Adam's moments are means over the steps so far; momentum sums up
        first = torch.where(adam, 1 - beta**steps, self.into_first)
        root = torch.where(adam, 1 - second**steps, 1.0).sqrt()
        self.rate = -column(lambda s: s.rate) / first
        self.by_root = torch.where(adaptive, 1 / root, 0.0)
        self.floor = torch.where(adaptive, _EPSILON, 1.0)
        self.first_moment, self.second_moment = torch.zeros_like(like), torch.zeros_like(like)

    def __call__(self, flat: Tensor, grad: Tensor, step: int) -> None:
        """Move ``flat`` [n, P], the first n rows, in place; ``step`` counts from 0."""
        n = len(flat)
        grad = grad.addcmul_(self.decay[:n], flat)
        m, v = self.first_moment[:n], self.second_moment[:n]
        m.lerp_(grad, self.into_first[:n])
        v.lerp_(grad.square_(), self.into_second[:n])
        below = torch.addcmul(self.floor[:n], v.sqrt(), self.by_root[step, :n])
        flat.addcdiv_(m * self.rate[step, :n], below)


def train_batch(plan: BatchPlan, images: Images) -> Trained:
    """Train all networks of a plan together; the same plan gives the same networks."""
    order = sorted(range(len(plan.settings)), key=lambda i: -plan.settings[i].steps)
    settings = [plan.settings[i] for i in order]
    models = [_initial(plan, s) for s in settings]
    template = models[0].train()
    shapes = {n: tuple(p.shape) for n, p in template.named_parameters()}
    flat = torch.stack([torch.cat([p.detach().flatten() for p in m.parameters()]) for m in models])
    buffers = {
        n: torch.stack([dict(m.named_buffers())[n] for m in models])
        for n, _ in template.named_buffers()
    }
    feeds = [_Feed(s, images, plan.minibatch) for s in settings]
    longest = settings[0].steps
    places = _padded([f.places for f in feeds], longest)
    labels = _padded([f.labels for f in feeds], longest)
    half, update = flat.clone(), _Update(settings, flat)
    half_way: dict[int, list[int]] = {}
    for row, s in enumerate(settings):
        half_way.setdefault((s.steps + 1) // 2, []).append(row)
    n = len(settings)

    def said_by(params: Stacked, state: Stacked, x: Tensor) -> Tensor:
        out: Tensor = functional_call(template, {**params, **state}, (x,))
        return out

    together = vmap(said_by, randomness="different")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.settings[0].seed)
        for step in range(longest):
            while settings[n - 1].steps <= step:
                n -= 1
            rows = flat[:n].detach().requires_grad_()
            state = {name: b[:n] for name, b in buffers.items()}
            some = images.train[places[step, :n]]
            loss = _losses(together(_views(rows, shapes), state, some), labels[step, :n])
            (grad,) = torch.autograd.grad(loss.sum(), rows)
            with torch.no_grad():
                update(flat[:n], grad, step)
                for row in half_way.get(step + 1, []):
                    half[row] = flat[row]
    back = torch.tensor(order).argsort()
    flat, half = flat[back], half[back]
    buffers = {n: b[back] for n, b in buffers.items()}
    template.eval()
    params = _views(flat, shapes)
    metrics = _measure(template, params, buffers, images)
    finite = flat.isfinite().all(1) & metrics["test_loss"].isfinite()
    return Trained(template, params, _views(half, shapes), buffers, metrics, finite)


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of every network: ``[n, B, classes]`` and ``[n, B]`` to ``[n]``."""
    # cross_entropy wants classes on the second axis, which is slow
    return -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).mean((1, 2))


def _views(flat: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> Stacked:
    parts = flat.split([prod(s) for s in shapes.values()], 1)
    return {n: p.view(-1, *s) for (n, s), p in zip(shapes.items(), parts, strict=True)}


@torch.no_grad()
def _measure(model: nn.Module, params: Stacked, buffers: Stacked, images: Images) -> Stacked:
    """Accuracy and loss on the test images, loss on some training images with true labels."""

    def logits(p: Stacked, b: Stacked, x: Tensor) -> Tensor:
        out: Tensor = functional_call(model, {**p, **b}, (x,))
        return out

    every = vmap(logits, in_dims=(0, 0, None))

    def judged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = [every(params, buffers, some) for some in x.split(250)]
        out = torch.cat(parts, 1)
        right = (out.argmax(-1) == y).float().mean(1)
        return right, _losses(out, y.expand(len(out), -1))

    return _on_both(judged, images)


def _on_both(judged: Callable[[Tensor, Tensor], tuple[T, T]], images: Images) -> dict[str, T]:
    """Accuracy and loss that ``judged`` finds on test images, and on some of the training ones."""
    accuracy, loss = judged(images.test, images.test_labels)
    train, train_loss = judged(images.train[:_MEASURED], images.labels[:_MEASURED])
    return {
        "test_accuracy": accuracy,
        "test_loss": loss,
        "train_accuracy": train,
        "train_loss": train_loss,
    }


@torch.no_grad()
def measure_alone(model: nn.Module, images: Images) -> dict[str, float]:
    """What a batch is judged by, of one network."""

    def judged(x: Tensor, y: Tensor) -> tuple[float, float]:
        out = torch.cat([model(some) for some in x.split(250)])
        return float((out.argmax(1) == y).float().mean()), float(cross_entropy(out, y))

    return _on_both(judged, images)


def train_alone(plan: BatchPlan, place: int, images: Images) -> nn.Module:
    """The network at ``place`` of a plan, trained by itself: the same but for dropout's draws."""
    setting = plan.settings[place]
    model = _initial(plan, setting).train()
    feed = _Feed(setting, images, plan.minibatch)
    rate, decay = setting.rate, setting.weight_decay
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), rate, weight_decay=decay),
        "momentum": lambda: torch.optim.SGD(
            model.parameters(), rate, momentum=_BETA, weight_decay=decay
        ),
        "adam": lambda: torch.optim.Adam(
            model.parameters(), rate, (_BETA, _SECOND["adam"]), weight_decay=decay
        ),
        "rmsprop": lambda: torch.optim.RMSprop(
            model.parameters(), rate, _SECOND["rmsprop"], weight_decay=decay
        ),
    }
    optimizer = made[setting.optimizer]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        for some, labels in zip(feed.places, feed.labels, strict=True):
            loss = cross_entropy(model(images.train[some]), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
