"""Meta-training: tasks, unrolled differentiation, gradient estimators, and the loop around them."""

from gmn_opt.meta.config import MetaConfig
from gmn_opt.meta.contract import TaskError, check_task
from gmn_opt.meta.estimators import (
    Estimate,
    EvolutionStrategy,
    FullBackprop,
    FullES,
    GradientEstimator,
    Mixture,
    PersistentES,
    TruncatedBackprop,
    TruncatedES,
)
from gmn_opt.meta.reports import MetaStep, WindowReport
from gmn_opt.meta.rules import StackedRule, build_rule
from gmn_opt.meta.runs import InnerRun
from gmn_opt.meta.small_rule import SmallRule, SmallRuleConfig
from gmn_opt.meta.task import Batch, Split, Task, TaskSource
from gmn_opt.meta.trainer import MetaTrainer
from gmn_opt.meta.unroll import InnerState, Unrolled, Window, train_inner, unroll
from gmn_opt.meta.validation import Validation
from gmn_opt.meta.windows import Constant, Growing, LogUniform, Uniform, Windows
from gmn_opt.meta.world import LostRankError, World

__all__ = [
    "Batch",
    "Constant",
    "Estimate",
    "EvolutionStrategy",
    "FullBackprop",
    "FullES",
    "GradientEstimator",
    "Growing",
    "InnerRun",
    "InnerState",
    "LogUniform",
    "LostRankError",
    "MetaConfig",
    "MetaStep",
    "MetaTrainer",
    "Mixture",
    "PersistentES",
    "SmallRule",
    "SmallRuleConfig",
    "Split",
    "StackedRule",
    "Task",
    "TaskError",
    "TaskSource",
    "TruncatedBackprop",
    "TruncatedES",
    "Uniform",
    "Unrolled",
    "Validation",
    "Window",
    "WindowReport",
    "Windows",
    "World",
    "build_rule",
    "check_task",
    "train_inner",
    "unroll",
]
