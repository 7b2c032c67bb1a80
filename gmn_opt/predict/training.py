"""Training of the members of a predictor: batches, early stopping, a state that can be resumed."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gmn_opt.predict.losses import Objective
from gmn_opt.predict.networks import Stack
from gmn_opt.predict.predictor import Member
from gmn_opt.predict.progress import FitProgress
from gmn_opt.weights.atomic import write_atomically
from gmn_opt.weights.digest import digest


@dataclass(frozen=True)
class Recipe:
    """How a predictor is trained; the defaults were chosen on zoos of 200 small networks.

    Attributes:
        members: Models, each with a validation set of its own, whose answers are averaged.
        epochs: At most, for each.
        rate: Peak of the learning rate; warmup and cosine.
        weight_decay: Of AdamW.
        batch: Networks per step.
        per_graph: At most so many of one architecture in a step.
        blend: Parameter of the Beta distribution by which pairs of networks are blended, in what
            is read of them and in their targets (Zhang et al. 2018, arXiv 1710.09412); 0 for none.
        patience: Epochs without a better validation loss until a member is done.
        process: Whether a Gaussian process stands beside graph metanets that predict numbers, its
            share chosen on held-out networks.
    """

    members: int = 5
    epochs: int = 30
    rate: float = 3e-3
    weight_decay: float = 1e-2
    batch: int = 48
    per_graph: int = 12
    blend: float = 0.4
    patience: int = 12
    process: bool = True


def learned_from(stacks: Sequence[Stack], targets: Tensor) -> str:
    """The digest of all numbers that are learned from."""
    known = ((*s.tensors.values(), s.places, s.covariates) for s in stacks)
    return digest([*chain.from_iterable(known), targets])


class TrainingState:
    """What training has come to, in a file after every epoch; plain values and tensors.

    ``settings`` hold the digest of what is :func:`learned_from` as ``"data"``.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], resume: bool) -> None:
        self.path, self.settings = path, settings
        self.done: list[dict[str, Any]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.current: dict[str, Any] | None = None
        if path is None or not path.exists():
            return
        if not resume:
            raise ValueError(
                f"{path} has the state of a training. Pass resume=True to go on with it, or "
                "another file."
            )
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError, OSError) as error:
            raise ValueError(f"{path} is no whole state of a training ({error}).") from error
        before = kept.get("settings") or {}
        if {**before, "data": settings["data"]} == settings != before:
            raise ValueError(
                f"{path} was begun with other networks, targets or covariates. Use the same, or "
                "another file."
            )
        if before != settings:
            raise ValueError(
                f"{path} was begun with other settings: {before}, now {settings}. "
                "Use the same, or another file."
            )
        self.done, self.weights = kept["done"], kept["weights"]
        self.current = kept["current"]

    def keep(self, current: dict[str, Any]) -> None:
        """After an epoch of a member."""
        self.current = current
        self._write()

    def finish(self, facts: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """After the last epoch of a member."""
        self.done.append(facts)
        self.weights.append(weights)
        self.current = None
        self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        content = {
            "settings": self.settings, "done": self.done, "weights": self.weights,
            "current": self.current,
        }  # fmt: skip
        write_atomically(self.path, lambda p: torch.save(content, p))


class MemberFit:
    """Training of one member. What is random in an epoch follows from its number alone."""

    def __init__(
        self,
        member: Member,
        number: int,
        goal: Objective,
        stacks: list[Stack],
        targets: Tensor,
        recipe: Recipe,
        valid: float,
        seed: int,
        minutes: float | None,
    ) -> None:
        self.member, self.number, self.goal, self.recipe = member, number, goal, recipe
        self.seed = seed
        self.budget = None if minutes is None else 60 * minutes / recipe.members
        generator = torch.Generator().manual_seed(self._seed(-1))
        order = torch.randperm(len(targets), generator=generator)
        held = torch.zeros(len(targets), dtype=torch.bool)
        held[order[: max(1, round(valid * len(targets)))]] = True
        like = next(member.parameters())
        encoded = goal.encode(targets)
        self.encoded = encoded.to(like) if encoded.is_floating_point() else encoded.to(like.device)
        self.train = [s[~held[s.places]] for s in stacks if bool((~held[s.places]).any())]
        self.valid = [s[held[s.places]] for s in stacks if bool(held[s.places].any())]
        self.prepared: list[Any] = [member.prepare(s) for s in self.train]
        self.judged: list[Any] = [member.prepare(s) for s in self.valid]
        count = int((~held).sum())
        self.steps = recipe.epochs * max(1, math.ceil(count / recipe.batch))

    def _seed(self, epoch: int) -> int:
        return (self.seed * 1_000_003 + self.number * 10_007 + epoch + 1) % (2**63 - 1)

    def run(self, state: TrainingState, bar: FitProgress) -> None:
        """Train, or take what ``state`` has of it."""
        if self.number < len(state.done):
            self.member.load_state_dict(state.weights[self.number])
            bar.skip(self.recipe.epochs)
            return
        self.member.set_statistics(self.prepared)
        optimizer = torch.optim.AdamW(
            self.member.parameters(), self.recipe.rate, weight_decay=self.recipe.weight_decay
        )
        now: dict[str, Any] = {
            "epoch": 0, "step": 0, "seconds": 0.0, "best": math.inf, "best_epoch": 0,
            "weights": None, "model": None, "optimizer": None,
        }  # fmt: skip
        if state.current is not None:
            now = state.current
            self.member.load_state_dict(now["model"])
            optimizer.load_state_dict(now["optimizer"])
            bar.skip(now["epoch"])
        while not self._over(now):
            began = time.perf_counter()
            loss = self._epoch(optimizer, now)
            found = self._validate()
            if found < now["best"] or now["weights"] is None:
                now |= {"best": found, "best_epoch": now["epoch"]}
                now["weights"] = _copy(self.member.state_dict())
            now["epoch"] += 1
            now["seconds"] += time.perf_counter() - began
            now["model"] = self.member.state_dict()
            now["optimizer"] = optimizer.state_dict()
            state.keep(now)
            bar.advance(self.number, now["epoch"], loss, found)
        bar.skip(self.recipe.epochs - now["epoch"])
        self.member.load_state_dict(now["weights"])
        state.finish(
            {
                "epochs": now["epoch"], "best_epoch": now["best_epoch"],
                "valid_loss": now["best"], "seconds": now["seconds"],
            },
            now["weights"],
        )  # fmt: skip

    @torch.no_grad()
    def held_out(self) -> tuple[Tensor, Tensor]:
        """Places of the networks that the member was not trained on, and its answers to them."""
        self.member.eval()
        out = torch.cat([self.member.answer(self.member.represent(p)) for p in self.judged])
        return torch.cat([s.places for s in self.valid]), out

    def _over(self, now: dict[str, Any]) -> bool:
        tired = now["epoch"] - now["best_epoch"] > self.recipe.patience
        late = self.budget is not None and now["seconds"] >= self.budget and now["epoch"] > 0
        return now["epoch"] >= self.recipe.epochs or tired or late

    def _rate(self, now: dict[str, Any]) -> float:
        share = min(1.0, now["step"] / self.steps)
        if self.budget is not None:
            share = max(share, min(1.0, now["seconds"] / self.budget))
        warm = min(1.0, (now["step"] + 1) / 20)
        return self.recipe.rate * warm * (1 + math.cos(math.pi * share)) / 2

    def _batches(self) -> list[list[tuple[int, Tensor]]]:
        """Pieces (stack, networks of it), at most ``batch`` networks together."""
        pieces = []
        for number, stack in enumerate(self.train):
            parts = math.ceil(len(stack) / self.recipe.per_graph)
            pieces += [(number, p) for p in torch.randperm(len(stack)).tensor_split(parts)]
        batches: list[list[tuple[int, Tensor]]] = []
        room = 0
        for place in torch.randperm(len(pieces)).tolist():
            size = len(pieces[place][1])
            if room < size:
                batches.append([])
                room = self.recipe.batch
            batches[-1].append(pieces[place])
            room -= size
        return batches

    def _epoch(self, optimizer: torch.optim.Optimizer, now: dict[str, Any]) -> float:
        self.member.train()
        losses = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed(now["epoch"]))
            for batch in self._batches():
                z = torch.cat([self.member.represent(self.prepared[i][c]) for i, c in batch])
                y = self.encoded[torch.cat([self.train[i].places[c] for i, c in batch])]
                if self.recipe.blend > 0 and self.goal.blends:
                    z, y = _blended(z, y, self.recipe.blend)
                loss = self.goal.loss(self.member.answer(z), y)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.member.parameters(), 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = self._rate(now)
                optimizer.step()
                now["step"] += 1
                losses.append(float(loss.detach()))
        return sum(losses) / len(losses)

    @torch.no_grad()
    def _validate(self) -> float:
        places, out = self.held_out()
        return float(self.goal.loss(out, self.encoded[places]))


def _blended(z: Tensor, y: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Convex combinations of random pairs of rows."""
    gammas = torch._standard_gamma(torch.full((2, len(z), 1), alpha)) + 1e-6
    share = (gammas[0] / gammas.sum(0)).to(z)
    other = torch.randperm(len(z)).to(z.device)
    return share * z + (1 - share) * z[other], share * y + (1 - share) * y[other]


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in tensors.items()}
