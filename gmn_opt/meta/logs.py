"""Records of a meta-training run, one per outer step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

from gmn_opt.meta.reports import MetaStep
from gmn_opt.weights.atomic import write_atomically


class Log(Protocol):
    """Takes records as they come."""

    def write(self, record: MetaStep) -> None:
        """Add one."""
        ...

    def flush(self) -> None:
        """Make sure that what was written survives a kill."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class JsonLog:
    """``log.jsonl``: a line of JSON per outer step.

    With ``resumed_at`` an existing file is continued, without the lines of later outer steps, which
    the checkpoint does not know, and without a last line that a kill cut off.
    """

    def __init__(self, path: Path, resumed_at: int | None = None) -> None:
        if resumed_at is not None and path.exists():
            _cut(path, resumed_at)
        self._file = path.open("w" if resumed_at is None else "a", encoding="utf-8")

    def write(self, record: MetaStep) -> None:
        """Add a line."""
        self._file.write(json.dumps(record.to_dict(), allow_nan=False) + "\n")

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def _cut(path: Path, step: int) -> None:
    def known(line: str) -> bool:
        try:
            return bool(json.loads(line)["step"] <= step)
        except (ValueError, TypeError, KeyError):
            return False

    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if known(line)]
    text = "".join(f"{line}\n" for line in lines)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


class TensorBoardLog:
    """Event files for TensorBoard; needs the package ``tensorboard``."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "TensorBoard logs need the package tensorboard, which is not installed "
                f"({error}). Install it with 'pip install tensorboard', or leave --tensorboard out;"
                " log.jsonl has the same numbers."
            ) from error
        purge = None if resumed_at is None else resumed_at + 1
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge)

    def write(self, record: MetaStep) -> None:
        """Add the scalars that are finite."""
        scalars = {
            "train/loss": record.loss,
            "train/meta_loss": record.meta_loss,
            "outer/gradient_norm": record.grad_norm,
            "outer/learning_rate": record.lr,
            "validation/score": math.nan if record.validation is None else record.validation,
        }
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, record.step)
        if record.event != "ok":
            self._writer.add_scalar(f"events/{record.event}", 1.0, record.step)

    def flush(self) -> None:
        """Hand everything to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
