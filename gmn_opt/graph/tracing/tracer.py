"""The labels of all tensors of a traced pass: what the rules read, make equal and fix.

Constants that are written to later (a buffer of zeros that is filled in place) need one lasting
label, and packed or stacked parameters a family; a first pass finds them, a second one knows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from gmn_opt.graph.memory import version_of
from gmn_opt.graph.tracing import index_sets as sets
from gmn_opt.graph.tracing import labels as lab
from gmn_opt.graph.tracing.buffers import Buffer, BufferUses
from gmn_opt.graph.tracing.index_sets import IndexSet
from gmn_opt.graph.tracing.labels import Axis, Label, Leg, Site, SiteRef
from gmn_opt.graph.tracing.meetings import Meetings
from gmn_opt.graph.tracing.table import NoRuleError

UNSEEN = (
    "a tensor comes from out of sight of the trace: from another thread, a copy of raw memory, or "
    "a global of another module (register constants as buffers)"
)
NO_STORAGE = -1
SEED = 8_030_422_871
"""Nobody's own choice, so that a model that seeds the generator in its forward is noticed."""
MAX_PACKED = 8
MAX_STACKED = 64
PackedKey = tuple[int, int, int]
Deferred = tuple[Callable[[], Label], list[Tensor], tuple[int, ...]]
"""A rule that waits until its output is read, its inputs, and the shape of the output it made."""


class Hints(NamedTuple):
    """What earlier passes found out.

    Attributes:
        mutated: Numbers of the constants that are written to.
        packed: Views that split packed parts off, by operator count and sizes, to the rows of each
            part; and parameters that are stacks, by ``-1 - index``, dim and size, whose parts are
            read one by one.
    """

    mutated: frozenset[int] = frozenset()
    packed: dict[PackedKey, tuple[int, ...]] = {}  # noqa: RUF012 - never written to


