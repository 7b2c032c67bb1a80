"""All settings of a meta-training run, saved beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gmn_opt.optim.rule import RuleConfig

#: Raised when the meaning of a field changes, so that an old run is not resumed wrongly.
CONFIG_VERSION = 1


@dataclass(frozen=True)
class MetaConfig:
    """Settings of :class:`gmn_opt.meta.MetaTrainer`.

    Attributes:
        meta_steps: outer steps of the whole run (the learning rate schedule spans them).
        seed: of everything random.
        runs: inner training runs that stand open side by side; outer steps visit them in turn.
        edges_per_batch: networks per run are chosen so that all have about this many parameters.
        max_networks: upper bound of networks per run.
        truncation: (shortest, longest) window in inner steps, drawn for every run.
        horizon: (shortest, longest) run in inner steps, drawn log-uniformly.
        known_horizon: share of runs whose rule is told the horizon.
        last_weight: weight of the last step of a run with known horizon, see ``unroll``.
        lr, weight_decay, betas: of the outer AdamW.
        warmup: outer steps of linear warmup.
        cooldown: share of outer steps over which the learning rate falls linearly to 0.
        clip: largest norm of the meta-gradient.
        ema: decay of the moving average of the meta-parameters, which is what is kept.
        second_order: whether meta-gradients hold second-order terms.
        diverged: a run ends early when its mean loss exceeds this many times its first loss.
        rule: sizes of the metanet.
    """

    meta_steps: int = 2500
    seed: int = 0
    runs: int = 8
    edges_per_batch: int = 30_000
    max_networks: int = 6
    truncation: tuple[int, int] = (16, 36)
    horizon: tuple[int, int] = (40, 1200)
    known_horizon: float = 0.5
    last_weight: float = 4.0
    lr: float = 2e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 50
    cooldown: float = 0.4
    clip: float = 0.5
    ema: float = 0.99
    second_order: bool = False
    diverged: float = 3.0
    rule: RuleConfig = field(default_factory=RuleConfig)

    def __post_init__(self) -> None:
        for name in ("truncation", "horizon"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(
                    f"{name} is (shortest, longest) in inner steps, both at least 1; received "
                    f"{(low, high)}."
                )
        if min(self.runs, self.max_networks) < 1:
            raise ValueError(
                "A run needs at least one network, received "
                f"runs={self.runs}, max_networks={self.max_networks}."
            )

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the version of the format."""
        return {"version": CONFIG_VERSION, **asdict(self)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> MetaConfig:
        """The inverse of :meth:`to_dict`; raises ValueError for another version or unknown keys."""
        version = values.get("version")
        if version != CONFIG_VERSION:
            raise ValueError(
                f"This configuration has version {version}, this package reads version "
                f"{CONFIG_VERSION}. Start a new run, or use the package that wrote it."
            )
        known = {f.name for f in fields(MetaConfig)}
        given = {k: v for k, v in values.items() if k != "version"}
        if unknown := sorted(set(given) - known):
            raise ValueError(f"Unknown settings {unknown}; known ones are {sorted(known)}.")
        for name in ("truncation", "horizon", "betas"):
            if name in given:
                given[name] = tuple(given[name])
        if isinstance(given.get("rule"), dict):
            sizes = {f.name for f in fields(RuleConfig)}
            if unknown := sorted(set(given["rule"]) - sizes):
                raise ValueError(f"Unknown sizes {unknown} of the rule; known: {sorted(sizes)}.")
            given["rule"] = RuleConfig(**given["rule"])
        return MetaConfig(**given)
