"""The meta-training loop: many inner runs side by side, AdamW on the rule outside."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from gmn_opt.meta.config import MetaConfig
from gmn_opt.meta.estimators import GradientEstimator, Mixture
from gmn_opt.meta.progress import followed
from gmn_opt.meta.reports import MetaStep, WindowReport
from gmn_opt.meta.rules import MetaParameters, build_rule, flat_vector, named_like
from gmn_opt.meta.runs import InnerRun, restore_run, save_run, start_run
from gmn_opt.meta.small_rule import SmallRule
from gmn_opt.meta.task import Task, TaskSource
from gmn_opt.meta.validation import Validation, score
from gmn_opt.meta.world import World
from gmn_opt.optim.rule import LearnedRule

_ENDS = ("finished", "diverged", "non-finite")


class MetaTrainer:
    """Trains an update rule on the tasks of a source.

    The state is explicit and complete: after :meth:`load_state_dict` a run goes on bit by bit as
    if it had never stopped (on the same machine, number of threads and number of processes).

    With ``torch.distributed`` initialized, the open runs are shared out over its processes by their
    slots and meta-gradients are averaged; every process must then call the same methods.

    Args:
        source: draws tasks, and restores them from their specs.
        config: all settings.
        device: where the inner networks and the rule live.
        validation: tasks that compare versions of the rule, see :class:`Validation`.
        start: a rule whose meta-parameters the run begins with, in place of fresh ones.

    Raises ValueError when ``start`` is of other sizes than ``config.rule``.
    """

    def __init__(
        self,
        source: TaskSource,
        config: MetaConfig,
        device: torch.device | str = "cpu",
        validation: Sequence[Task] = (),
        start: LearnedRule | SmallRule | None = None,
    ) -> None:
        self.source, self.config, self.device = source, config, torch.device(device)
        self.world = World()
        self.rule = build_rule(config.rule, config.seed).to(self.device, config.torch_dtype)
        if start is not None:
            if start.config != config.rule:
                raise ValueError(
                    f"The rule to start from has sizes {start.config}, the configuration asks for "
                    f"{config.rule}. Set config.rule to the former, or start without."
                )
            self.rule.load_state_dict(start.state_dict())
        self.outer = torch.optim.AdamW(
            self.rule.parameters(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self._begin(0, self.rule.state_dict())
        self.validation = Validation(
            validation, config.validation_steps, config.validation_networks, device=self.device
        )
        self.inner_steps = 0
        self.counts = {**dict.fromkeys(_ENDS, 0), "skipped": 0}
        #: Every validation so far: ``step``, ``score``, and loss ratios by task.
        self.validations: list[dict[str, Any]] = []
        #: Score, outer step and averaged meta-parameters of the best validation.
        self.best: dict[str, Any] | None = None
        self.runs = {slot: self._new_run(slot, 0) for slot in self._own(range(config.runs))}

    def _own(self, slots: Sequence[int]) -> list[int]:
        """Those that this process looks after."""
        return [slot for slot in slots if slot % self.world.size == self.world.rank]

    def _new_run(self, slot: int, number: int) -> InnerRun:
        progress = self.step / max(self.config.meta_steps, 1)
        return start_run(self.source, self.config, self.rule, slot, number, progress, self.device)

    def _begin(self, step: int, average: Mapping[str, Tensor]) -> None:
        """Schedule and moving average as they are before outer step ``step`` + 1."""
        self.step = step
        for group in self.outer.param_groups:
            group["initial_lr"] = self.config.lr
        self.schedule = LambdaLR(self.outer, self._rate, last_epoch=step - 1)
        self._averaged = AveragedModel(self.rule, multi_avg_fn=self._mean)
        self._averaged.module.load_state_dict(average)
        self._averaged.n_averaged.fill_(step + 1)

    @property
    def average(self) -> MetaParameters:
        """Moving average of the meta-parameters, which is what is kept."""
        return {n: p.detach() for n, p in self._averaged.module.named_parameters()}

    def _rate(self, step: int) -> float:
        """Learning rate of an outer step, relative to the highest."""
        config = self.config
        warm = min(1.0, (step + 1) / max(config.warmup, 1))
        left = (config.meta_steps - step) / max(config.cooldown * config.meta_steps, 1)
        return warm * min(1.0, max(left, 0.0))

    def _mean(self, average: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
        """Weighs the new one more while there are few."""
        decay = min(self.config.ema, int(count) / (9 + int(count)))
        for mine, theirs in zip(average, new, strict=True):
            mine.lerp_(theirs, 1 - decay)

    def _window(self, slot: int) -> tuple[WindowReport, MetaParameters | None]:
        """Advance a run by one window: what happened, and the meta-gradient if it is finite."""
        run, config = self.runs[slot], self.config
        window = run.next_window(config.last_weight)
        started, steps = window.state.step, window.steps
        out = config.estimator.estimate(self.rule, window)
        if run.first_loss is None:
            run.first_loss = float(out.losses[0].mean())
        run.state, run.memory = out.state, out.memory
        last = float(out.losses[-1].mean())
        event = "finished" if started + steps >= run.horizon else "ok"
        if not math.isfinite(last):
            event = "non-finite"
        elif last > config.diverged * run.first_loss:
            event = "diverged"
        used = all(bool(g.isfinite().all()) for g in out.gradient.values())
        report = WindowReport(
            slot,
            run.task.name,
            started,
            run.horizon,
            run.known,
            steps,
            out.losses.shape[1],
            float(out.losses.mean()),
            float(out.meta_loss),
            event,
            used,
        )
        if event != "ok":
            self.runs[slot] = self._new_run(slot, run.number + 1)
        return report, out.gradient if used else None

    def meta_gradient(self) -> tuple[MetaParameters | None, tuple[WindowReport, ...]]:
        """Advance the runs whose turn it is; the mean of their clipped meta-gradients, and reports.

        None where no gradient was finite.
        """
        config = self.config
        turn = [(self.step * config.meta_batch + j) % config.runs for j in range(config.meta_batch)]
        own = {n: p.detach() for n, p in self.rule.named_parameters()}
        total = torch.zeros_like(flat_vector(own))
        reports = []
        for slot in self._own(turn):
            report, gradient = self._window(slot)
            reports.append(report)
            if gradient is not None:
                total = total + _clipped(flat_vector(gradient), config.run_clip)
        everyone = {r.slot: r for part in self.world.gather(reports) for r in part}
        ordered = tuple(everyone[slot] for slot in turn)
        used = sum(r.used for r in ordered)
        total = self.world.sum(total)
        return (named_like(total / used, own) if used else None), ordered

    def meta_step(self) -> MetaStep:
        """One window of each run whose turn it is, and one step of the outer optimizer."""
        gradient, reports = self.meta_gradient()
        lr, norm = float(self.schedule.get_last_lr()[0]), math.nan
        if gradient is not None:
            for name, p in self.rule.named_parameters():
                p.grad = gradient[name].clone()
            norm = float(torch.nn.utils.clip_grad_norm_(self.rule.parameters(), self.config.clip))
            if not math.isfinite(norm):
                self.outer.zero_grad()
        self.outer.step()  # without gradients, it changes nothing
        self.outer.zero_grad()
        self.schedule.step()
        if not math.isfinite(norm):
            self.counts["skipped"] += len(reports)
        else:
            self.counts["skipped"] += sum(not r.used for r in reports)
        self._averaged.update_parameters(self.rule)
        self.step += 1
        for report in reports:
            self.inner_steps += report.steps * report.networks
            if report.event != "ok":
                self.counts[report.event] += 1
        mean = 1 / len(reports)
        return MetaStep(
            self.step,
            mean * sum(r.loss for r in reports),
            mean * sum(r.meta_loss for r in reports),
            norm,
            lr,
            max((r.event for r in reports), key=("ok", *_ENDS).index),
            reports,
        )

    def train(self, progress: bool = False) -> Iterator[MetaStep]:
        """Outer steps until ``config.meta_steps`` are done; stop iterating at will.

        Every ``validate_every`` steps and after the last one the moving average is validated.

        Args:
            progress: show a bar on stderr, in the first process.
        """
        steps = self._steps()
        return followed(steps, self) if progress and self.world.rank == 0 else steps

    def _steps(self) -> Iterator[MetaStep]:
        every = self.config.validate_every
        while self.step < self.config.meta_steps:
            done = self.meta_step()
            last = self.step == self.config.meta_steps
            if self.validation.tasks and every and (self.step % every == 0 or last):
                found = self.validate()
                done = replace(done, validation=found, ratios=self.validations[-1]["ratios"])
            yield done

    def validate(self) -> float:
        """Score of the moving average now; kept in ``validations``, and in ``best`` if it is."""
        rule = self.averaged_rule().float()  # the tasks of a validation have ordinary precision
        ratios = self.validation.ratios(rule, self.world)
        found = score(ratios)
        self.validations.append({"step": self.step, "score": found, "ratios": ratios})
        if self.best is None or found < self.best["score"]:
            kept = {n: t.clone() for n, t in self.average.items()}
            self.best = {"step": self.step, "score": found, "average": kept}
        return found

    def averaged_rule(self, best: bool = False) -> LearnedRule | SmallRule:
        """The rule with averaged meta-parameters: what is validated and kept.

        With ``best`` those of the best validation; raises ValueError when there was none.
        """
        if best and self.best is None:
            raise ValueError("Nothing was validated yet, so there is no best rule.")
        rule = build_rule(self.config.rule).to(self.device, self.config.torch_dtype)
        rule.load_state_dict(self.best["average"] if best and self.best else self.average)
        return rule

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors, numbers, strings only."""
        mine = [save_run(run) for run in self.runs.values()]
        runs = [run for part in self.world.gather(mine) for run in part]
        runs.sort(key=lambda run: int(run["slot"]))
        return {
            "config": self.config.to_dict(),
            "rule": self.rule.state_dict(),
            "average": self.average,
            "outer": self.outer.state_dict(),
            "step": self.step,
            "inner_steps": self.inner_steps,
            "counts": dict(self.counts),
            "validations": copy.deepcopy(self.validations),
            "reference": dict(self.validation.reference),
            "best": self.best,
            "runs": runs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, of which nothing is shared. The configuration stays one's own.

        Raises ValueError, before anything is changed, when ``state`` is no state of a trainer, is
        of another version, or does not fit the rule, the estimator or the layout of the tasks.
        """
        keys = ["config", "rule", "average", "outer", "step", "inner_steps", "counts"]
        keys += ["validations", "reference", "best", "runs"]
        if "config" in state:  # the most telling error first: an old state lacks keys, too
            saved = MetaConfig.from_dict(state["config"])
        if missing := [k for k in keys if k not in state]:
            raise ValueError(f"This is not the state of a meta-training run: it lacks {missing}.")
        self._check_config(saved)
        own = {n: p.shape for n, p in self.rule.named_parameters()}
        for part in ("rule", "average"):
            if own != {n: t.shape for n, t in state[part].items()}:
                raise ValueError(
                    "The checkpoint's meta-parameters have other names or shapes than this "
                    "package's. Use the package that wrote it, or start a new run."
                )
        by_slot = {run["slot"]: run for run in state["runs"]}
        runs = {
            slot: restore_run(self.source, by_slot[slot], self.device)
            for slot in self._own(range(self.config.runs))
        }
        self.rule.load_state_dict(state["rule"])
        self.outer.load_state_dict(copy.deepcopy(state["outer"]))
        for group in self.outer.param_groups:
            group.update(betas=self.config.betas, weight_decay=self.config.weight_decay)
        self._begin(state["step"], state["average"])
        self.inner_steps = state["inner_steps"]
        self.counts = dict(state["counts"])
        self.validations = copy.deepcopy(state["validations"])
        self.validation.reference = dict(state["reference"])
        best = state["best"]
        self.best = None if best is None else {**best, "average": self._copied(best["average"])}
        self.runs = runs

    def _copied(self, tensors: MetaParameters) -> MetaParameters:
        return {n: t.to(self.device, copy=True) for n, t in tensors.items()}

    def _check_config(self, saved: MetaConfig) -> None:
        own = self.config
        for what, theirs, mine in (
            ("a rule of sizes", saved.rule, own.rule),
            ("runs of the estimators", _kinds(saved.estimator), _kinds(own.estimator)),
            ("open runs to the number of", saved.runs, own.runs),
            ("numbers in", saved.dtype, own.dtype),
            ("validations of steps", saved.validation_steps, own.validation_steps),
        ):
            if theirs != mine:
                raise ValueError(
                    f"The checkpoint holds {what} {theirs}, this run asks for {mine}. Resume with "
                    "the same settings or start a new run."
                )


def _clipped(vector: Tensor, largest: float) -> Tensor:
    """``vector`` with a norm of ``largest`` at most; 0 is no bound."""
    return vector * (largest / vector.norm().clamp(min=largest)) if largest > 0 else vector


def _kinds(estimator: GradientEstimator) -> list[str]:
    names = [type(estimator).__name__]
    if isinstance(estimator, Mixture):
        for part in estimator.estimators:
            names += _kinds(part)
    return names
