"""All settings of a meta-training run, saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gmn_opt.codec import Choice, decode, encode
from gmn_opt.meta.estimators import GradientEstimator, TruncatedBackprop
from gmn_opt.meta.rules import AnyRuleConfig
from gmn_opt.meta.small_rule import SmallRuleConfig
from gmn_opt.optim.rule import RuleConfig

#: Raised when the meaning of a field changes, so that an old run is not resumed wrongly.
CONFIG_VERSION = 3
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
Choice(AnyRuleConfig, "kind", "rule", {"learned": RuleConfig, "small": SmallRuleConfig})


@dataclass(frozen=True)
class MetaConfig:
    """Settings of :class:`gmn_opt.meta.MetaTrainer`.

    Attributes:
        meta_steps: outer steps of the whole run (the learning rate schedule spans them).
        seed: of everything random.
        runs: inner training runs that stand open side by side; outer steps visit them in turn.
        meta_batch: runs that one outer step visits; their meta-gradients are averaged.
        edges_per_batch: networks per run are chosen so that all have about this many parameters.
        max_networks: upper bound of networks per run.
        horizon: (shortest, longest) run in inner steps, drawn log-uniformly.
        known_horizon: share of runs whose rule is told the horizon.
        last_weight: weight of the last step of a run with known horizon, see ``unroll``.
        estimator: how meta-gradients are estimated, with its windows.
        lr, weight_decay, betas: of the outer AdamW.
        warmup: outer steps of linear warmup.
        cooldown: share of outer steps over which the learning rate falls linearly to 0.
        run_clip: largest norm of the meta-gradient of a single run, 0 for none. Norms differ by
            orders of magnitude between families of tasks and between phases of a run; at about
            their median, no family and no rare, steep window rules the mean.
        clip: largest norm of the meta-gradient, after averaging.
        ema: decay of the moving average of the meta-parameters, which is what is kept.
        diverged: a run ends early when its mean loss exceeds this many times its first loss.
        validate_every: outer steps between validations; 0 for none.
        validation_steps, validation_networks: of every validation task.
        dtype: of networks and meta-parameters, "float32" or "float64".
        rule: what is meta-trained, and its sizes.
    """

    meta_steps: int = 4000
    seed: int = 0
    runs: int = 12
    meta_batch: int = 1
    edges_per_batch: int = 30_000
    max_networks: int = 6
    horizon: tuple[int, int] = (40, 2000)
    known_horizon: float = 0.5
    last_weight: float = 4.0
    estimator: GradientEstimator = field(default_factory=TruncatedBackprop)
    lr: float = 2e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 50
    cooldown: float = 0.4
    run_clip: float = 0.03
    clip: float = 0.5
    ema: float = 0.995
    diverged: float = 3.0
    validate_every: int = 250
    validation_steps: int = 100
    validation_networks: int = 2
    dtype: str = "float32"
    rule: AnyRuleConfig = field(default_factory=RuleConfig)

    def __post_init__(self) -> None:
        low, high = self.horizon
        if not 1 <= low <= high:
            raise ValueError(
                "horizon is (shortest, longest) in inner steps, both at least 1; received "
                f"{(low, high)}."
            )
        if min(self.runs, self.max_networks) < 1:
            raise ValueError(
                "A run needs at least one network, received "
                f"runs={self.runs}, max_networks={self.max_networks}."
            )
        if not 1 <= self.meta_batch <= self.runs:
            raise ValueError(
                f"An outer step visits between 1 and all {self.runs} runs, received "
                f"meta_batch={self.meta_batch}. Raise runs, or lower meta_batch."
            )
        if min(self.validation_steps, self.validation_networks) < 1 or self.validate_every < 0:
            raise ValueError(
                "A validation needs a step and a network, received "
                f"validate_every={self.validate_every}, validation_steps={self.validation_steps}, "
                f"validation_networks={self.validation_networks}."
            )
        if self.run_clip < 0:
            raise ValueError(
                "run_clip is the largest norm of a run's meta-gradient, or 0 for no bound; "
                f"received {self.run_clip}."
            )
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype is one of {sorted(_DTYPES)}, received {self.dtype!r}.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """What ``dtype`` names."""
        return _DTYPES[self.dtype]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the version of the format."""
        return {"version": CONFIG_VERSION, **encode(self)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> MetaConfig:
        """The inverse of :meth:`to_dict`; raises ValueError for another version or unknown keys."""
        version = values.get("version")
        if version != CONFIG_VERSION:
            raise ValueError(
                f"This configuration has version {version}, this package reads version "
                f"{CONFIG_VERSION}. Start a new run, or use the package that wrote it."
            )
        rule = values.get("rule")
        if isinstance(rule, dict):  # the first records do not say the kind
            values = {**values, "rule": {"kind": "learned", **rule}}
        made: MetaConfig = decode(MetaConfig, {k: v for k, v in values.items() if k != "version"})
        return made
