"""Train a LightningModule.

Run: python examples/lightning_module.py

Needs Lightning: python -m pip install '.[examples]'
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gmn_opt import GMNOptimizer
from gmn_opt.data import load_bundled, normalize


class Classifier(lightning.LightningModule):
    """An MLP on images of 28x28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
            nn.Linear(64, 10),
        )  # fmt: skip

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> GMNOptimizer:
        """All that differs; Lightning knows how long the training will last."""
        steps = int(self.trainer.estimated_stepping_batches)
        return GMNOptimizer(self.parameters(), total_steps=steps)


def main(epochs: int = 3, examples: int = 5000) -> float:
    """Train; returns the last training loss."""
    data = load_bundled("fashion_mnist")
    rows = TensorDataset(normalize(data.train_images)[:examples], data.train_labels[:examples])
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(), DataLoader(rows, batch_size=128, shuffle=True))
    loss = float(torch.as_tensor(trainer.callback_metrics["loss"]))
    print(f"training loss {loss:.3f}")
    return loss


if __name__ == "__main__":
    main()
