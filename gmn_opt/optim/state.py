"""What an optimizer keeps between steps, and how it comes back from a checkpoint.

Everything stands where ``torch.optim`` has it. ``state[p]`` holds ``"step"`` (gradients that this
parameter has seen, a scalar on the CPU) and one tensor of the parameter's own shape for each of
the rule's ``moment_names``. ``param_groups`` hold ``"steps_taken"``, and in a saved state the first
one holds ``"graph"``, the graphs as a compressed string. So tools that shard, flatten or move the
state of an optimizer find nothing but tensors, numbers and a string.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gmn_opt.optim.gradients import as_real, compute_dtype
from gmn_opt.optim.sharded import placed_like, whole, zeros_placed_like

#: Raised when the same entries would mean something else.
STATE_VERSION = 2
STEP, STEPS_TAKEN, GRAPH = "step", "steps_taken", "graph"
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def fresh_state(p: Tensor, moment_names: Sequence[str]) -> dict[str, Tensor]:
    """The state of a parameter that has seen no gradient."""
    with torch.inference_mode(False):
        state = {STEP: torch.zeros((), dtype=torch.float32, device="cpu")}
        for name in moment_names:
            state[name] = zeros_placed_like(p, moment_dtype(p))
    return state


def moment_dtype(p: Tensor) -> torch.dtype:
    """Accumulators are float32, float64 for float64 parameters; complex for complex ones."""
    real = compute_dtype(p)
    return _COMPLEX[real] if p.is_complex() else real


def fits(state: Mapping[str, Any], p: Tensor, moment_names: Sequence[str]) -> bool:
    """Whether ``state`` is that of a parameter of this shape, for a rule with these moments."""
    return STEP in state and all(
        isinstance(m := state.get(name), Tensor) and m.shape == p.shape for name in moment_names
    )


def moments_of(state: Mapping[str, Any], names: Sequence[str], like: Tensor) -> list[Tensor]:
    """The moments as real tensors in the dtype and on the device of ``like``."""
    return [as_real(whole(state[name])).to(like) for name in names]


def pack_graphs(graphs: Sequence[dict[str, Any]]) -> str:
    """Graphs and the positions of their parameters as one string."""
    text = json.dumps({"version": STATE_VERSION, "graphs": graphs})
    return base64.b85encode(zlib.compress(text.encode())).decode("ascii")


def unpack_graphs(text: str) -> list[dict[str, Any]]:
    """The inverse of :func:`pack_graphs`; raises ValueError for a string that is not from there."""
    try:
        content = json.loads(zlib.decompress(base64.b85decode(text)))
        version, graphs = content["version"], content["graphs"]
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise ValueError(
            f"The graph in the saved state of the optimizer is damaged ({error}). Load a state "
            "that GMNOptimizer.state_dict() returned."
        ) from error
    if version != STATE_VERSION:
        raise ValueError(
            f"The saved state of the optimizer has version {version}, this gmn-opt reads version "
            f"{STATE_VERSION}. Use the gmn-opt that wrote it."
        )
    found: list[dict[str, Any]] = graphs
    return found


def saved_order(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Any:
    """Pairs of a key of the saved state and the parameter that it belongs to now."""
    saved = chain.from_iterable(g["params"] for g in state_dict["param_groups"])
    return zip(saved, chain.from_iterable(g["params"] for g in groups), strict=False)


def check_saved(
    state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> None:
    """Raise ValueError when a saved state is not one of ours, or of other parameters."""
    saved_groups = state_dict.get("param_groups")
    if not saved_groups or not all(STEPS_TAKEN in g for g in saved_groups):
        raise ValueError(
            "This is not the state of a GMNOptimizer of this version: its parameter groups hold no "
            f"{STEPS_TAKEN!r}. Load a state that GMNOptimizer.state_dict() returned."
        )
    for key, p in saved_order(state_dict, groups):
        state = state_dict["state"].get(key)
        if not state:
            continue
        missing = [n for n in (STEP, *names) if not isinstance(state.get(n), Tensor | float | int)]
        if missing:
            raise ValueError(
                f"This is not the state of a GMNOptimizer with this rule: parameter {key} has "
                f"{sorted(state)}, but not {missing}. Load it with the weights it was saved with."
            )
        for name in names:
            if tuple(torch.as_tensor(state[name]).shape) != tuple(p.shape):
                raise ValueError(
                    f"Parameter {key} has shape {tuple(p.shape)}, but its saved {name!r} has "
                    f"shape {tuple(torch.as_tensor(state[name]).shape)}. Build the same model."
                )


def loaded_state(saved: Mapping[str, Any], p: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """A copy of a parameter's saved state, in its own dtype, where the parameter is."""
    state: dict[str, Any] = dict(saved)
    step = torch.as_tensor(saved[STEP], dtype=torch.float32)
    state[STEP] = step.detach().to("cpu", copy=True)
    for name in names:
        state[name] = placed_like(saved[name], p).to(p.device, moment_dtype(p), copy=True)
    return state
