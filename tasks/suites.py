"""Which tasks are meta-trained on, which steer meta-training, and which are held out.

No data set of ``HELD_OUT_DATA`` may ever be meta-trained on or steer a decision in meta-training.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from tasks.classification import ImageClassification

META_TRAIN_DATA = ("mnist", "digits")
HELD_OUT_DATA = ("fashion_mnist",)


def _choose(options: list[Any], weights: list[float], generator: torch.Generator) -> Any:
    shares = torch.tensor(weights, dtype=torch.float64)
    return options[int(torch.multinomial(shares, 1, generator=generator))]


def _log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    u = float(torch.rand((), generator=generator))
    return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))


class MetaTrainSuite:
    """Random small MLPs and CNNs on MNIST and scikit-learn's digits."""

    def sample(self, generator: torch.Generator) -> ImageClassification:
        """Draw data, resolution, architecture, batch size and noise."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        kind = _choose(["mlp", "cnn"], [0.6, 0.4], generator)
        data = _choose(["mnist", "digits"], [0.85, 0.15], generator)
        noisy = uniform(0, 1) < 0.6
        common = {
            "data": data,
            "kind": kind,
            "activation": _choose(["relu", "gelu", "tanh", "silu"], [6, 2, 1, 1], generator),
            "batch_size": 2 ** int(uniform(5, 8)),
            "label_noise": round(uniform(0, 0.3), 3) if uniform(0, 1) < 0.4 else 0.0,
            "pixel_noise": round(uniform(0, 1.2), 3) if noisy else 0.0,
            "overlay": round(uniform(0, 0.9), 3) if uniform(0, 1) < 0.5 else 0.0,
            "gain": round(math.exp(uniform(-0.7, 0.7)), 3) if uniform(0, 1) < 0.3 else 1.0,
        }
        if kind == "mlp":
            size = 8 if data == "digits" else _choose([8, 14, 28], [0.4, 0.35, 0.25], generator)
            depth = _choose([1, 2, 3], [0.5, 0.35, 0.15], generator)
            top = {8: 128, 14: 96, 28: 64}[size]
            hidden = tuple(int(_log_uniform(12, top, generator)) for _ in range(depth))
            norm = _choose(["none", "layer"], [0.85, 0.15], generator)
        else:
            size = 8 if data == "digits" else _choose([8, 14], [0.7, 0.3], generator)
            hidden = tuple(int(_log_uniform(4, 16, generator)) for _ in range(2))
            norm = _choose(["none", "batch"], [0.75, 0.25], generator)
            common["batch_size"] = 32
        return ImageClassification(size=size, hidden=hidden, norm=norm, **common)

    def restore(self, spec: dict[str, Any]) -> ImageClassification:
        """The task that ``spec`` describes; raises ValueError when it is of another kind."""
        fields = {k: v for k, v in spec.items() if k != "task"}
        try:
            if spec["task"] != "image_classification":
                raise ValueError(f"unknown task {spec['task']!r}")
            fields["hidden"] = tuple(fields["hidden"])
            return ImageClassification(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{spec} does not describe a task of this suite ({error}). Use the version that "
                "wrote it."
            ) from error


def validation() -> list[ImageClassification]:
    """Tasks that choose between checkpoints; the last two are wider than any meta-trained one."""
    base = ImageClassification("mnist", 8, (48,), batch_size=128, pixel_noise=0.5, overlay=0.5)
    return [
        base,
        replace(base, hidden=(64, 64, 64)),
        replace(base, size=28, hidden=(96,)),
        replace(base, size=14, hidden=(12, 24), kind="cnn"),
    ]


def held_out() -> list[ImageClassification]:
    """Fashion-MNIST with wider and deeper networks; measured once, at the end."""
    base = ImageClassification("fashion_mnist", 28, (128,), batch_size=128)
    return [
        base,
        replace(base, hidden=(128, 128)),
        replace(base, size=8, hidden=(32,)),
        replace(base, size=14, hidden=(16, 32), kind="cnn"),
    ]