def storage_of(tensor: Tensor) -> int:
    """A number for the memory behind a tensor; ``NO_STORAGE`` where there is none to be had."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return NO_STORAGE


class Tracer(Meetings):
    """Knows the label of every tensor. One instance follows all passes on one model."""

    def __init__(self, hints: Hints) -> None:
        super().__init__()
        self.hints = hints
        self.mutated: set[int] = set()
        self.packed: dict[PackedKey, tuple[int, ...]] = {}
        self.labels: dict[int, Label] = {}
        self.kept: list[Tensor] = []
        self.storages: dict[int, list[Tensor]] = {}
        self.later: dict[int, tuple[tuple[Axis, ...], str]] = {}
        self.deferred: dict[int, Deferred] = {}
        self.routes: dict[int, Axis] = {}
        self.splits: dict[IndexSet, PackedKey] = {}
        self.op_count = 0
        self.before: tuple[tuple[int, ...], int] = (), 0
        self.work = 0
        self.leaked = False
        self.parameter_ids: dict[int, int] = {}
        self.versions: dict[int, tuple[int, ...]] = {}
        self.constant_storages: set[int] = set()
        self.busy = False
        self.silent = False
        self.other_mode = False
        self.seed = SEED
        self.buffers: list[tuple[Buffer, Label]] = []
        self.buffer_uses = BufferUses()
        self.families: dict[IndexSet, tuple[int, tuple[IndexSet, IndexSet]]] = {}

    # ------------------------------------------------------------------ what a pass starts from

    def add_parameter(self, name: str, tensor: Tensor) -> None:
        """Give a parameter a fresh, free index set per dim."""
        index = len(self.record.names)
        own = [IndexSet(size) for size in tensor.shape]
        stacks = (s for d, s in enumerate(own) if (-1 - index, d, s.size) in self.hints.packed)
        over = next(stacks, None)
        for one in own:
            if over is not None and one is not over and one.size > 1:
                one.members = tuple(IndexSet(one.size) for _ in range(over.size))
                one.over = over
        axes = tuple((Leg(s, None, ((index, dim, 0),)),) for dim, s in enumerate(own))
        self.record.names.append(name)
        self.parameter_ids[id(tensor)] = index
        self.buffer_uses.own.add(id(tensor))
        self.record.parameters.append(Label(axes, "parameter"))
        self.set(tensor, self.record.parameters[-1])

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
        self.buffer_uses.fed.add(id(tensor))
        self.add_fixed(tensor, "model input", site)

    def add_fixed(self, tensor: Tensor, reason: str, site: Site | None = None) -> None:
        """Label an input or a buffer, whose indices all mean something."""
        axes = lab.new_axes(tensor.shape, reason, SiteRef(site) if site else None)
        if site is not None and not site.axis:
            site.axis = tuple(leg for axis in axes for leg in axis)
        self.set(tensor, Label(axes, "activation" if site else "constant"))

    def add_buffer(self, buffer: Buffer) -> None:
        """Label a buffer. Whether it moves is known only when all is read."""
        tensor = buffer.tensor
        free = range(tensor.dim()) if buffer.saved else buffer.alike
        reasons = (None if d in free else "a buffer of the model" for d in range(tensor.dim()))
        axes = (lab.new_axis(n, why) for n, why in zip(tensor.shape, reasons, strict=True))
        label = Label(tuple(axes), "constant")
        self.buffers.append((buffer, label))
        self.buffer_uses.add(buffer.name, tensor, storage_of(tensor))
        self.set(tensor, label)

    def _settle_buffers(self) -> None:
        """Fix what is a constant; what is not, or is all alike, a symmetry moves."""
        for buffer, label in self.buffers:
            lost = buffer.name in self.buffer_uses.written and not buffer.saved
            if not self.buffer_uses.moves(buffer):
                axes = (a for d, a in enumerate(label.axes) if lost or d not in buffer.alike)
                self.fix(axes, "a buffer that is written to" if lost else "a buffer of the model")
            leaves = [g.set for axis in label.axes for g in lab.expand_axis(axis)]
            if any(one.fixed is None and one.size > 1 for one in leaves):
                self.record.statistics[buffer.name] = label
                if self.buffer_uses.moves(buffer):
                    self.record.moving.append(buffer.name)

    def add_statistic(self, name: str, tensor: Tensor) -> None:
        """Label a running statistic, which follows its channels."""
        self.record.statistics[name] = Label(lab.new_axes(tensor.shape), "constant")
        self.set(tensor, self.record.statistics[name])

    # ------------------------------------------------------------------ labels of tensors

    def set(self, tensor: Tensor, label: Label) -> None:
        """Attach a label to a tensor and keep the tensor alive, so that its id stays its own."""
        self.labels[id(tensor)] = label
        self.kept.append(tensor)
        self.versions[id(tensor)] = (version_of(tensor),)
        storage = storage_of(tensor)
        if storage != NO_STORAGE:
            self.storages.setdefault(storage, []).append(tensor)

    def label(self, tensor: Tensor) -> Label:
        """The label of an operator's input."""
        waited = self.deferred.pop(id(tensor), None)
        if waited is not None:
            made = self._late(*waited)
            self.see(made.axes)
            self.set(tensor, made)
        waiting = self.later.pop(id(tensor), None)
        if waiting is not None:
            self.fix(*waiting)
        known = self.labels.get(id(tensor))
        if id(tensor) in self.parameter_ids:
            self.record.touched.add(self.parameter_ids[id(tensor)])
        if known is None:
            known = self._adopt(tensor)
        return Label(lab.new_axes(tensor.shape), "constant") if known.uniform else known

    def _late(
        self, rule: Callable[[], Label], inputs: list[Tensor], shape: tuple[int, ...]
    ) -> Label:
        """What a rule says that waited until its output is read; it may fail like any other.

        The output may have another shape by now: an operator such as ``transpose_`` reads it.
        """
        try:
            made = rule()
            if tuple(map(lab.axis_size, made.axes)) == shape:
                return made
            reason = f"{self.op}: an unforeseen output shape"
        except (NoRuleError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__} in the rule of a joining operator"
        for other in inputs:
            self.fix(self.label(other).axes, reason)
        return Label(lab.new_axes(shape, reason), "activation")

    def activation(self, tensor: Tensor) -> Label:
        """The label of an operator's input, which becomes activations if it is of parameters."""
        return self.materialize(self.label(tensor))

    def relatives(self, tensor: Tensor) -> Sequence[Tensor]:
        """The tensors known to share a tensor's memory."""
        return self.storages.get(storage_of(tensor), ())

    def _adopt(self, tensor: Tensor) -> Label:
        """Label a tensor that no traced operator made: an alias of a known one, or a constant."""
        relatives = self.relatives(tensor)
        for other in relatives:
            same = other.shape == tensor.shape and other.stride() == tensor.stride()
            if same and other.storage_offset() == tensor.storage_offset():
                self.set(tensor, self.labels[id(other)])
                if id(other) in self.parameter_ids:
                    self.parameter_ids[id(tensor)] = self.parameter_ids[id(other)]
                    self.record.touched.add(self.parameter_ids[id(other)])
                return self.labels[id(other)]
        for other in relatives:
            self.fix(self.labels[id(other)].axes, "its memory is read outside of traced operators")
        if not relatives and storage_of(tensor) not in self.constant_storages:
            self.lose(UNSEEN)
        self.add_fixed(tensor, "a constant of the model")
        return self.labels[id(tensor)]

    def lose(self, reason: str) -> None:
        """Fix all that exists: something was done with an unknown part of it."""
        for label in (*self.record.parameters, *self.record.statistics.values()):
            self.fix(label.axes, reason)
        for label in list(self.labels.values()):
            self.fix(label.axes, reason)

    def add_constants(self, tensors: Iterable[Tensor]) -> None:
        """Make known which tensors exist before the pass; keep them alive."""
        for tensor in tensors:
            self.kept.append(tensor)
            self.constant_storages.add(storage_of(tensor))
            self.versions[id(tensor)] = (version_of(tensor),)

    def check_versions(self, tensors: Iterable[Tensor]) -> None:
        """Look whether known tensors were written to without an operator being seen."""
        for tensor in tensors:
            known, now = self.versions.get(id(tensor)), version_of(tensor)
            if known is not None and now not in known:
                self.lose("memory is written to out of sight of the trace")
                self.versions[id(tensor)] = (now,)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Look at tensors without being traced."""
        was = self.busy, self.silent
        self.busy = self.silent = True
        try:
            yield
        finally:
            self.busy, self.silent = was

    def note_versions(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], writes: bool
    ) -> None:
        """Remember how often known tensors have been written to."""
        for tensor in outputs:
            if id(tensor) in self.labels:
                # A view takes the counter of what it is a view of once the operator is done.
                views = (version_of(t) for t in inputs if storage_of(t) == storage_of(tensor))
                self.versions[id(tensor)] = (version_of(tensor), *views)
        if writes:
            for tensor in (*inputs, *outputs):
                for other in (tensor, *self.relatives(tensor)):
                    # Autograd counts a write once the operator is done, if it was called by it.
                    count = version_of(other)
                    self.versions[id(other)] = (count, count + 1, *self.versions.get(id(other), ()))

    def leak(self, tensor: Tensor, name: str) -> None:
        """The numbers of a tensor become Python's: what is done with them cannot be followed."""
        label = self.label(tensor)
        self.leaked |= label.kind == "activation"
        self.fix(label.axes, f"its values leave the graph in {name}")

    # ------------------------------------------------------------------ what rules say of axes

    def fix(self, axes: Iterable[Axis], reason: str) -> None:
        """Fix some axes."""
        for axis in axes:
            self.fix_axis(axis, reason)

    def fix_axis(self, axis: Axis, reason: str) -> None:
        """Fix one axis."""
        sets.fix(lab.sets_of(axis), reason)

    def see(self, axes: Sequence[Axis]) -> None:
        """Remember which index sets occur together; families without their index collapse."""
        roots = [leg.set for axis in axes for leg in lab.expand_axis(axis)]
        for root in roots:
            if root.members is not None and root.over is not None:
                over = sets.find(root.over)
                if not any(other is over for other in roots):
                    sets.collapse(root)
        self.record.seen.append(tuple(axes))

    def hidden(self, axes: Sequence[Axis]) -> None:
        """Remember a statistic that exists only inside of an operator (a softmax's sum)."""
        self.see(axes)

    def split_off(self, one: IndexSet, outer: int) -> tuple[IndexSet, IndexSet] | None:
        """Split a set by a view; packed parts that are taken one by one become a family.

        A later pass that splits the same set in the same way gets the same family.
        """
        root = sets.find(one)
        known = self.families.get(root)
        if known is not None and known[0] == outer and root.fixed is None:
            return known[1]
        parts = sets.flat_segments(root)
        packed = 1 < len(parts) == outer <= MAX_PACKED
        if (parts and not packed) or root.members is not None or root.fixed is not None:
            return sets.split(one, outer)
        number = (self.op_count, root.size, outer)
        if number in self.hints.packed:
            family = sets.make_family(one, self.hints.packed[number])
            if family is not None:
                self.families[root] = outer, family
            return family
        halves = sets.split(one, outer)
        if halves is not None:
            self.splits[halves[0]] = number
        return halves

    def selected(self, axis: Axis) -> None:
        """Note that single indices of an axis are read."""
        for leg in axis:
            for one, number in self.splits.items():
                if number[2] <= MAX_PACKED and sets.find(one) is sets.find(leg.set):
                    self.packed[number] = (1,) * number[2]

    def read_alone(self, axis: Axis) -> None:
        """Note that a stack of parameters is read part by part."""
        for leg in axis:
            for index, dim, _ in leg.origins:
                axes = self.record.parameters[index].axes
                whole = lab.expand_axis(axes[dim])
                small = len(axes) > 1 and leg.set.size <= MAX_STACKED
                if small and [g.set for g in whole] == [sets.find(leg.set)]:
                    self.packed[-1 - index, dim, leg.set.size] = (1,) * leg.set.size

    def finish(self) -> None:
        """Decide about buffers; note which views split parts off that are cut apart later."""
        self._settle_buffers()
        for one, number in self.splits.items():
            root = sets.find(one)
            if root.segments is not None and number not in self.packed:
                counts = tuple(sets.size_of(part) for part in sets.flat_segments(root))
                if 1 < len(counts) <= MAX_PACKED:
                    self.packed[number] = counts

    def learned(self) -> Hints:
        """The hints for another pass; the same as before if nothing new was found."""
        return Hints(self.hints.mutated | self.mutated, self.packed | self.hints.packed)
