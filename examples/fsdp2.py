"""Train a transformer sharded over processes.

Run: torchrun --nproc-per-node 2 examples/fsdp2.py

Without torchrun it trains in a single process. Make the optimizer after sharding; nothing else
differs.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from gmn_opt import GMNOptimizer


class Sorter(nn.Module):
    """Reads digits, and says them in order."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.digits, self.places = nn.Embedding(10, width), nn.Embedding(8, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, 10)

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """Digits [N, 8] to scores [N, 8, 10]."""
        out: torch.Tensor = self.out(self.blocks(self.digits(digits) + self.places.weight))
        return out


def main(steps: int = 100) -> float:
    """Train; returns the last loss."""
    for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, alone)  # torchrun sets them
    os.environ.setdefault("MASTER_PORT", "0")
    dist.init_process_group("gloo")
    try:
        torch.manual_seed(0)
        model = Sorter()
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in model.blocks.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        opt = GMNOptimizer(model.parameters(), total_steps=steps)

        torch.manual_seed(dist.get_rank())  # other data in every process
        for step in range(steps):
            digits = torch.randint(10, (32, 8))
            opt.zero_grad()
            scores = model(digits)
            loss = F.cross_entropy(scores.flatten(0, 1), digits.sort(1).values.flatten())
            loss.backward()
            opt.step()
            if step % 20 == 0 and dist.get_rank() == 0:
                print(f"step {step:3d}  loss {loss.item():.3f}")
        state = get_optimizer_state_dict(
            model, opt
        )  # sharded; torch.distributed.checkpoint saves it
        assert state["state"]
        return loss.item()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
