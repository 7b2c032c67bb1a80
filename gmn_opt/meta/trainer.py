"""The meta-training loop: many inner runs side by side, AdamW on the metanet outside."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gmn_opt.meta.config import MetaConfig
from gmn_opt.meta.seeding import seeded
from gmn_opt.meta.task import Task, TaskSource
from gmn_opt.meta.unroll import InnerState, unroll
from gmn_opt.metanet import blocked
from gmn_opt.optim.rule import LearnedRule


@dataclass
class InnerRun:
    """Networks of one task in the middle of their training."""

    task: Task
    state: InnerState
    horizon: int
    known: bool
    window: int
    generator: torch.Generator
    first_loss: float | None = None


@dataclass(frozen=True)
class MetaStep:
    """What one outer step did.

    ``loss`` is the mean inner loss over the window, ``meta_loss`` the meta-objective. ``event``
    tells how the inner run went on: ``"ok"``, ``"finished"``, ``"diverged"`` or ``"non-finite"``.
    """

    step: int
    task: str
    inner_step: int
    horizon: int
    known: bool
    loss: float
    meta_loss: float
    grad_norm: float
    lr: float
    event: str


class MetaTrainer:
    """Trains a :class:`LearnedRule` on the tasks of a source.

    The state is explicit and complete: after :meth:`load_state_dict` a run goes on bit by bit as
    if it had never stopped (on the same machine and number of threads).

    Args:
        source: draws tasks, and restores them from their specs.
        config: all settings.
        device: where the inner networks and the metanet live.
    """

    def __init__(
        self, source: TaskSource, config: MetaConfig, device: torch.device | str = "cpu"
    ) -> None:
        self.source, self.config, self.device = source, config, torch.device(device)
        with seeded(config.seed):
            self.rule = LearnedRule(config.rule).to(self.device)
        self.average = {n: p.detach().clone() for n, p in self.rule.named_parameters()}
        self.outer = torch.optim.AdamW(
            self.rule.parameters(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.inner_steps = 0
        self.counts = {"finished": 0, "diverged": 0, "non-finite": 0, "skipped": 0}
        self.runs = [self._new_run(stagger=True) for _ in range(config.runs)]

    def _new_run(self, stagger: bool = False) -> InnerRun:
        config, draw = self.config, self.generator
        task = self.source.sample(draw)
        edges = sum(blocked(task.graph).edge_counts)
        count = max(1, min(config.max_networks, config.edges_per_batch // edges))
        u, told = torch.rand(2, generator=draw).tolist()
        low, high = (math.log(h) for h in config.horizon)
        horizon = round(math.exp(low + u * (high - low)))
        window = int(
            torch.randint(config.truncation[0], config.truncation[1] + 1, (), generator=draw)
        )
        seed = int(torch.randint(2**62, (), generator=draw))
        generator = torch.Generator().manual_seed(seed)
        if stagger:
            # the first runs end at different times, so that outer steps see all phases early
            horizon = max(config.horizon[0], horizon // 2)
        state = InnerState.initial(task, count, generator).to(self.device)
        return InnerRun(task, state, horizon, told < config.known_horizon, window, generator)

    def _lr(self) -> float:
        config = self.config
        warm = min(1.0, (self.step + 1) / max(config.warmup, 1))
        left = (config.meta_steps - self.step) / max(config.cooldown * config.meta_steps, 1)
        return config.lr * warm * min(1.0, max(left, 0.0))

    def meta_step(self) -> MetaStep:
        """One window of one inner run and one step of the outer optimizer."""
        slot = self.step % len(self.runs)
        run = self.runs[slot]
        started = run.state.step
        steps = min(run.window, run.horizon - started)
        ends = started + steps >= run.horizon
        out = unroll(
            self.rule,
            run.task,
            run.state,
            steps,
            run.generator,
            run.horizon if run.known else None,
            self.config.second_order,
            last_weight=self.config.last_weight if ends and run.known else 1.0,
            largest_loss=math.inf if run.first_loss is None else run.first_loss,
        )
        lr = self._lr()
        for group in self.outer.param_groups:
            group["lr"] = lr
        self.outer.zero_grad(set_to_none=True)
        loss = float(out.losses.mean())
        norm = math.nan
        event = "ok"
        if math.isfinite(loss):
            out.meta_loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(self.rule.parameters(), self.config.clip))
        if math.isfinite(norm):
            self.outer.step()
        else:
            self.counts["skipped"] += 1
        self._update_average()

        if run.first_loss is None:
            run.first_loss = float(out.losses[0].mean())
        run.state = out.state.detach()
        last = float(out.losses[-1].mean())
        if not math.isfinite(last):
            event = "non-finite"
        elif last > self.config.diverged * run.first_loss:
            event = "diverged"
        elif ends:
            event = "finished"
        if event != "ok":
            self.counts[event] += 1
            self.runs[slot] = self._new_run()
        self.step += 1
        self.inner_steps += steps * run.state.theta.shape[0]
        return MetaStep(
            self.step,
            run.task.name,
            started,
            run.horizon,
            run.known,
            loss,
            float(out.meta_loss.detach()),
            norm,
            lr,
            event,
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, p in self.rule.named_parameters():
            self.average[name].lerp_(p, 1 - decay)

    def train(self) -> Iterator[MetaStep]:
        """Outer steps until ``config.meta_steps`` are done; stop iterating at will."""
        while self.step < self.config.meta_steps:
            yield self.meta_step()

    def averaged_rule(self) -> LearnedRule:
        """The rule with averaged meta-parameters: what is validated and kept."""
        with seeded(0):
            rule = LearnedRule(self.config.rule).to(self.device)
        rule.load_state_dict(self.average)
        return rule

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors, numbers, strings only."""
        return {
            "config": self.config.to_dict(),
            "rule": self.rule.state_dict(),
            "average": self.average,
            "outer": self.outer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "inner_steps": self.inner_steps,
            "counts": dict(self.counts),
            "runs": [
                {
                    "task": run.task.spec(),
                    "layout": _layout_of(run.task),
                    "theta": run.state.theta,
                    "moments": run.state.moments,
                    "step": run.state.step,
                    "horizon": run.horizon,
                    "known": run.known,
                    "window": run.window,
                    "generator": run.generator.get_state(),
                    "first_loss": run.first_loss,
                }
                for run in self.runs
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, of which nothing is shared. The configuration stays one's own.

        Raises ValueError, before anything is changed, when ``state`` is no state of a trainer, is
        of another version, or does not fit the sizes of the metanet or the layout of the tasks.
        """
        keys = ("config", "rule", "average", "outer", "generator", "step", "inner_steps", "counts")
        if missing := [k for k in (*keys, "runs") if k not in state]:
            raise ValueError(f"This is not the state of a meta-training run: it lacks {missing}.")
        saved = MetaConfig.from_dict(state["config"])
        if saved.rule != self.config.rule:
            raise ValueError(
                f"The checkpoint holds a metanet of sizes {saved.rule}, this run asks for "
                f"{self.config.rule}. Resume with the same sizes or start a new run."
            )
        own = {n: p.shape for n, p in self.rule.named_parameters()}
        for part in ("rule", "average"):
            if own != {n: t.shape for n, t in state[part].items()}:
                raise ValueError(
                    "The checkpoint's meta-parameters have other names or shapes than this "
                    "package's. Use the package that wrote it, or start a new run."
                )
        runs = [self._restored_run(run) for run in state["runs"]]
        self.rule.load_state_dict(state["rule"])
        self.average = {n: t.to(self.device, copy=True) for n, t in state["average"].items()}
        self.outer.load_state_dict(copy.deepcopy(state["outer"]))
        for group in self.outer.param_groups:
            group.update(betas=self.config.betas, weight_decay=self.config.weight_decay)
        self.generator.set_state(state["generator"])
        self.step, self.inner_steps = state["step"], state["inner_steps"]
        self.counts = dict(state["counts"])
        self.runs = runs

    def _restored_run(self, saved: dict[str, Any]) -> InnerRun:
        task = self.source.restore(saved["task"])
        # checkpoints of the first release have no layout
        if saved.get("layout", _layout_of(task)) != _layout_of(task):
            raise ValueError(
                f"The checkpoint stores the networks of {task.name} in another order of blocks "
                "than this package. Use the package that wrote it, or start a new run."
            )
        generator = torch.Generator()
        generator.set_state(saved["generator"])
        inner = InnerState(saved["theta"].clone(), saved["moments"].clone(), saved["step"])
        return InnerRun(
            task,
            inner.to(self.device),
            saved["horizon"],
            saved["known"],
            saved["window"],
            generator,
            saved["first_loss"],
        )


def _layout_of(task: Task) -> list[str]:
    """Which numbers stand where in the flat parameters of ``task``."""
    layout = blocked(task.graph)
    return [
        f"{b.block.tensor}{[list(r) for r in b.block.index]}: {b.pattern} {b.axis_sizes}"
        if not b.is_whole
        else f"{b.block.tensor}: {b.pattern} {b.axis_sizes}"
        for b in layout.blocks
    ]
