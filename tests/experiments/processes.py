"""``experiments.meta_train`` in processes that a test can kill.

They are forked from a server that has imported everything once, as starting Python anew takes
several times as long as the runs do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from experiments import meta_train

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.experiments.meta_training"])


def _run(arguments: list[str], said: str, environ: dict[str, str]) -> None:
    from tests.experiments.meta_training import use_two_tasks

    use_two_tasks(pytest.MonkeyPatch())
    os.environ.update(environ)
    with open(said, "w", encoding="utf-8", buffering=1) as out:
        sys.stdout = sys.stderr = out
        meta_train.app(arguments)


class Run:
    """The script with these arguments, begun; what it says goes to a file beside ``folder``."""

    def __init__(self, folder: Path, arguments: list[str], **environ: str) -> None:
        self.checkpoint = folder / "checkpoint.pt"
        self._said = folder.with_name(f"{folder.name}-{time.monotonic_ns()}.txt")
        arguments = [*arguments, "--out", str(folder)]
        self._process = _SERVER.Process(target=_run, args=(arguments, str(self._said), environ))
        self._process.start()

    def wait_for_a_new_checkpoint(self) -> None:
        """Fails if the process ends without one."""
        before = self._written()
        while self._written() == before:
            assert self._process.is_alive(), self._said.read_text("utf-8")
            time.sleep(0.002)

    def _written(self) -> int:
        return self.checkpoint.stat().st_mtime_ns if self.checkpoint.exists() else 0

    def send(self, number: signal.Signals) -> None:
        """A signal to the process."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def end(self, timeout: float = 500.0) -> tuple[int | None, str]:
        """Exit code and what was said."""
        self._process.join(timeout)
        return self._process.exitcode, self._said.read_text("utf-8")
