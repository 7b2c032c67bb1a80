"""Weights that ship with the package, and the only way in and out of weight files.

A set of weights is ``NAME.safetensors``, whose metadata says what it is and how it is built, with
``NAME.json``, its model card. Nothing is ever unpickled.
"""

from gmn_opt.weights.files import FORMAT_VERSION, WeightsError, WeightSet, load, save
from gmn_opt.weights.shipped import available, card, find, path_of

__all__ = [
    "FORMAT_VERSION",
    "WeightSet",
    "WeightsError",
    "available",
    "card",
    "find",
    "load",
    "path_of",
    "save",
]
