"""Train a CNN in a plain loop, with checkpoints.

Run: python examples/plain_loop.py

What differs from AdamW is one line. A run that is started again goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from gmn_opt import GMNOptimizer
from gmn_opt.data import load_bundled, normalize


def main(steps: int = 300, every: int = 100, checkpoint: str = "plain_loop.pt") -> float:
    """Train for `steps` steps, save every `every` of them; returns the test accuracy."""
    data = load_bundled("fashion_mnist")
    images, labels = normalize(data.train_images), data.train_labels
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    opt = GMNOptimizer(model.parameters(), total_steps=steps)

    done = 0
    if Path(checkpoint).exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        done = saved["step"]

    for step in range(done, steps):
        batch = torch.randint(len(images), (128,))
        opt.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        opt.step()
        if (step + 1) % every == 0:
            state = {"model": model.state_dict(), "opt": opt.state_dict(), "step": step + 1}
            torch.save(state, checkpoint)
            print(f"step {step + 1:4d}  loss {loss.item():.3f}")

    with torch.no_grad():
        guesses = model(normalize(data.test_images)).argmax(1)
    accuracy = (guesses == data.test_labels).float().mean().item()
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
