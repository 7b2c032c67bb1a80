"""Parameter groups for an optimizer of matrices and AdamW, by what each parameter does.

``torch.optim.Muon`` orthogonalizes the updates of hidden matrices. It is wrong for tables,
output layers and gains, and takes nothing but 2-D tensors. Which is which is read from the graph
of the model, not from names of parameters (Jordan et al. 2024, "Muon: An optimizer for hidden
layers in neural networks", leave embeddings, the output layer and all gains and biases to AdamW).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gmn_opt.graph import trace
from gmn_opt.graph.roles import ParameterRoles, Role, roles_of

if TYPE_CHECKING:
    from torch import nn

#: Roles whose uses are products that an optimizer of matrices may orthogonalize.
HIDDEN = frozenset({Role.MATRIX})
KERNELS = HIDDEN | {Role.CONVOLUTION}
#: Roles that keep a parameter from weight decay: gains, offsets and places.
UNDECAYED = frozenset({Role.SCALE, Role.SHIFT, Role.BIAS, Role.POSITION, Role.OTHER})


class ParameterGroups(NamedTuple):
    """Groups for two optimizers, each a list of ``{"params": [(name, tensor), ...], ...}``.

    Every trainable parameter is in exactly one of them.
    """

    muon: list[dict[str, Any]]
    adamw: list[dict[str, Any]]


def parameter_roles(model: nn.Module, *inputs: Any, **kwargs: Any) -> ParameterRoles:
    """What each parameter of a model does, from one forward pass on example inputs.

    Args:
        model: Any module with parameters; it is left as it is.
        inputs: What its forward pass receives, and ``kwargs`` by keyword.

    Returns:
        A mapping from parameter name to the roles of its slices; ``str()`` of it is a table.

    Raises:
        TraceError: If the forward pass raises, or the model has no parameters.
    """
    return roles_of(trace(model, *inputs, verify=False, **kwargs))


def param_groups(
    model: nn.Module, *inputs: Any, kernels: bool = False, **kwargs: Any
) -> ParameterGroups:
    """Parameter groups for ``torch.optim.Muon`` and ``torch.optim.AdamW``.

    Matrices between hidden neurons go to the first: the projections of attentions, feed-forward
    layers, experts, routers. All else goes to the second: embeddings and tables of positions, the
    input and the output layer, kernels, gains, biases, and what is too thin to have directions.
    A parameter with several uses (a table that is the output layer as well) is a hidden matrix
    only if all of its uses are. The second list holds two groups, of which the gains, biases and
    positions have ``weight_decay`` 0.

    Args:
        model: Any module; frozen parameters are left out.
        inputs: What its forward pass receives, and ``kwargs`` by keyword.
        kernels: Also give the first optimizer convolution kernels and stacked matrices of three
            or more dims, for one that flattens them; ``torch.optim.Muon`` takes 2-D tensors only.

    Raises:
        TraceError: If the forward pass raises, or the model has no parameters.

    Example:
        >>> muon, adamw = gmn_opt.param_groups(model, x)  # doctest: +SKIP
        >>> optimizers = [torch.optim.Muon(muon), torch.optim.AdamW(adamw)]  # doctest: +SKIP
    """
    roles = parameter_roles(model, *inputs, **kwargs)
    hidden, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_hidden(roles, name, kernels):
            hidden.append((name, parameter))
        elif roles.of(name) & UNDECAYED:
            plain.append((name, parameter))
        else:
            decayed.append((name, parameter))
    groups: list[dict[str, Any]] = [{"params": decayed}] if decayed else []
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    return ParameterGroups([{"params": hidden}] if hidden else [], groups)


def is_hidden(roles: ParameterRoles, name: str, kernels: bool = False) -> bool:
    """Whether every use of every slice of a parameter is that of a hidden matrix."""
    shape = roles.shapes[name]
    if len(shape) < 2 or (len(shape) > 2 and not kernels):
        return False
    rows, columns = shape[-2:] if len(shape) == 2 else (shape[0], max(shape[1:]))
    if min(rows, columns) < 2:
        return False
    wanted = KERNELS if kernels else HIDDEN
    ends = {Role.INPUT, Role.OUTPUT}
    return all(use.roles & wanted and not use.roles & ends for part in roles[name]
               for use in part.uses)  # fmt: skip


__all__ = ["ParameterGroups", "is_hidden", "param_groups", "parameter_roles"]
