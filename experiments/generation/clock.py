"""Processor seconds of the parts of a run."""

from __future__ import annotations

import time
from pathlib import Path

from experiments.frame import read_json, write_json


class Clock:
    """Processor seconds of each part; with a file to keep them in, also of an earlier run."""

    def __init__(self, path: Path | None = None, resume: bool = False) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}
        if resume and path is not None and path.is_file():
            self.seconds = read_json(path)
        self.last = time.process_time()

    def lap(self, name: str, goes_on: bool = False) -> None:
        """Since the last one; what ``goes_on`` adds to what it took before."""
        now = time.process_time()
        before = self.seconds.get(name, 0.0) if goes_on else 0.0
        self.seconds[name] = before + now - self.last
        self.last = now
        if self.path is not None:
            write_json(self.path, self.rounded())

    def rounded(self) -> dict[str, float]:
        """The same to a tenth."""
        return {name: round(seconds, 1) for name, seconds in self.seconds.items()}
