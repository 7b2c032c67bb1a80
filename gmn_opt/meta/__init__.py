"""Meta-training: tasks, unrolled differentiation, and the loop around them."""

from gmn_opt.meta.config import MetaConfig
from gmn_opt.meta.task import Batch, Split, Task, TaskSource
from gmn_opt.meta.trainer import InnerRun, MetaStep, MetaTrainer
from gmn_opt.meta.unroll import InnerState, Unrolled, train_inner, unroll

__all__ = [
    "Batch",
    "InnerRun",
    "InnerState",
    "MetaConfig",
    "MetaStep",
    "MetaTrainer",
    "Split",
    "Task",
    "TaskSource",
    "Unrolled",
    "train_inner",
    "unroll",
]
