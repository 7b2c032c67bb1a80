"""All settings of a meta-training run, saved with its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gmn_opt.codec import Choice, decode, encode
from gmn_opt.meta.estimators import FullBackprop, GradientEstimator
from gmn_opt.meta.rules import AnyRuleConfig
from gmn_opt.meta.small_rule import SmallRuleConfig
from gmn_opt.optim.rule import RuleConfig

#: Raised when the meaning of a field changes, so that an old run is not resumed wrongly.
CONFIG_VERSION = 4
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
        first_horizon: longest run at the start of meta-training; it grows geometrically to
            ``horizon[1]`` over the first half. None, or at least ``horizon[1]``: no growth.
        judged_elsewhere: share of runs whose last batch, which no update reads, comes from
            ``outer_valid``: there fitting the training data alone does not pay.
        known_horizon: share of runs whose rule knows the horizon.
        last_weight: weight of the end of a run relative to any other step, see ``unroll``.
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

    meta_steps: int = 700
    seed: int = 0
    runs: int = 2
    meta_batch: int = 2
    edges_per_batch: int = 12_000
    max_networks: int = 4
    horizon: tuple[int, int] = (100, 1500)
    first_horizon: int | None = 400
    judged_elsewhere: float = 0.3
    known_horizon: float = 1.0
    last_weight: float = 100.0
    estimator: GradientEstimator = field(
        default_factory=lambda: FullBackprop(second_order=False, chunk=None)
    )
    lr: float = 2e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 10
    cooldown: float = 0.4
    run_clip: float = 0.1
    clip: float = 0.5
    ema: float = 0.98
    diverged: float = 3.0
    validate_every: int = 100
    validation_steps: int = 300
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
        if self.first_horizon is not None and self.first_horizon < 1:
            raise ValueError(
                f"first_horizon is in inner steps, or None; received {self.first_horizon}."
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
