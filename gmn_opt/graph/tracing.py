"""Follow one forward pass operator by operator, and label every axis of every tensor.

A ``TorchDispatchMode`` sees each ATen operator of the pass with real tensors. The rules in
``gmn_opt.graph.rules`` say how an operator relates the axes of its inputs and outputs; an operator
without a rule is pointwise if ATen tags it so, and otherwise has all its axes fixed. Nothing is
assumed about the modules of the model.

A first pass may find constants that are written to later (a buffer of zeros that is filled in
place); such a constant needs one lasting label, so the pass is repeated knowing it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gmn_opt.graph import index_sets as sets
from gmn_opt.graph import labels as lab
from gmn_opt.graph.flow import Flow, Op
from gmn_opt.graph.index_sets import Node
from gmn_opt.graph.labels import Axis, Leg, Site, SiteRef
from gmn_opt.graph.meetings import Meetings, SiteKey
from gmn_opt.graph.rules import RULES, NoRuleError
from gmn_opt.graph.rules.names import (
    FACTORIES,
    KEEPS_UNIFORM,
    NOT_POINTWISE,
    POINTWISE,
    RANDOM,
)
from gmn_opt.graph.siblings import Adoption
from gmn_opt.graph.uses import Label, Record

MAX_PACKED = 8
PackedKey = tuple[int, int, int]
Packed = dict[PackedKey, tuple[int, ...]]
"""Views that split packed parts off, by operator count and sizes, to the rows of each part; and
parameters that are stacks, by ``-1 - index``, dim and size, whose parts are read one by one."""
MAX_STACKED = 64


class Tracer(Meetings, TorchDispatchMode):
    """The dispatch mode that labels tensors. One instance follows one pass."""

    def __init__(self, mutated: set[int], packed: Packed) -> None:
        super().__init__()
        self.labels: dict[int, Label] = {}
        self.kept: list[Tensor] = []
        self.storages: dict[int, list[Tensor]] = {}
        self.later: dict[int, tuple[tuple[Axis, ...], str]] = {}
        self.deferred: dict[int, Callable[[], Label]] = {}
        self.routes: dict[int, Axis] = {}
        self.packed = packed
        self.newly_packed: Packed = {}
        self.splits: dict[Node, PackedKey] = {}
        self.op_count = 0
        self.record = Record([])
        self.names: list[str] = []
        self.earlier: dict[SiteKey, Site] = {}
        self.made_in_pass: dict[SiteKey, Site] = {}
        self.made: Counter[tuple[str, str]] = Counter()
        self.unknown: set[str] = set()
        self.mutated = mutated
        self.newly_mutated: set[int] = set()
        self.constants: dict[int, int] = {}
        self.created = 0
        self.op = ""
        self.before: tuple[tuple[int, ...], int] = (), 0
        self.work = 0
        self.random = False
        self.adoptions: list[Adoption] = []
        self.leaked = False
        self.parameter_ids: dict[int, int] = {}
        self.touched: set[int] = set()
        self.output_labels: list[Label] = []
        self.flow = Flow(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare the first trace of a process the import of the compiler, over a second."""
        return False

    # ------------------------------------------------------------------ labels of tensors

    def add_parameter(self, name: str, tensor: Tensor) -> None:
        """Give a parameter a fresh, free index set per dim."""
        index = len(self.names)
        nodes = [Node(size) for size in tensor.shape]
        stacks = (n for d, n in enumerate(nodes) if (-1 - index, d, n.size) in self.packed)
        over = next(stacks, None)
        for node in nodes:
            if over is not None and node is not over and node.size > 1:
                node.members = tuple(Node(node.size) for _ in range(over.size))
                node.over = over
        axes = tuple((Leg(n, None, ((index, dim, 0),)),) for dim, n in enumerate(nodes))
        self.names.append(name)
        self.parameter_ids[id(tensor)] = index
        self.record.parameters.append(Label(axes, "parameter"))
        self.set(tensor, self.record.parameters[-1])
        self.flow.add_parameter(tensor, index)

    def next_pass(self) -> None:
        """Begin another forward pass of the same model; its sites are those of the first one."""
        self.earlier = {**self.made_in_pass, **self.earlier}
        self.made_in_pass, self.made = {}, Counter()

    def add_input(self, name: str, tensor: Tensor) -> None:
        """Label an input of the model."""
        site = self.earlier.get((name, "input", 0)) or Site(name, "input")
        self.made_in_pass[name, "input", 0] = site
        if site not in self.record.sites:
            self.record.sites.append(site)
        self.add_fixed(tensor, "model input", site)
        self.flow.add_input(tensor)

    def add_fixed(self, tensor: Tensor, reason: str, site: Site | None = None) -> None:
        """Label an input or a buffer, whose indices all mean something."""
        ref = SiteRef(site) if site else None
        axes = tuple((Leg(Node(size, reason), ref),) for size in tensor.shape)
        if site is not None and not site.axis:
            site.axis = tuple(leg for axis in axes for leg in axis)
        self.set(tensor, Label(axes, "activation" if site else "constant"))

    def add_statistic(self, tensor: Tensor) -> Label:
        """Label a running statistic, which follows its channels."""
        label = Label(tuple((Leg(Node(size)),) for size in tensor.shape), "constant")
        self.set(tensor, label)
        return label

    def set(self, tensor: Tensor, label: Label) -> None:
        """Attach a label to a tensor and keep the tensor alive, so that its id stays its own."""
        self.labels[id(tensor)] = label
        self.kept.append(tensor)
        with suppress(NotImplementedError, RuntimeError):
            self.storages.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)

    def label(self, tensor: Tensor) -> Label:
        """The label of an operator's input."""
        thunk = self.deferred.pop(id(tensor), None)
        if thunk is not None:
            made = thunk()
            self.see(made.axes)
            self.set(tensor, made)
        waiting = self.later.pop(id(tensor), None)
        if waiting is not None:
            self.fix(Label(waiting[0]), waiting[1])
        known = self.labels.get(id(tensor))
        if id(tensor) in self.parameter_ids:
            self.touched.add(self.parameter_ids[id(tensor)])
        if known is None:
            known = self._adopt(tensor)
        if known.uniform:
            return Label(tuple((Leg(Node(n)),) for n in tensor.shape), "constant")
        return known

    def relatives(self, tensor: Tensor) -> Sequence[Tensor]:
        """The tensors known to share a tensor's memory."""
        try:
            return self.storages.get(tensor.untyped_storage()._cdata, ())
        except (NotImplementedError, RuntimeError):
            return ()

    def differs(self, tensor: Tensor) -> bool:
        """Whether the elements of a constant differ."""
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return bool((tensor != tensor.flatten()[:1]).any())

    def _adopt(self, tensor: Tensor) -> Label:
        """Label a tensor that no traced operator made: an alias of a known one, or a constant."""
        try:
            relatives = self.storages.get(tensor.untyped_storage()._cdata, [])
        except (NotImplementedError, RuntimeError):
            relatives = []
        for other in relatives:
            same = other.shape == tensor.shape and other.stride() == tensor.stride()
            if same and other.storage_offset() == tensor.storage_offset():
                self.set(tensor, self.labels[id(other)])
                return self.labels[id(other)]
        for other in relatives:
            self.fix(self.labels[id(other)], "its memory is read outside of traced operators")
        self.add_fixed(tensor, "a constant of the model")
        return self.labels[id(tensor)]

    def fix(self, label: Label | Axis | Iterable[Axis], reason: str) -> None:
        """Fix every axis of a label."""
        axes = label.axes if isinstance(label, Label) else label
        for axis in axes:
            legs = axis if isinstance(axis, tuple) and not isinstance(axis, Leg) else (axis,)
            sets.fix((leg.node for leg in legs), reason)

    def fix_axis(self, axis: Axis, reason: str) -> None:
        """Fix one axis."""
        sets.fix(lab.nodes_of(axis), reason)

    def hidden(self, axes: Sequence[Axis]) -> None:
        """Remember a statistic that exists only inside of an operator (a softmax's sum)."""
        self.see(tuple(axes))

    def see(self, axes: tuple[Axis, ...]) -> None:
        """Remember which index sets occur together; families without their index collapse."""
        roots = [leg.node for axis in axes for leg in lab.expand_axis(axis)]
        for root in roots:
            if root.members is not None and root.over is not None:
                over = sets.find(root.over)
                if not any(other is over for other in roots):
                    sets.collapse(root)
        self.record.seen.append(axes)

    def split_off(self, node: Node, outer: int) -> tuple[Node, Node] | None:
        """Split a node by a view; packed parts that are taken one by one become a family."""
        root = sets.find(node)
        if root.segments is not None or root.members is not None or root.fixed is not None:
            return sets.split(node, outer)
        number = (self.op_count, root.size, outer)
        if number in self.packed:
            return sets.make_family(node, self.packed[number])
        halves = sets.split(node, outer)
        if halves is not None:
            self.splits[halves[0]] = number
        return halves

    def selected(self, axis: Axis) -> None:
        """Note that single indices of an axis are read."""
        for leg in axis:
            for node, number in self.splits.items():
                if number[2] <= MAX_PACKED and sets.find(node) is sets.find(leg.node):
                    self.newly_packed[number] = (1,) * number[2]

    def read_alone(self, axis: Axis) -> None:
        """Note that a stack of parameters is read part by part."""
        for leg in axis:
            for index, dim, _ in leg.origins:
                axes = self.record.parameters[index].axes
                whole = lab.expand_axis(axes[dim])
                small = len(axes) > 1 and leg.node.size <= MAX_STACKED
                if small and [g.node for g in whole] == [sets.find(leg.node)]:
                    self.newly_packed[-1 - index, dim, leg.node.size] = (1,) * leg.node.size

    def finish(self) -> None:
        """Note which views turned out to split parts off that are cut apart later."""
        self.flow.finish()
        for node, number in self.splits.items():
            root = sets.find(node)
            if root.segments is not None and number not in self.newly_packed:
                counts = tuple(sets.size_of(part) for part in sets.flat_segments(root))
                if 1 < len(counts) <= MAX_PACKED:
                    self.newly_packed[number] = counts

    # ------------------------------------------------------------------ the mode itself

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        composite = func.namespace == "aten" and func._can_decompose()
        if composite and name not in RULES and not is_pointwise(func, name):
            with self:
                composed = func.decompose(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        if name == "as_strided_":
            self.before = args[0].stride(), args[0].storage_offset()
        out = func(*args, **kwargs)
        self.op = name
        self.op_count += 1
        known = len(self.record.uses)
        self._follow(func, name, out, args, kwargs)
        inputs, outputs = [*_tensors(args), *_tensors(kwargs)], list(_tensors(out))
        uses = range(known, len(self.record.uses))
        self.flow.follow(Op(name, args, kwargs, inputs, outputs, uses), func._schema.is_mutable)
        return out

    def _follow(self, func: Any, name: str, out: Any, args: Any, kwargs: Any) -> None:
        outputs = list(_tensors(out))
        if not outputs:
            self._leaves_the_graph(name, args, kwargs)
            return
        self.work += sum(t.numel() for t in outputs)
        inputs = [*_tensors(args), *_tensors(kwargs)]
        self._note_mutation(func, args, kwargs)
        if name in FACTORIES:
            for tensor in outputs:
                self._constant(tensor)
            return
        if name in RANDOM:
            self._noise(name, outputs, inputs)
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
            self.deferred[id(outputs[0])] = made
            self.kept.append(outputs[0])
            return
        found = [made] if isinstance(made, Label) else list(made)
        if len(found) < len(outputs):
            raise NoRuleError(f"{self.op}: more outputs than its rule labels")
        known = {id(t) for t in inputs}
        for tensor, label in zip(outputs, found, strict=False):
            if not label.uniform:
                sizes = tuple(sets.size_of(lab.nodes_of(a)) for a in label.axes)
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
        known = {g.node: g for a in label.axes for g in lab.expand_axis(a) if g.site is not None}
        for other in self.storages.get(written.untyped_storage()._cdata, ()) if known else ():
            old = self.labels[id(other)]
            if other is not written and old.kind == "activation" and not old.uniform:
                axes = [lab.with_sites(axis, known) for axis in old.axes]
                self.labels[id(other)] = old.with_axes(axes)

    def _give_up(self, reason: str, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        self.unknown.add(reason)
        for tensor in inputs:
            self.fix(self.label(tensor), reason)
        for tensor in outputs:
            if id(tensor) not in {id(t) for t in inputs}:
                axes = tuple((Leg(Node(size, reason)),) for size in tensor.shape)
                self.set(tensor, Label(axes, "activation"))

    def _leaves_the_graph(self, name: str, args: Any, kwargs: Any) -> None:
        for tensor in [*_tensors(args), *_tensors(kwargs)]:
            self.leak(tensor, name)

    def leak(self, tensor: Tensor, name: str) -> None:
        """The numbers of a tensor become Python's: what is done with them cannot be followed."""
        label = self.label(tensor)
        self.leaked |= label.kind == "activation"
        self.fix(label, f"its values leave the graph in {name}")

    def _is_uniform(self, tensor: Tensor) -> bool:
        known = self.labels.get(id(tensor))
        return known is not None and known.uniform

    def _constant(self, tensor: Tensor) -> None:
        """Label a tensor whose elements are all alike, unless it is known to be written to."""
        if id(tensor) in self.labels:
            return
        storage = tensor.untyped_storage()._cdata
        number = self.constants.get(storage)
        if number is None:
            number = self.created
            self.created += 1
            self.constants[storage] = number
        if number in self.mutated:
            axes = tuple((Leg(Node(n)),) for n in tensor.shape)
            self.set(tensor, Label(axes, "activation"))
        else:
            self.set(tensor, Label((), "constant", uniform=True))

    def _noise(self, name: str, outputs: list[Tensor], inputs: list[Tensor]) -> None:
        self.random = True
        for tensor in inputs:
            known = self.labels.get(id(tensor))
            if known is not None and not known.uniform:
                self.fix(known, f"random numbers of {name}")
        for tensor in outputs:
            axes = tuple((Leg(Node(size, f"random numbers of {name}")),) for size in tensor.shape)
            self.set(tensor, Label(axes, "constant"))

    def _note_mutation(self, func: Any, args: Any, kwargs: Any) -> None:
        if not func._schema.is_mutable:
            return
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write:
                self._mutates(value)
        for argument in func._schema.arguments:
            if argument.is_write and argument.name in kwargs:
                self._mutates(kwargs[argument.name])

    def _mutates(self, value: Any) -> None:
        for tensor in _tensors(value):
            number = self.constants.get(tensor.untyped_storage()._cdata)
            if number is not None:
                self.newly_mutated.add(number)


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
