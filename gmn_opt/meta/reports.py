"""What a meta-training run says of every outer step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class WindowReport:
    """What one window of one run did.

    ``loss`` is the mean inner loss over the window, ``meta_loss`` the meta-objective. ``event``
    tells how the run went on: ``"ok"``, ``"finished"``, ``"diverged"`` or ``"non-finite"``.
    ``used`` is False where the meta-gradient was not finite and so left out.
    """

    slot: int
    task: str
    inner_step: int
    horizon: int
    known: bool
    steps: int
    networks: int
    loss: float
    meta_loss: float
    event: str
    used: bool


@dataclass(frozen=True)
class MetaStep:
    """What one outer step did: the means over its windows, and the windows themselves.

    ``event`` is the worst of the windows' events; ``grad_norm`` is NaN where no window gave a
    finite meta-gradient; ``validation`` is the score of the moving average and ``ratios`` what it
    is made of, by task, where they were measured.
    """

    step: int
    loss: float
    meta_loss: float
    grad_norm: float
    lr: float
    event: str
    windows: tuple[WindowReport, ...]
    validation: float | None = None
    ratios: dict[str, float] | None = None

    @property
    def task(self) -> str:
        """Names of the tasks."""
        return ", ".join(w.task for w in self.windows)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: no NaN, and the first window's facts on the top level."""
        values = {**asdict(self.windows[0]), **asdict(self)}
        values.pop("windows")
        if len(self.windows) > 1:
            values["windows"] = [asdict(w) for w in self.windows]
        for name in ("validation", "ratios"):
            if values[name] is None:
                values.pop(name)
        made: dict[str, Any] = _finite(values)
        return made


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
