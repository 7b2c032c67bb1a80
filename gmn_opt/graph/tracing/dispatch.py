"""Follow forward passes operator by operator.

A ``TorchDispatchMode`` sees each ATen operator of a pass with real tensors. The rules in
``gmn_opt.graph.tracing.rules`` say how an operator relates the axes of its inputs and outputs; an
operator without a rule is pointwise if ATen tags it so, and otherwise has all its axes fixed.
Nothing is assumed about the modules of the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.flow import Flow, Op
from gmn_opt.graph.tracing.labels import Label
from gmn_opt.graph.tracing.operators import (
    ALIKE,
    DROPS,
    FACTORIES,
    KEEPS_UNIFORM,
    NOT_POINTWISE,
    POINTWISE,
    RANDOM,
)
from gmn_opt.graph.tracing.rules import RULES, NoRuleError
from gmn_opt.graph.tracing.tracer import Hints, Tracer

NESTED = "nested tensors cannot be traced. Pass padded tensors with a mask."


class Dispatch(Tracer, TorchDispatchMode):
    """The dispatch mode that labels tensors."""

    supports_higher_order_operators = True

    def __init__(self, hints: Hints) -> None:
        super().__init__(hints)
        self.constants: dict[int, int] = {}
        self.flow = Flow(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the first trace of a process the import of the compiler, over a second."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.silent:
            return func(*args, **kwargs)
        was_busy, self.busy = self.busy, True
        try:
            return self._dispatch(func, args, kwargs)
        finally:
            self.busy = was_busy

    def _higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator that takes functions: what happens inside of these is not followed."""
        inputs = [*_tensors(args), *_tensors(kwargs)]
        for value in args:
            if isinstance(value, nn.Module):
                inputs += [*value.parameters(), *value.buffers()]
        out = func(*args, **kwargs)
        self._give_up(f"{func} has no rule", list(_tensors(out)), inputs)
        self.note_versions(inputs, list(_tensors(out)), True)
        return out

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        name = func._schema.name.split("::")[-1]
        composite = func.namespace == "aten" and func._can_decompose()
        if composite and name not in RULES and not is_pointwise(func, name):
            with self:
                composed = func.decompose(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        if name == "as_strided_":
            self.before = args[0].stride(), args[0].storage_offset()
        inputs = [*_tensors(args), *_tensors(kwargs)]
        self.check_versions(inputs)
        out = func(*args, **kwargs)
        if any(t.is_nested for t in _tensors(out)):
            raise NotImplementedError(NESTED)
        self.op = name
        self.op_count += 1
        known = len(self.record.uses)
        writes = func._schema.is_mutable
        outputs = list(_tensors(out))
        before = [self.labels.get(id(t)) if writes else None for t in inputs]
        self._follow(func, name, out, args, kwargs)
        labels = [b or self.labels.get(id(t)) for b, t in zip(before, inputs, strict=True)]
        uses = range(known, len(self.record.uses))
        with suppress(ArithmeticError, LookupError, TypeError, ValueError):
            # Roles are less than symmetries: an unforeseen form of an operator tells none.
            self.flow.follow(Op(name, args, kwargs, inputs, outputs, labels, uses), writes)
        if self.buffers:
            near = [r for t in outputs for r in self.relatives(t)] if writes else ()
            self.buffer_uses.follow(name, inputs, outputs, near)
        self.note_versions(inputs, outputs, writes)
        return out

    def _follow(self, func: Any, name: str, out: Any, args: Any, kwargs: Any) -> None:
        inputs, outputs = [*_tensors(args), *_tensors(kwargs)], list(_tensors(out))
        if not outputs:
            for tensor in inputs:
                self.leak(tensor, name)
            return
        self.work += sum(t.numel() for t in outputs)
        self._note_mutation(func, args, kwargs)
        if name == "lift_fresh":  # a tensor made of numbers
            self.add_constants(inputs)
        if name == "set_":
            self._exchanged(outputs[0])
            return
        if name in FACTORIES:
            for tensor in outputs:
                self._constant(tensor)
            return
        if name in RANDOM:
            self._noise(name, outputs, inputs, self._seeded(args, kwargs))
            return
        if name in DROPS and self._seeded(args, kwargs):
            self._give_up(f"{name} draws the same numbers in every pass", outputs, inputs)
            return
        keeps = name in KEEPS_UNIFORM or is_pointwise(func, name)
        if keeps and inputs and all(self._is_uniform(t) for t in inputs):
            for tensor in outputs:
                self._constant(tensor)
            return
        try:
            handler = RULES.get(name) or (RULES.get(name[:-1]) if name.endswith("_") else None)
            if handler is not None:
                made = handler(self, out, *args, **kwargs)
            elif is_pointwise(func, name):
                labels = [self.label(t) for t in inputs]
                made = self.pointwise(name, outputs, labels)
            else:
                raise NoRuleError(f"{func.namespace}::{name} has no rule")
            self._attach(outputs, made, inputs, reshapes=torch.Tag.inplace_view in func.tags)
        except NoRuleError as error:
            self._give_up(str(error), outputs, inputs)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # A form of the operator that its rule did not foresee must not stop the trace.
            self._give_up(f"{name}: {type(error).__name__} in its rule", outputs, inputs)

    def _attach(
        self, outputs: list[Tensor], made: Any, inputs: list[Tensor], reshapes: bool
    ) -> None:
        if callable(made):
            self.deferred[id(outputs[0])] = made, inputs, tuple(outputs[0].shape)
            self.kept.append(outputs[0])
            return
        found = [made] if isinstance(made, Label) else list(made)
        if len(found) < len(outputs):
            raise NoRuleError(f"{self.op}: more outputs than its rule labels")
        known = {id(t) for t in inputs}
        for tensor, label in zip(outputs, found, strict=False):
            if not label.uniform:
                sizes = tuple(lab.axis_size(a) for a in label.axes)
                if sizes != tuple(tensor.shape):
                    raise NoRuleError(f"{self.op}: an unforeseen output shape")
                self.see(label.axes)
            if id(tensor) in known and id(tensor) in self.labels and not reshapes:
                old = self.label(tensor)
                for a, b in zip(old.axes, label.axes, strict=True):
                    self.unify(a, b)
                if old.kind == "activation" and label.kind == "parameter":
                    label = self.materialize(label)
                self._hand_on(tensor, label)
            self.set(tensor, label)

    def _hand_on(self, written: Tensor, label: Label) -> None:
        """Tell the tensors that share a written tensor's memory which sites it now comes from."""
        known = {g.set: g for a in label.axes for g in lab.expand_axis(a) if g.site is not None}
        for other in self.storages.get(written.untyped_storage()._cdata, ()) if known else ():
            old = self.labels[id(other)]
            if other is not written and old.kind == "activation" and not old.uniform:
                axes = [lab.with_sites(axis, known) for axis in old.axes]
                self.labels[id(other)] = old.with_axes(axes)

    def _give_up(self, reason: str, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        for tensor in inputs:
            self.fix(self.label(tensor).axes, reason)
        for tensor in outputs:
            if id(tensor) not in {id(t) for t in inputs}:
                self.set(tensor, Label(lab.new_axes(tensor.shape, reason), "activation"))

    def _exchanged(self, tensor: Tensor) -> None:
        """A tensor's memory is now another one."""
        old = self.labels.pop(id(tensor), None)
        if old is not None:
            self.fix(old.axes, "its memory is exchanged")
        self._adopt(tensor)

    def _is_uniform(self, tensor: Tensor) -> bool:
        known = self.labels.get(id(tensor))
        return known is not None and known.uniform

    def _constant(self, tensor: Tensor) -> None:
        """Label a tensor whose elements are all alike, unless it is known to be written to."""
        if id(tensor) in self.labels:
            return
        storage = tensor.untyped_storage()._cdata
        number = self.constants.setdefault(storage, len(self.constants))
        if number in self.hints.mutated:
            self.set(tensor, Label(lab.new_axes(tensor.shape), "activation"))
        else:
            self.set(tensor, Label((), "constant", uniform=True))

    def _seeded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the model itself may have seeded what it draws now: then it is no noise."""
        own = any(isinstance(x, torch.Generator) for x in (*args, *kwargs.values()))
        return own or torch.default_generator.initial_seed() != self.seed

    def _noise(self, name: str, outputs: list[Tensor], inputs: list[Tensor], seeded: bool) -> None:
        """Label random numbers; in the other mode, no index of independent ones is special.

        In the mode that the model is traced in, the same numbers drawn have the same effect. Of the
        other one it is enough that it does the same on average, as with dropout, unless the model
        seeds them itself: then they are constants.
        """
        if self.other_mode and name in ALIKE and not seeded:
            for tensor in outputs:
                self.set(tensor, Label(lab.new_axes(tensor.shape), "constant"))
            return
        reason = f"random numbers of {name}"
        for tensor in inputs:
            known = self.labels.get(id(tensor))
            if known is not None and not known.uniform:
                self.fix(known.axes, reason)
        for tensor in outputs:
            self.set(tensor, Label(lab.new_axes(tensor.shape, reason), "constant"))

    def _note_mutation(self, func: Any, args: Any, kwargs: Any) -> None:
        """Remember which constants an operator writes to."""
        named = zip(func._schema.arguments, args, strict=False)
        values = [value for argument, value in named if argument.is_write]
        values += [kwargs.get(a.name) for a in func._schema.arguments if a.is_write]
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()._cdata
            if storage in self.buffer_uses.homes:
                self.buffer_uses.written.add(self.buffer_uses.homes[storage])
            number = self.constants.get(storage)
            if number is not None:
                self.mutated.add(number)


def is_pointwise(func: Any, name: str) -> bool:
    """Whether an operator acts on each element alone."""
    if name in NOT_POINTWISE:
        return False
    return torch.Tag.pointwise in func.tags or name in POINTWISE or name.rstrip("_") in POINTWISE


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
