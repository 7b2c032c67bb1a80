"""Training runs of many networks at once, and meta-losses that reach through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gmn_opt.meta.contract import check_task
from gmn_opt.meta.gradients import FlatGradients, flat_gradients
from gmn_opt.meta.seeding import seeded
from gmn_opt.meta.task import Batch, Split, Task
from gmn_opt.metanet import blocked
from gmn_opt.optim.directions import MOMENTS
from gmn_opt.optim.step import StepInputs

if TYPE_CHECKING:
    from gmn_opt.meta.rules import UpdateFunction

#: Losses below this count alike: a network that fits its data perfectly has nothing to teach.
_SMALLEST_LOSS = 5e-4
#: The end of a run is its last 1 / _TAIL.
_TAIL = 20
#: What an estimator remembers of a run from window to window, beyond its networks.
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class InnerState:
    """``count`` networks in training: parameters ``[count, P]`` and moments ``[count, M, P]``.

    Both are flat, in the block order of the task's graph. ``step`` updates were made so far;
    ``thought`` [count, T] is what the rule keeps for the next one, if it keeps anything.
    """

    theta: Tensor
    moments: Tensor
    step: int = 0
    thought: Tensor | None = None

    @staticmethod
    def initial(
        task: Task, count: int, generator: torch.Generator, moment_names: Sequence[str] = MOMENTS
    ) -> InnerState:
        """Fresh networks before the first step of a rule with these moments.

        Raises TaskError when the task breaks its contract.
        """
        check_task(task)
        theta = blocked(task.graph).flatten(task.initial_params(count, generator))
        return InnerState(theta, theta.new_zeros(count, len(moment_names), theta.shape[-1]))

    @staticmethod
    def join(states: Sequence[InnerState]) -> InnerState:
        """The networks of all ``states``, which stand at the same step, one after the other."""
        pairs = [(s.theta, s.moments) for s in states]
        theta, moments = (torch.cat(t) for t in zip(*pairs, strict=True))
        thoughts = [s.thought for s in states if s.thought is not None]
        return InnerState(theta, moments, states[0].step, torch.cat(thoughts) if thoughts else None)

    def split(self, counts: Sequence[int]) -> list[InnerState]:
        """The inverse of :meth:`join`."""
        sizes = list(counts)
        thoughts: Sequence[Tensor | None] = [None] * len(sizes)
        if self.thought is not None:
            thoughts = self.thought.split(sizes)
        parts = zip(self.theta.split(sizes), self.moments.split(sizes), thoughts, strict=True)
        return [InnerState(theta, moments, self.step, kept) for theta, moments, kept in parts]

    def detach(self) -> InnerState:
        """Cut the graph of differentiation, so that what lies behind is freed."""
        return self._each(Tensor.detach)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> InnerState:
        """On another device, in another precision."""
        return self._each(lambda t: t.to(device, dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> InnerState:
        kept = None if self.thought is None else change(self.thought)
        return InnerState(change(self.theta), change(self.moments), self.step, kept)


@dataclass(frozen=True)
class Window:
    """A stretch of an inner run, and how it is judged.

    Attributes:
        task: what is trained.
        state: where the window starts.
        steps: its length.
        generator: of the run; all that is random in the window is drawn from it.
        horizon: the length of the run, if the rule knows it.
        last_weight: weight of the last step relative to the others.
        largest_loss: a loss above it (that of the untrained network, say) does not lower the
            weight of its network any further, see :func:`unroll`.
        memory: what the estimator gave back after the run's window before.
        split: where batches are drawn from.
        last_split: where the last one is drawn from, which no update reads; None for the same.
    """

    task: Task
    state: InnerState
    steps: int
    generator: torch.Generator
    horizon: int | None = None
    last_weight: float = 1.0
    largest_loss: float = math.inf
    memory: Memory = field(default_factory=dict)
    split: Split = "inner_train"
    last_split: Split | None = None


@dataclass(frozen=True)
class Unrolled:
    """One window of a run.

    meta_loss: differentiable scalar; losses: detached ``[steps + 1, count]``, before every step
    and after the last; state: where the window ended, not yet detached.
    """

    meta_loss: Tensor
    losses: Tensor
    state: InnerState


def _own_randomness(generator: torch.Generator, state: InnerState) -> AbstractContextManager[None]:
    """Random draws inside a network (dropout) that depend on the run and its step alone."""
    return seeded((generator.initial_seed() + state.step) % 2**63, state.theta.device)


def step_weights(steps: int, last_weight: float, like: Tensor) -> Tensor:
    """``[steps]``: the part of each step in the meta-loss.

    The last twentieth of the steps, at least one, shares the weight ``last_weight``: the loss of a
    single batch is a noisy judge of a whole run.
    """
    weights = torch.ones(steps, device=like.device, dtype=like.dtype)
    count = max(1, steps // _TAIL)
    weights[-count:] = max(last_weight / count, 1.0) if count > 1 else last_weight
    return weights / weights.sum()


def relative_scale(losses: Tensor, weights: Tensor, largest: float = math.inf) -> Tensor:
    """1 / the loss that a network is judged by, ``[steps + 1, count]`` to ``[count]``.

    That is the mean over the steps by their ``weights`` [steps]: times the scale it has the
    gradient of its logarithm. A loss above ``largest`` does not lower the scale any further.
    """
    judged = (losses[1:] * weights[:, None]).sum(0)
    return 1.0 / judged.clamp(_SMALLEST_LOSS, max(largest, _SMALLEST_LOSS))


class _Batches:
    """Fresh batches of a run, on its device.

    With ``copies`` > 1 the networks ``i``, ``i + count / copies``, ... see the same data.
    """

    def __init__(self, window: Window, copies: int) -> None:
        count, task = window.state.theta.shape[0], window.task
        if count % copies:
            raise ValueError(f"{count} networks cannot share their data {copies} by {copies}.")
        self._draw = lambda split: task.batch(split, count // copies, window.generator)
        self._copies, self._device = copies, window.state.theta.device
        self._split, self._last = window.split, window.state.step + window.steps - 1
        self._last_split = window.last_split or window.split

    def __call__(self, step: int) -> Batch:
        """The batch that judges update number ``step``."""
        drawn = self._draw(self._last_split if step == self._last else self._split)
        batch = {name: t.to(self._device) for name, t in drawn.items()}
        if self._copies == 1:
            return batch
        return {name: torch.cat([t] * self._copies) for name, t in batch.items()}


@dataclass(frozen=True)
class _Steps:
    """Updates of the networks of a window, each judged on the batch of the next gradient."""

    rule: UpdateFunction
    window: Window
    gradients: FlatGradients
    second_order: bool

    def evaluate(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Gradients and losses; to first order, losses with the gradients as constants."""
        if self.second_order:
            return self.gradients(theta, batch)
        with torch.no_grad():
            grad, value = self.gradients(theta, batch)
        if not theta.requires_grad:
            return grad, value
        return grad, value + (grad * (theta - theta.detach())).sum(-1)

    def stretch(
        self,
        first: int,
        batches: Iterable[Batch],
        theta: Tensor,
        moments: Tensor,
        thought: Tensor | None,
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """One update for each batch, from number ``first`` on; the losses stacked at the end."""
        values = []
        graph, horizon = self.window.task.graph, self.window.horizon
        for i, batch in enumerate(batches, first):
            delta, moments, thought = self.rule.flat_update(
                StepInputs(graph, theta, grad, moments, i, horizon, not self.second_order, thought)
            )
            theta = theta + delta
            grad, value = self.evaluate(theta, batch)
            values.append(value)
        return theta, moments, thought, grad, torch.stack(values)


def unroll(
    rule: UpdateFunction,
    window: Window,
    second_order: bool = False,
    chunk: int | None = None,
    copies: int = 1,
) -> Unrolled:
    """Train through ``window`` with ``rule`` and judge every step on a fresh batch.

    A network is judged by the mean over steps 1..steps, by their weights, of the loss on the batch
    that the next gradient is taken from (a fresh one, so no extra forward pass is needed). The
    meta-loss is the mean over networks of the logarithm of that, which goes on along its tangent
    above the window's ``largest_loss`` (a run gone wrong counts in full) and below 0.0005.

    With ``second_order`` the meta-gradient is exact. Without, gradients and accumulators count as
    constants: d meta-loss / d theta_t is then the gradient that was computed anyway, which makes a
    window several times cheaper (first-order truncated backpropagation; Andrychowicz et al. 2016
    drop the same terms).

    With ``chunk`` only the states between stretches of that many steps are kept for the backward
    pass, which computes each stretch again (activation checkpointing; Chen et al. 2016): the same
    numbers in less memory, for one more forward pass.

    With ``copies`` > 1 networks ``i``, ``i + count / copies``, ... see the same batches.
    """
    state, steps = window.state, window.steps
    if steps < 1:
        raise ValueError(f"An unroll needs at least one step, received steps={steps}.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"A chunk needs at least one step, received chunk={chunk}.")
    run = _Steps(rule, window, flat_gradients(window.task, second_order), second_order)
    with _own_randomness(window.generator, state):
        losses, end = _train(run, _Batches(window, copies), chunk)
    detached = losses.detach()
    weights = step_weights(steps, window.last_weight, losses)
    scale = relative_scale(detached, weights, window.largest_loss)
    judged = (losses[1:] * weights[:, None]).sum(0)
    return Unrolled((judged * scale - 1 - scale.log()).mean(), detached, end)


def _train(run: _Steps, fresh: _Batches, chunk: int | None) -> tuple[Tensor, InnerState]:
    """Losses ``[steps + 1, count]`` and the state at the end; see :func:`unroll`."""
    state, steps = run.window.state, run.window.steps
    theta, moments, thought = state.theta, state.moments, state.thought
    first_batch = fresh(state.step - 1)
    if chunk is not None:
        # torch.func does not work under the hooks of a checkpoint; recorded operators do
        run.gradients.trace(theta, first_batch)
    grad, value = run.evaluate(theta, first_batch)
    losses = [value.unsqueeze(0)]
    size = steps if chunk is None else chunk
    for start in range(0, steps, size):
        count = min(size, steps - start)
        first = state.step + start
        if chunk is None:
            drawn = (fresh(first + i) for i in range(count))
            theta, moments, thought, grad, values = run.stretch(
                first, drawn, theta, moments, thought, grad
            )
        else:
            kept = [fresh(first + i) for i in range(count)]  # drawn once, read twice
            theta, moments, thought, grad, values = checkpoint(
                partial(run.stretch, first, kept),
                *(theta, moments, thought, grad),
                use_reentrant=False,
            )
        losses.append(values)
    return torch.cat(losses), InnerState(theta, moments, state.step + steps, thought)


@torch.no_grad()
def train_inner(
    rule: UpdateFunction,
    task: Task,
    steps: int,
    count: int,
    seed: int,
    horizon: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[InnerState, Tensor]:
    """A whole run without meta-gradients: the final state and losses ``[steps, count]``.

    Raises ValueError when there is nothing to do.
    """
    if min(steps, count) < 1:
        raise ValueError(
            f"A run needs a step and a network, received steps={steps}, count={count}."
        )
    generator = torch.Generator().manual_seed(seed)
    state = InnerState.initial(task, count, generator, rule.moment_names).to(device)
    gradients = flat_gradients(task)
    losses = []
    with _own_randomness(generator, state):
        for step in range(steps):
            fresh = task.batch("inner_train", count, generator)
            grad, value = gradients(state.theta, {n: t.to(device) for n, t in fresh.items()})
            losses.append(value)
            delta, moments, thought = rule.flat_update(
                StepInputs(
                    *(task.graph, state.theta, grad, state.moments, step, horizon),
                    thought=state.thought,
                )
            )
            state = InnerState(state.theta + delta, moments, step + 1, thought)
    return state, torch.stack(losses)
