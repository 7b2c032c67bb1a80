"""Tasks of one's own, from the factory that the command line names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gmn_opt.cli.errors import fail
from gmn_opt.cli.locate import kind_of, locate
from gmn_opt.cli.meta_train.session import Suite
from gmn_opt.meta import Task

EXAMPLE = "gmn_opt.cli.meta_train.example:digits"
_WANTED = "a gmn_opt.meta.Task, a list of them, or a source with sample and restore"


class GivenTasks:
    """A few tasks, each as likely as the others; checkpoints know them by their names.

    Raises ValueError for no tasks, or two of one name.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.name: task for task in tasks}
        if not tasks or len(self._tasks) < len(tasks):
            names = [task.name for task in tasks]
            raise ValueError(f"Tasks need names of their own, at least one; received {names}.")
        for name, task in self._tasks.items():
            # what a checkpoint says of a task; its class need not care
            object.__setattr__(task, "spec", lambda name=name: {"task": name})

    def sample(self, generator: torch.Generator) -> Task:
        """Draw one of them."""
        names = list(self._tasks)
        return self._tasks[names[int(torch.randint(len(names), (), generator=generator))]]

    def restore(self, spec: dict[str, Any]) -> Task:
        """The task of the name in ``spec``; raises ValueError when there is none."""
        name = spec.get("task")
        if name not in self._tasks:
            raise ValueError(
                f"The checkpoint was trained on a task {name!r}; the factory gives "
                f"{', '.join(self._tasks)}. Resume with the tasks that the run began with."
            )
        return self._tasks[name]


def load_suite(where: str) -> Suite:
    """What ``package.module:factory`` or ``file.py:factory`` gives, to train and to validate on.

    The tasks validate as well, on other data and weights. A source may bring a list of tasks for
    that as its attribute ``validation``; without one, nothing is validated.
    """
    found = locate(where, EXAMPLE)
    if callable(found) and not isinstance(found, Task):
        try:
            found = found()
        except Exception as error:
            fail(f"{where} could not be called without arguments: {type(error).__name__}: {error}")
    if hasattr(found, "sample") and hasattr(found, "restore"):
        return Suite(found, list(getattr(found, "validation", ())))
    tasks = [found] if isinstance(found, Task) else found
    if not isinstance(tasks, list | tuple) or not all(isinstance(t, Task) for t in tasks):
        fail(f"{where} gave {kind_of(found)}, not {_WANTED}")
    try:
        return Suite(GivenTasks(tasks), list(tasks))
    except ValueError as error:
        fail(f"{where}: {error}")
