"""Aligning networks by the symmetries of their graph, and merging them."""

from gmn_opt.alignment.aligning import align, align_many, distance
from gmn_opt.alignment.merging import average, merge
from gmn_opt.alignment.path import barrier, losses_along_path, plot_paths
from gmn_opt.alignment.renewal import renormalize, repair

__all__ = [
    "align",
    "align_many",
    "average",
    "barrier",
    "distance",
    "losses_along_path",
    "merge",
    "plot_paths",
    "renormalize",
    "repair",
]
