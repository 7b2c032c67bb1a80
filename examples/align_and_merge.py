"""Align two networks that were trained apart, and merge them.

Run: python examples/align_and_merge.py (needs the extra align)

Nothing is said of the architecture: the graph knows which axes belong together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import gmn_opt
from gmn_opt.data import load_bundled, normalize


class Net(nn.Module):
    """Convolutions, batch norm and a residual connection."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        out: Tensor = self.head((x + F.relu(self.body(x))).mean((2, 3)))
        return out


def train(seed: int, images: Tensor, labels: Tensor, steps: int) -> Net:
    """One network from one seed."""
    torch.manual_seed(seed)
    model = Net()
    opt = gmn_opt.GMNOptimizer(model.parameters(), total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (100,))
        opt.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        opt.step()
    return model.eval()


def main(steps: int = 200) -> dict[str, float]:
    """Train two, merge them in three ways; returns the losses."""
    data = load_bundled("fashion_mnist")
    images, labels = normalize(data.train_images, 14), data.train_labels
    one, two = (train(seed, images, labels, steps) for seed in (0, 1))
    a, b = one.state_dict(), two.state_dict()

    graph = gmn_opt.trace(one, images[:2])
    aligned = graph.permute(
        b, gmn_opt.align(graph, a, b)
    )  # computes what b does, in a's order of neurons
    batches = [(images[i : i + 100],) for i in range(0, 1000, 100)]
    merged = gmn_opt.merge(graph, [a, b], model=one, data=batches)  # aligns by itself

    def loss(state: dict[str, Tensor]) -> float:
        with torch.no_grad():
            return F.cross_entropy(functional_call(one, state, (images,)), labels).item()

    def mean(x: dict[str, Tensor], y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.lerp(x[name].float(), y[name].float(), 0.5) for name in x}

    losses = {
        "first": loss(a),
        "second": loss(b),
        "second, permuted": loss(aligned),
        "mean of both as they are": loss(mean(a, b)),
        "mean, aligned": loss(mean(a, aligned)),
        "mean, aligned, batch statistics renewed": loss(merged),
    }
    for name, value in losses.items():
        print(f"{value:6.3f}  {name}")
    return losses


if __name__ == "__main__":
    main()
