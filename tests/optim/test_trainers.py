"""GMNOptimizer in other people's training loops, where they are installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gmn_opt import GMNOptimizer
from tests.optim.contract.kit import batches, close, network, small_rule, train

pytestmark = pytest.mark.filterwarnings(
    "default", "error:GMNOptimizer"
)  # theirs, but for what we say

STEPS = 4


def new(params: Any) -> GMNOptimizer:
    return GMNOptimizer(params, weights=small_rule())


def data() -> TensorDataset:
    """What `train` sees, row by row."""
    x, y = zip(*batches(STEPS), strict=True)
    return TensorDataset(torch.cat(x), torch.cat(y))


def expectation() -> nn.Module:
    model: nn.Module = network()
    train(model, new(model.parameters()), STEPS)
    return model


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    loader = DataLoader(data(), 16)
    prepared, opt, loader = accelerator.prepare(model, new(model.parameters()), loader)
    for x, y in loader:
        opt.zero_grad()
        accelerator.backward(F.cross_entropy(prepared(x), y))
        opt.step()
    assert close(model, expectation())
    assert opt.optimizer.graphs[0].spaces


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("pytorch_lightning", reason="Lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> GMNOptimizer:
            return new(self.parameters())

    model = Module()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, DataLoader(data(), 16))
    assert close(model.net, expectation())
    assert trainer.optimizers[0].graphs[0].spaces


def test_transformers_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")

    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return 16 * STEPS

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            x, labels = data()[index]
            return {"x": x, "labels": labels}

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            out = self.net(x)
            return {"loss": F.cross_entropy(out, labels), "logits": out}

    model = Classifier()
    opt = new(model.parameters())
    settings = transformers.TrainingArguments(
        tmp_path,
        max_steps=STEPS,
        per_device_train_batch_size=16,
        train_sampling_strategy="sequential",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    constant = torch.optim.lr_scheduler.ConstantLR(opt, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        transformers.Trainer(
            model, settings, train_dataset=Rows(), optimizers=(opt, constant)
        ).train()
    assert close(model.net, expectation())
    assert opt.graphs[0].spaces
