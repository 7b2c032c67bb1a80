"""Meta-train a rule on a task of your own, and use it.

Run: python examples/meta_train_task.py

The task: fit small networks to waves of random frequency. Rule and training are small here; the
weights that ship took hundreds of outer steps over many kinds of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmn_opt import GMNOptimizer, meta
from gmn_opt.optim import RuleConfig, save_rule


@dataclass(frozen=True)
class Wave(meta.Task):
    """Learn sin(frequency * x) from 32 points."""

    frequency: float = 1.0
    name = "wave"

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(2, 1),)

    def batch(self, split: meta.Split, count: int, generator: torch.Generator) -> meta.Batch:
        x = 6 * torch.rand(count, 32, 1, generator=generator) - 3
        return {"x": x, "y": (self.frequency * x).sin()}

    def judge(self, output: Tensor, batch: meta.Batch) -> Tensor:
        return F.mse_loss(output, batch["y"])

    def spec(self) -> dict[str, float]:
        return {"frequency": self.frequency}


class Waves:
    """Draws tasks, and makes them again when a run is resumed."""

    def sample(self, generator: torch.Generator) -> Wave:
        return Wave(0.5 + 2 * float(torch.rand((), generator=generator)))

    def restore(self, spec: dict[str, float]) -> Wave:
        return Wave(**spec)


def main(meta_steps: int = 40, horizon: tuple[int, int] = (20, 60), path: str = "waves") -> float:
    """Meta-train; returns the final loss of a training by the new rule."""
    config = meta.MetaConfig(
        meta_steps=meta_steps, runs=2, horizon=horizon, rule=RuleConfig(hidden=8)
    )
    trainer = meta.MetaTrainer(Waves(), config, validation=[Wave(1.2)])
    for record in trainer.train():
        if record.step % 10 == 0:
            print(f"outer step {record.step:3d}  loss {record.loss:.3f}")
    save_rule(f"{path}.safetensors", trainer.averaged_rule(best=True))

    task, generator = Wave(1.0), torch.Generator().manual_seed(0)
    model = task.build()
    opt = GMNOptimizer(model.parameters(), total_steps=horizon[1], weights=f"{path}.safetensors")
    for _ in range(horizon[1]):
        batch = {name: values[0] for name, values in task.batch("test", 1, generator).items()}
        opt.zero_grad()
        loss = task.judge(model(batch["x"]), batch)
        loss.backward()
        opt.step()
    print(f"a training by the new rule ends at {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main()
