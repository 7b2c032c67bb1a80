"""One training run, measured."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from gmn_opt.cli.contest import Contestant
from gmn_opt.cli.demo.data import DemoData, batches
from gmn_opt.cli.demo.models import ModelSpec, seeded_model

_SMOOTHING = 0.95
_REPORTS = 40
_EVAL_BATCH = 250
_WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Settings:
    """What all runs have in common.

    Attributes:
        steps: Optimizer steps per run.
        batch_size: Images per step.
        probes: How many times the training loss is measured over the fixed slice, not counting
            the one before the first step; as many as there are steps at most.
    """

    steps: int
    batch_size: int = 128
    probes: int = 10

    @property
    def probe_steps(self) -> list[int]:
        """The steps after which the training loss is measured; the last is the final one."""
        count = min(self.probes, self.steps)
        return [round(self.steps * (i + 1) / count) for i in range(count)]


@dataclass(frozen=True)
class RunResult:
    """What one run gave.

    Attributes:
        model: Name of the model.
        contestant: Name of the contestant.
        seed: Decided the initial weights and the order of the batches.
        batch_losses: Loss on the minibatch of every step, before that step.
        probe_steps: After how many steps the training loss was measured, from 0 on.
        probe_losses: Mean cross entropy over the fixed slice of training images.
        test_accuracy: Share of the test images classified rightly, at the end.
        test_loss: Mean cross entropy over the test images, at the end.
        seconds: Wall time of making the optimizer and training, without the measuring.
        cpu_seconds: Processor time of the same.
        warnings: What was warned of during the run, each text once.
    """

    model: str
    contestant: str
    seed: int
    batch_losses: list[float]
    probe_steps: list[int]
    probe_losses: list[float]
    test_accuracy: float
    test_loss: float
    seconds: float
    cpu_seconds: float
    warnings: list[str] = field(default_factory=list)

    @property
    def final_loss(self) -> float:
        """The training loss after the last step; infinite where it is not a number."""
        last = self.probe_losses[-1]
        return last if math.isfinite(last) else math.inf


@dataclass(frozen=True)
class Progress:
    """How far a run is: its smoothed minibatch loss after a number of steps."""

    model: str
    contestant: str
    seed: int
    step: int
    loss: float


class Stopwatch:
    """Adds up wall and processor time between `start` and `stop`."""

    def __init__(self) -> None:
        """At zero, and not running."""
        self.wall = self.cpu = 0.0

    def start(self) -> None:
        """Run."""
        self._since = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Pause."""
        self.wall += time.perf_counter() - self._since[0]
        self.cpu += time.process_time() - self._since[1]


def train_run(
    spec: ModelSpec,
    contestant: Contestant,
    data: DemoData,
    seed: int,
    settings: Settings,
    report: Callable[[Progress], None] = lambda progress: None,
) -> RunResult:
    """Train a model from this seed's initial weights on this seed's batches.

    Measuring and reporting happen while the watch stands still. A few steps on a model that is
    thrown away come first, so that nobody is charged for what Python imports on first use.
    """
    model = seeded_model(spec, seed)
    watch = Stopwatch()
    probe_steps, report_steps = settings.probe_steps, _report_steps(settings.steps)
    probe_losses = [evaluate(model, *data.probe)[0]]
    losses: list[float] = []
    average = 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _warm_up(spec, contestant, data, settings)
        watch.start()
        optimizer = contestant.make_optimizer(model, settings.steps)
        stream = batches(data, settings.batch_size, settings.steps, seed)
        for step, (inputs, labels) in enumerate(stream, start=1):
            losses.append(train_step(model, optimizer, inputs, labels))
            average = _SMOOTHING * average + (1 - _SMOOTHING) * losses[-1]
            if step in report_steps or step in probe_steps:
                watch.stop()
                if step in report_steps:
                    smooth = average / (1 - _SMOOTHING**step)
                    report(Progress(spec.name, contestant.name, seed, step, smooth))
                if step in probe_steps:
                    probe_losses.append(evaluate(model, *data.probe)[0])
                watch.start()
        watch.stop()
    test_loss, test_accuracy = evaluate(model, data.test_inputs, data.test_labels)
    return RunResult(
        model=spec.name,
        contestant=contestant.name,
        seed=seed,
        batch_losses=losses,
        probe_steps=[0, *probe_steps],
        probe_losses=probe_losses,
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        seconds=watch.wall,
        cpu_seconds=watch.cpu,
        warnings=sorted({str(item.message) for item in caught}),
    )


def train_step(model: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor) -> float:
    """The ordinary step: zero, forward, backward, update. Returns the loss before the update."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross entropy and accuracy in eval mode; the model's mode is put back."""
    training = model.training
    model.eval()
    loss, correct = 0.0, 0
    for some, wanted in zip(inputs.split(_EVAL_BATCH), labels.split(_EVAL_BATCH), strict=True):
        outputs = model(some)
        loss += F.cross_entropy(outputs, wanted, reduction="sum").item()
        correct += int((outputs.argmax(-1) == wanted).sum())
    model.train(training)
    return loss / len(labels), correct / len(labels)


def _warm_up(spec: ModelSpec, contestant: Contestant, data: DemoData, settings: Settings) -> None:
    model = seeded_model(spec, 0)
    optimizer = contestant.make_optimizer(model, settings.steps)
    for inputs, labels in batches(data, settings.batch_size, _WARM_UP_STEPS, seed=0):
        train_step(model, optimizer, inputs, labels)


def _report_steps(steps: int) -> set[int]:
    count = min(_REPORTS, steps)
    return {round(steps * (i + 1) / count) for i in range(count)}
