"""Generating networks: flow matching in weight space, and audits of what was generated."""

from gmn_opt.generate.audit import Audit, audit, nearest_images, shared_errors
from gmn_opt.generate.conditions import Conditions
from gmn_opt.generate.fitting import FlowConfig, fit_generator
from gmn_opt.generate.generator import Generator
from gmn_opt.generate.pairing import paired
from gmn_opt.generate.starts import Start, fit_from, learn_start, load_start, save_start
from gmn_opt.generate.units import Units
from gmn_opt.generate.velocity import FieldConfig, VelocityField

__all__ = [
    "Audit",
    "Conditions",
    "FieldConfig",
    "FlowConfig",
    "Generator",
    "Start",
    "Units",
    "VelocityField",
    "audit",
    "fit_from",
    "fit_generator",
    "learn_start",
    "load_start",
    "nearest_images",
    "paired",
    "save_start",
    "shared_errors",
]
