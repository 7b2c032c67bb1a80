"""Train a small Llama with the Trainer of transformers.

Run: python examples/huggingface_trainer.py

Needs transformers and accelerate: python -m pip install '.[examples]'
"""

from __future__ import annotations

import inspect
import json
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from gmn_opt import GMNOptimizer


class Characters(Dataset[dict[str, torch.Tensor]]):
    """Pieces of Python's own source code, a byte per token."""

    def __init__(self, length: int = 32) -> None:
        text = "".join(inspect.getsource(module) for module in (json.decoder, json.encoder))
        codes = torch.tensor([min(byte, 127) for byte in text.encode()])
        self.rows = codes[: len(codes) // length * length].view(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def main(steps: int = 200) -> float:
    """Train; returns the mean training loss."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    opt = GMNOptimizer(model.parameters(), total_steps=steps)
    # the Trainer wants a scheduler; with total_steps the rule has its own, so this one does nothing
    constant = torch.optim.lr_scheduler.ConstantLR(opt, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=16, use_cpu=True, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model, settings, train_dataset=Characters(), optimizers=(opt, constant))
        loss: float = trainer.train().training_loss
    print(f"mean training loss {loss:.3f}")
    return loss


if __name__ == "__main__":
    main()
