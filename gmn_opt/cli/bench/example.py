"""What `gmn-opt bench` can be tried on: a small classifier of the bundled images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gmn_opt.data import load_bundled

Images = list[Tensor]


def cross_entropy(model: nn.Module, batch: Images) -> Tensor:
    """Loss of a batch of images and labels."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def fashion_mlp() -> tuple[nn.Module, object, DataLoader[Images], DataLoader[Images]]:
    """A 784-64-64-10 MLP; its loss; batches to train on; batches to test on."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    data = load_bundled("fashion_mnist")
    train, test = data.normalized()
    seen = TensorDataset(train, data.train_labels)
    unseen = TensorDataset(test, data.test_labels)
    order = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    batches: DataLoader[Images] = DataLoader(seen, 128, shuffle=True, generator=order)  # type: ignore[arg-type]
    return model, cross_entropy, batches, DataLoader(unseen, 500)  # type: ignore[arg-type]
