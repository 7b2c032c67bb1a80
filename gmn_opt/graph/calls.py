"""Calling a model and leaving no trace: what goes in, what comes out, what must not change."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a model."""
Exchange = dict[str, str]
"""Paths of modules, each to that of the sibling with which it changes places."""
CACHES = frozenset({"past_key_values", "past_key_value", "cache_params", "mems"})
"""Entries of an output that hold inner states for the next call."""
BESIDE = frozenset({"encoder_last_hidden_state", "text_model_output", "vision_model_output"})
"""Entries that a ``transformers`` output always carries along beside its result."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave random state, buffers, weights and gradients as they are; run plain ATen kernels."""
    homes = [(m, dict(m._buffers)) for m in model.modules() if m._buffers]
    tensors = [t for t in (*model.buffers(), *model.parameters()) if t.device.type != "meta"]
    saved = [(t, t._version, t.detach().clone()) for t in tensors]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    fast = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", *(p.device.type for p in model.parameters())} & {"cpu", "cuda"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            torch._C._set_mkldnn_enabled(mkldnn)
            for module, buffers in homes:
                module._buffers.update(buffers)
            with torch.no_grad():
                for tensor, version, value in saved:
                    # Kernels write running statistics without counting it as a new version.
                    if tensor._version != version or not torch.equal(tensor, value):
                        tensor.detach().copy_(value)


def is_statistic(model: nn.Module, name: str) -> bool:
    """Whether a buffer follows its channels: norm statistics, a spectral norm's vectors."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in ("_u", "_v"):
        return type(module).__name__ == "_SpectralNorm"
    return leaf in ("running_mean", "running_var") and hasattr(module, "num_features")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested sequences, mappings and objects."""
    yield from _walk(value, set(), results=False)


def results_in(output: Any) -> Iterator[Tensor]:
    """The tensors of a model's output that a symmetry has to leave as they are.

    Caches of keys, values and states are not among them; nor is what an output object of
    ``transformers`` carries beside its logits, losses or embeddings: the encoder's last state.
    """
    yield from _walk(output, set(), results=True)


def _walk(value: Any, seen: set[int], results: bool) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, (str, bytes, int, float, bool, type(None), nn.Module)):
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        skipped = _skipped(value) if results else frozenset()
        for key, item in value.items():
            if key not in skipped:
                yield from _walk(item, seen, results)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _walk(item, seen, results)
    elif hasattr(value, "__dict__"):
        yield from _walk(vars(value), seen, results)


def _skipped(output: dict[Any, Any]) -> frozenset[str]:
    hub = any(c.__name__ == "ModelOutput" for c in type(output).__mro__)
    rest = output.keys() - CACHES - BESIDE
    return CACHES | BESIDE if hub and rest else CACHES


def copy_inputs(value: Any, double: bool = False) -> Any:
    """Inputs with every tensor cloned, so that a pass that writes to them leaves no trace.

    With ``double``, on the CPU and with floating-point numbers in float64.
    """
    memo: dict[int, Any] = {}
    for tensor in tensors_in(value):
        copied = tensor.detach().clone()
        if double:
            copied = copied.cpu()
            copied = copied.double() if copied.is_floating_point() else copied
        memo[id(tensor)] = copied
    return copy.deepcopy(value, memo)
