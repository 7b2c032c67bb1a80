"""From the name or the file of weights to a rule."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gmn_opt import weights as files
from gmn_opt.optim.rule import LearnedRule, RuleConfig
from gmn_opt.weights.plain import reason
from gmn_opt.weights.shipped import find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KIND = "learned rule"


def save_rule(path: str | os.PathLike[str], rule: LearnedRule) -> None:
    """Write a rule's meta-parameters and sizes to a safetensors file."""
    tensors: Mapping[str, Tensor] = rule.state_dict()
    files.save(path, files.WeightSet(Path(path).stem, KIND, rule.config.to_dict(), dict(tensors)))


def load_rule(weights: str | os.PathLike[str] | LearnedRule = "default") -> LearnedRule:
    """A frozen rule in evaluation mode.

    Args:
        weights: name of shipped weights; a path of a ``.safetensors`` file, or of a
            folder that :func:`gmn_opt.hub.save_pretrained` wrote; ``"initial"`` for the
            default rule with its metanet's outputs frozen at their initial values; or a rule.

    Raises WeightsError when the file is missing, damaged, or of another version or kind.
    """
    if isinstance(weights, LearnedRule):
        return weights
    text = os.fspath(weights)
    if text == "initial":
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            rule = LearnedRule()
    else:
        path = find(weights)
        found = files.load(path, KIND)
        if "every" not in found.config:
            raise files.WeightsError(
                f"{path} holds a rule of gmn-opt 0.1, which began from Adam; this version has "
                "another rule. Use gmn-opt 0.1 with this file, or weights='default'."
            )
        try:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                rule = LearnedRule(RuleConfig(**found.config))
            rule.load_state_dict(found.tensors)
        except (TypeError, ValueError, RuntimeError) as error:
            raise files.WeightsError(
                f"{path} does not fit the learned rule of this gmn-opt: {reason(error)}"
            ) from error
    return rule.requires_grad_(False).eval()
