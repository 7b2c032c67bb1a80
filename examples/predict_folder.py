"""Predict a number of networks from a folder of checkpoints.

Run: python examples/predict_folder.py

Makes a folder of small MLPs first, each trained for a random time at a random rate; put your own
in its place. Then it learns to say their accuracy from their weights alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt.data import load_bundled
from gmn_opt.predict import NetworkDataset, calibrate, fit_predictor


def build(width: int) -> nn.Sequential:
    """A classifier of images of 7x7 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(49, width), nn.ReLU(), nn.Linear(width, 10))


def small(images: Tensor) -> Tensor:
    """uint8 [N, 28, 28] to [N, 1, 7, 7]."""
    return F.avg_pool2d(images.float().unsqueeze(1) / 255, 4) * 3 - 1


def make_checkpoints(folder: Path, count: int) -> None:
    """Train `count` networks and save them with their test accuracy."""
    data = load_bundled("fashion_mnist")
    x, y = small(data.train_images), data.train_labels
    test_x, test_y = small(data.test_images), data.test_labels
    folder.mkdir(exist_ok=True)
    for number in range(count):
        torch.manual_seed(number)
        width = (8, 12, 16, 24)[number % 4]
        model = build(width)
        opt = torch.optim.Adam(model.parameters(), float(10 ** (-4 + 2 * torch.rand(()))))
        for _ in range(int(torch.randint(10, 100, ()))):
            batch = torch.randint(len(x), (64,))
            opt.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            opt.step()
        accuracy = (model(test_x).argmax(1) == test_y).float().mean().item()
        kept = {"width": width, "accuracy": accuracy, "weights": model.state_dict()}
        torch.save(kept, folder / f"{number:04d}.pt")


def main(count: int = 200, minutes: float = 1.0, folder: str = "checkpoints") -> float:
    """Make, load, fit, predict; returns R² on networks that were not learned from."""
    make_checkpoints(Path(folder), count)
    networks, accuracies = [], []
    for file in sorted(Path(folder).glob("*.pt")):
        kept = torch.load(file, weights_only=True)
        model = build(kept["width"])
        model.load_state_dict(kept["weights"])
        networks.append(model)
        accuracies.append(kept["accuracy"])

    example = (torch.zeros(1, 1, 7, 7),)
    zoo = NetworkDataset(networks, {"accuracy": accuracies}, example_inputs=example)
    learned, rest = zoo.split(0.6)
    held_out, test = rest.split(0.6)  # calibration takes 20 or more
    predictor = fit_predictor(learned, learned.column("accuracy"), minutes=minutes)
    score = predictor.score(test, test.column("accuracy"))
    print(f"R² {score['r2']:.2f} on {len(test)} networks")

    calibrated = calibrate(predictor, learned, held_out, held_out.column("accuracy"))
    print(calibrated.estimate(networks[:1], coverage=0.8, example_inputs=example)[0])
    predictor.save("predictor.safetensors")
    return score["r2"]


if __name__ == "__main__":
    main()
