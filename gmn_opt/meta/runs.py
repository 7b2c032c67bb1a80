"""Inner training runs: how they begin, and how they are kept in a checkpoint."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from gmn_opt.meta.config import MetaConfig
from gmn_opt.meta.contract import check_task
from gmn_opt.meta.estimators import Memory
from gmn_opt.meta.rules import Rule
from gmn_opt.meta.task import Task, TaskSource
from gmn_opt.meta.unroll import InnerState, Window
from gmn_opt.metanet import blocked


@dataclass
class InnerRun:
    """Networks of one task in the middle of their training.

    ``slot`` says which of the open runs it is, ``number`` how many were there before it. Both and
    the seed determine everything random in it, whichever process holds it. The window that begins
    at step 0 ends after ``first_window`` steps, all others take ``window``.
    """

    slot: int
    number: int
    task: Task
    state: InnerState
    horizon: int
    known: bool
    judged_elsewhere: bool
    window: int
    first_window: int
    generator: torch.Generator
    memory: Memory = field(default_factory=dict)
    first_loss: float | None = None

    def next_window(self, last_weight: float) -> Window:
        """The window that comes now; ``last_weight`` counts at the end of a known horizon."""
        wanted = self.first_window if self.state.step == 0 else self.window
        steps = min(wanted, self.horizon - self.state.step)
        ends = self.state.step + steps >= self.horizon
        return Window(
            self.task,
            self.state,
            steps,
            self.generator,
            self.horizon if self.known else None,
            last_weight if ends and self.known else 1.0,
            math.inf if self.first_loss is None else self.first_loss,
            self.memory,
            last_split="outer_valid" if ends and self.judged_elsewhere else None,
        )


def run_seed(seed: int, slot: int, number: int) -> int:
    """A seed of its own for every run."""
    digest = hashlib.sha256(f"{seed}/{slot}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def start_run(
    source: TaskSource,
    config: MetaConfig,
    rule: Rule,
    slot: int,
    number: int,
    progress: float,
    device: torch.device,
) -> InnerRun:
    """Draw a task, a horizon, a window and fresh networks.

    Raises TaskError when the task breaks its contract.
    """
    draw = torch.Generator().manual_seed(run_seed(config.seed, slot, number))
    task = source.sample(draw)
    check_task(task)
    edges = sum(blocked(task.graph).edge_counts)
    count = max(1, min(config.max_networks, config.edges_per_batch // edges))
    u, told, judged = torch.rand(3, generator=draw).tolist()
    low, high = (math.log(h) for h in config.horizon)
    if config.first_horizon is not None:
        first = min(max(low, math.log(config.first_horizon)), high)
        high -= max(0.0, 1 - 2 * progress) * (high - first)
    horizon = round(math.exp(low + u * (high - low)))
    if number == 0:
        # the first runs end at different times, so that outer steps see all phases early
        horizon = max(config.horizon[0], horizon // 2)
    windows = config.estimator.window_lengths
    window = horizon if windows is None else windows.draw(draw, progress)
    offset = int(torch.randint(1, window + 1, (), generator=draw))
    random_offset = windows is not None and getattr(config.estimator, "random_offset", False)
    estimator = config.estimator
    state, memory = estimator.start(rule, task, estimator.network_count(count), draw)
    return InnerRun(
        slot,
        number,
        task,
        state.to(device, config.torch_dtype),
        horizon,
        told < config.known_horizon,
        judged < config.judged_elsewhere,
        window,
        offset if random_offset else window,
        draw,
        {name: t.to(device) for name, t in memory.items()},
    )


def save_run(run: InnerRun) -> dict[str, Any]:
    """Tensors (on the CPU), numbers and strings that :func:`restore_run` needs."""
    return {
        "slot": run.slot,
        "number": run.number,
        "task": run.task.spec(),
        "layout": layout_of(run.task),
        "theta": run.state.theta.cpu(),
        "moments": run.state.moments.cpu(),
        "thought": None if run.state.thought is None else run.state.thought.cpu(),
        "step": run.state.step,
        "horizon": run.horizon,
        "known": run.known,
        "judged_elsewhere": run.judged_elsewhere,
        "window": run.window,
        "first_window": run.first_window,
        "memory": {name: t.cpu() for name, t in run.memory.items()},
        "generator": run.generator.get_state(),
        "first_loss": run.first_loss,
    }


def restore_run(source: TaskSource, saved: dict[str, Any], device: torch.device) -> InnerRun:
    """The run that was saved; shares no memory with ``saved``.

    Raises ValueError when its task is unknown or orders its parameters otherwise now.
    """
    task = source.restore(saved["task"])
    if saved["layout"] != layout_of(task):
        raise ValueError(
            f"The checkpoint stores the networks of {task.name} in another order of blocks "
            "than this package. Use the package that wrote it, or start a new run."
        )
    generator = torch.Generator()
    generator.set_state(saved["generator"])
    kept = saved["thought"]
    inner = InnerState(
        saved["theta"].clone(),
        saved["moments"].clone(),
        saved["step"],
        None if kept is None else kept.clone(),
    )
    return InnerRun(
        saved["slot"],
        saved["number"],
        task,
        inner.to(device),
        saved["horizon"],
        saved["known"],
        saved["judged_elsewhere"],
        saved["window"],
        saved["first_window"],
        generator,
        {name: t.to(device, copy=True) for name, t in saved["memory"].items()},
        saved["first_loss"],
    )


def layout_of(task: Task) -> list[str]:
    """Which numbers stand where in the flat parameters of ``task``."""
    layout = blocked(task.graph)
    return [
        f"{b.block.tensor}{[list(r) for r in b.block.index]}: {b.pattern} {b.axis_sizes}"
        if not b.is_whole
        else f"{b.block.tensor}: {b.pattern} {b.axis_sizes}"
        for b in layout.blocks
    ]
