"""A small convolutional network that says which digit an image shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def recognizer() -> nn.Sequential:
    """Images ``[N, 1, 28, 28]`` in [0, 1] to logits ``[N, 10]``."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(24 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def train_recognizer(images: Tensor, labels: Tensor, epochs: int = 6, seed: int = 0) -> nn.Module:
    """Trained on uint8 images ``[N, 28, 28]``, shifted by up to 2 pixels; AdamW, one cycle."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recognizer()
        pixels = images.float().div(255).unsqueeze(1)
        batch = 100
        total = epochs * (len(labels) // batch)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total)
        for _ in range(epochs):
            order = torch.randperm(len(labels))
            for chosen in order[: len(labels) // batch * batch].split(batch):
                shift = torch.randint(-2, 3, (2,)).tolist()
                some = pixels[chosen].roll(shift, (2, 3))
                optimizer.zero_grad()
                F.cross_entropy(model(some), labels[chosen]).backward()
                optimizer.step()
                schedule.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def recognized(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images ``[N, 28, 28]`` in [0, 1] that show what they should."""
    found = model(images.clamp(0, 1).unsqueeze(1)).argmax(1)
    return float((found == labels).float().mean())


@torch.no_grad()
def features(model: nn.Module, images: Tensor) -> Tensor:
    """``[N, 64]``: what the last hidden layer says of images ``[N, 28, 28]`` in [0, 1]."""
    assert isinstance(model, nn.Sequential)
    out: Tensor = model[:-1](images.clamp(0, 1).unsqueeze(1))
    return out


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two samples of features ``[n, d]``, ``[m, d]`` taken as Gaussians."""
    a, b = a.double(), b.double()
    first, second = a.T.cov(), b.T.cov()
    # the trace of (AB)^(1/2), by the eigenvalues of A^(1/2) B A^(1/2)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart + first.trace() + second.trace() - 2 * both)
