"""What can be meta-trained: update rules, and many versions of one rule at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gmn_opt.meta.seeding import seeded
from gmn_opt.meta.small_rule import SmallRule, SmallRuleConfig
from gmn_opt.optim.rule import LearnedRule, RuleConfig
from gmn_opt.optim.step import StepInputs

#: Tensors by the name of a rule's parameter.
MetaParameters = dict[str, Tensor]
#: Sizes of a rule that this package can build.
AnyRuleConfig = RuleConfig | SmallRuleConfig


class UpdateFunction(Protocol):
    """All that an unroll asks of a rule."""

    @property
    def moment_names(self) -> tuple[str, ...]:
        """What the rule accumulates, one number each per parameter: M names."""
        ...

    def flat_update(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """What to add to ``theta`` [..., P], and the next moments, ``[..., M, P]``."""
        ...


class Rule(UpdateFunction, Protocol):
    """An ``nn.Module`` that is an update function; its parameters are the meta-parameters."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Meta-parameters by name."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Meta-parameters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """The inverse of :meth:`state_dict`."""
        ...


def build_rule(config: AnyRuleConfig, seed: int = 0) -> LearnedRule | SmallRule:
    """A fresh rule of these sizes; the global random state is left alone."""
    with seeded(seed):
        return LearnedRule(config) if isinstance(config, RuleConfig) else SmallRule(config)


class _Update(nn.Module):
    """``flat_update`` as a forward pass, for ``torch.func.functional_call``."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.rule.flat_update(inputs)
        return out


class StackedRule:
    """``count`` versions of a rule, one for each network of a batch.

    Args:
        rule: the rule.
        parameters: ``{name: [count, *shape]}``, in place of the rule's own.

    A rule with a method ``stacked`` makes its own fast version; for all others ``torch.func.vmap``
    runs over the versions.
    """

    def __init__(self, rule: Rule, parameters: MetaParameters) -> None:
        stacked = getattr(rule, "stacked", None)
        self._own: UpdateFunction | None = None if stacked is None else stacked(parameters)
        assert isinstance(rule, nn.Module)
        self.moment_names = rule.moment_names
        self._module = _Update(rule)
        self._parameters = {f"rule.{name}": p for name, p in parameters.items()}

    def flat_update(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """Like a rule's, with ``theta`` and ``grad`` [count, P] and ``moments`` [count, M, P]."""
        if self._own is not None:
            return self._own.flat_update(inputs)

        def one(
            parameters: MetaParameters, theta: Tensor, grad: Tensor, moments: Tensor
        ) -> tuple[Tensor, Tensor]:
            own = replace(inputs, theta=theta, grad=grad, moments=moments)
            out: tuple[Tensor, Tensor] = functional_call(self._module, parameters, (own,))
            return out

        done: tuple[Tensor, Tensor] = vmap(one)(
            self._parameters, inputs.theta, inputs.grad, inputs.moments
        )
        return done


def flat_vector(parameters: Mapping[str, Tensor], lead: int = 0) -> Tensor:
    """Named tensors ``[*lead dims, *shape]`` as one ``[*lead dims, M]``."""
    return torch.cat([p.flatten(lead) for p in parameters.values()], -1)


def named_like(flat: Tensor, like: Mapping[str, Tensor]) -> MetaParameters:
    """The inverse of :func:`flat_vector`, for tensors shaped ``like`` behind the leading dims."""
    parts = flat.split([p.numel() for p in like.values()], -1)
    return {
        name: part.unflatten(-1, p.shape) if p.dim() else part.squeeze(-1)
        for (name, p), part in zip(like.items(), parts, strict=True)
    }
