"""From a spec back to its task."""

from __future__ import annotations

from typing import Any

from gmn_opt.codec import Choice
from tasks.autoencoding import ImageAutoencoding
from tasks.base import DataTask
from tasks.classification import ImageClassification, PatchClassification
from tasks.inr_fitting import InrFitting
from tasks.language import SourceCode
from tasks.rescaled import RescaledTask
from tasks.synthetic import Rosenbrock, TeacherStudent
from tasks.tabular import Tabular

FAMILIES: dict[str, type[DataTask]] = {
    c.family: c
    for c in (
        ImageClassification,
        PatchClassification,
        ImageAutoencoding,
        InrFitting,
        SourceCode,
        Tabular,
        TeacherStudent,
        Rosenbrock,
    )
}
_CHOICE = Choice(DataTask, "task", "task", FAMILIES)


def restore(spec: dict[str, Any]) -> DataTask:
    """The task that ``spec`` describes; raises ValueError when there is none like it."""
    try:
        if spec.get("task") == RescaledTask.family:
            return RescaledTask(restore(spec["of"]), tuple(spec["scales"]))
        made: DataTask = _CHOICE.decode(spec)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{spec} does not describe a task of this suite ({error}). Use the version that "
            "wrote it."
        ) from error
    return made
