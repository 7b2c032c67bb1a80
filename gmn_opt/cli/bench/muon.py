"""Muon for everything that is a matrix between hidden neurons, AdamW for the rest.

Jordan et al. 2024. `torch.optim.Muon` takes 2D parameters only and would leave the kernels of
convolutions to AdamW, which makes a weaker opponent. Here it gets them as matrices ``[out, in * h *
w]`` that share the kernels' memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from gmn_opt.graph import ParameterGraph

MOMENTUM = 0.95
DECAY = 0.01
REST = 0.15
"""Rate of AdamW, as a share of Muon's."""
REST_BETAS = (0.9, 0.95)


class MuonAdamW(Optimizer):
    """`torch.optim.Muon` on flattened ``matrices``, AdamW at a share of its rate on the ``rest``.

    Nesterov momentum, five Newton-Schulz steps, the update scaled by sqrt(max(1, out / in)).

    Args:
        matrices: parameters of two axes or more, contiguous.
        rest: all others.
        lr: rate of Muon.
    """

    def __init__(self, matrices: list[nn.Parameter], rest: list[nn.Parameter], lr: float) -> None:
        groups = [{"params": matrices, "lr": lr}, {"params": rest, "lr": REST * lr}]
        super().__init__([g for g in groups if g["params"]], {})
        self._pairs = [(p, nn.Parameter(p.detach().view(len(p), -1))) for p in matrices]
        self._inner: list[Optimizer] = []
        if matrices:
            flat = [f for _, f in self._pairs]
            self._inner.append(
                Muon(flat, lr=lr, momentum=MOMENTUM, weight_decay=DECAY, adjust_lr_fn="original")
            )
        if rest:
            self._inner.append(AdamW(rest, lr=REST * lr, betas=REST_BETAS, weight_decay=DECAY))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of both; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kernel, flat in self._pairs:
            flat.grad = None if kernel.grad is None else kernel.grad.reshape(flat.shape)
        for group, inner in zip(self.param_groups, self._inner, strict=True):
            inner.param_groups[0]["lr"] = group["lr"]
            inner.step()
        return loss


def hidden_matrices(graph: ParameterGraph) -> set[str]:
    """Names of the weights and kernels that lead to hidden neurons, embeddings left out.

    A tensor with several uses belongs to them if every use does: a table that is the output layer
    as well does not. Weights of input layers do, unlike in :func:`gmn_opt.optim.groups.is_hidden`.
    """
    into: dict[str, bool] = {}
    for block in graph.blocks:
        hidden = (
            block.kind in ("linear", "conv")
            and graph.groups[block.dst].role == "hidden"
            and graph.groups[block.src].role != "bias"
        )
        into[block.tensor] = into.get(block.tensor, True) and hidden
    stacked = {b.tensor for b in graph.blocks if b.kind == "linear" and len(b.shape) != 2}
    return {
        name
        for name, kept in into.items()
        if kept and name not in stacked and _is_matrix(graph.shapes[name])
    }


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[0] > 1 and torch.Size(shape[1:]).numel() > 1


def matrices_by_class(model: nn.Module) -> set[str]:
    """The same guessed from classes alone, for a model that cannot be traced.

    Weights of two axes or more, but those of embeddings, and of the last module that has one.
    """
    weights = {
        f"{name}.weight".lstrip("."): isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and module.weight.dim() > 1
    }
    last = next(reversed(weights), None)
    named = dict(model.named_parameters())
    own = {n for n, table in weights.items() if not table and n != last and n in named}
    return {n for n in own if _is_matrix(tuple(named[n].shape))}


def split(model: nn.Module, names: set[str]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters of ``names``, and all other trainable ones."""
    trained: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    matrices = [p for n, p in trained.items() if n in names]
    rest = [p for n, p in trained.items() if n not in names]
    return matrices, rest  # type: ignore[return-value]
